"""Cursors: of one list only, and whatever else is sent as one is refused."""

import base64
import json

import pytest

from dispatcher.errors import InvalidField
from dispatcher.service import endpoints, events, keys
from tests.service.scene import Scene


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "!!!!",
        "é",
        "\ud800",
        "AAAA",
        encoded([]),
        encoded({}),
        encoded(7),
        encoded(["events"]),
        encoded(["events", "1"]),
        encoded(["events", -1]),
        encoded(["events", 1 << 63]),
        encoded(["events", 1.5]),
        encoded(["events", None]),
        encoded(["events", 1, 2]),
        encoded(["keys", 1]),
        base64.urlsafe_b64encode(b"[" * 5000).decode(),
    ],
)
async def test_what_is_no_cursor_of_this_list_is_refused(sqlite_scene: Scene, cursor: str) -> None:
    with pytest.raises(InvalidField, match="cursor"):
        await events.list_page(sqlite_scene.deployment, tenant=None, cursor=cursor)


async def test_a_cursor_beyond_all_time_is_refused(sqlite_scene: Scene) -> None:
    with pytest.raises(InvalidField, match="cursor"):
        await endpoints.list_page(sqlite_scene.deployment, tenant=None, cursor=encoded(["endpoints", (1 << 63) - 1, 1]))


@pytest.mark.parametrize("limit", [0, -1, 201])
async def test_a_page_has_one_to_two_hundred_rows(sqlite_scene: Scene, limit: int) -> None:
    with pytest.raises(InvalidField, match="limit"):
        await keys.list_page(sqlite_scene.deployment, limit=limit)

"""Bad bodies times routes: always a documented 4xx, never a 500, and nothing is stored."""

import gzip
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select

from dispatcher.api.route import Route
from dispatcher.api.table import ROUTES
from tests.api.client import Api

WITH_BODY = [route for route in ROUTES if route.body is not None]
PLAIN_JSON = [route for route in WITH_BODY if not route.path.startswith("/v1/events")]

UNREADABLE = {
    "not JSON": b"hello",
    "cut off": b'{"url": "https://exa',
    "not UTF-8": b'{"url": "\xff\xfe"}',
    "NaN": b'{"timeout_s": NaN, "data": NaN}',
    "Infinity": b'{"timeout_s": Infinity, "data": Infinity}',
    "lone surrogate": b'{"description": "\\ud800", "data": "\\ud800"}',
    "nested deeply": b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "control character": b'{"description": "a\x00b", "data": "a\x00b"}',
    "byte order mark": b'\xef\xbb\xbf{"url": "https://example.com"}',
    "two documents": b"{}{}",
    "single quotes": b"{'url': 'https://example.com'}",
    "white space only": b"  \n ",
    "UTF-16": '{"url": "https://example.com"}'.encode("utf-16"),
}
REFUSED = {
    "a list": b"[]",
    "a text": b'"text"',
    "null": b"null",
    "a number": b"12",
    "an unknown field": b'{"no_such_field": 1}',
    "a number out of range": b'{"no_such_field": 1e999}',
    "a number of 5,000 digits": b'{"no_such_field": ' + b"9" * 5000 + b"}",
    "many fields": b"{" + b",".join(b'"field%d":1' % number for number in range(5000)) + b"}",
}


def path_of(route: Route) -> str:
    return route.path.replace("{id}", "ep_0000000000000").replace("{job_id}", "job_1").replace("{tenant}", "acme")


async def rows(api: Api) -> int:
    database = api.deployment.database
    async with database.read() as connection:
        counts = [
            await connection.scalar(select(func.count()).select_from(table))
            for table in (database.tables.endpoints, database.tables.events, database.tables.api_keys)
        ]
    return sum(count or 0 for count in counts)


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_body_is_a_400_on_every_route(api: Api, name: str) -> None:
    for route in WITH_BODY:
        answered = await api.send(route.method, path_of(route), raw=UNREADABLE[name])
        assert (answered.status, answered.problem) == (400, "unreadable-body"), (route.path, answered)
    assert await rows(api) == 0


@pytest.mark.parametrize("name", REFUSED)
async def test_a_body_of_the_wrong_shape_is_a_422_on_every_route(api: Api, name: str) -> None:
    for route in WITH_BODY:
        answered = await api.send(route.method, path_of(route), raw=REFUSED[name])
        assert (answered.status, answered.problem) == (422, "invalid-field"), (route.path, answered)
        assert answered.pointers, route.path
    assert await rows(api) == 0


async def test_an_unknown_field_is_named(api: Api) -> None:
    for route in WITH_BODY:
        answered = await api.send(route.method, path_of(route), raw=b'{"no_such_field": 1}')
        assert "#/no_such_field" in answered.pointers, route.path
        assert {error["in"] for error in answered.json["errors"]} == {"body"}


async def test_every_wrong_field_is_told_at_once(api: Api) -> None:
    answered = await api.post("/v1/endpoints", {"url": "https://example.com", "timeout_s": 0, "ordered": "yes"})
    assert answered.status == 422
    assert sorted(answered.pointers) == ["#/ordered", "#/timeout_s"]


async def test_an_answer_names_no_more_fields_than_somebody_reads(api: Api) -> None:
    answered = await api.post("/v1/endpoints", {f"field{number}": 1 for number in range(1000)})
    assert len(answered.pointers) == 50
    assert answered.json["detail"].endswith("more")


async def test_types_are_not_guessed(api: Api) -> None:
    answered = await api.post("/v1/endpoints", {"url": "https://example.com", "max_in_flight": "5"})
    assert answered.pointers == ["#/max_in_flight"]


async def test_a_field_of_a_route_that_takes_none_is_named(api: Api) -> None:
    answered = await api.post("/v1/endpoints/ep_0000000000000/pause", {"until": "tomorrow"})
    assert (answered.status, answered.pointers) == (422, ["#/until"])


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "nonsense", ""],
)
async def test_a_body_that_is_not_declared_as_json_is_a_415(api: Api, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with api.session.post(
        f"{api.base}/v1/events",
        data=b'{"type": "a.b", "data": 1}',
        headers={"Authorization": f"Bearer {api.key}", **headers},
        skip_auto_headers=["Content-Type"],
    ) as response:
        assert (response.status, (await response.json())["type"]) == (415, "/docs#problem-content-type")
    assert await rows(api) == 0


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=UTF-8", "Application/JSON"])
async def test_json_may_say_that_it_is_utf_8(api: Api, content_type: str) -> None:
    answered = await api.send(
        "POST", "/v1/events", raw=b'{"type": "a.b", "data": 1}', headers={"Content-Type": content_type}
    )
    assert answered.status == 202


async def test_a_compressed_body_is_a_415(api: Api) -> None:
    body = gzip.compress(b'{"type": "a.b", "data": "' + b"x" * 10_000_000 + b'"}')
    answered = await api.send("POST", "/v1/events", raw=body, headers={"Content-Encoding": "gzip"})
    assert answered.status == 415


async def test_an_empty_body_is_a_400_where_a_field_is_required(api: Api) -> None:
    answered = await api.send("POST", "/v1/events", raw=b"")
    assert (answered.status, answered.problem) == (400, "unreadable-body")


@pytest.mark.parametrize(
    ("path", "size"), [("/v1/endpoints", 1024 * 1024 + 1), ("/v1/events", 512 * 1024), ("/v1/events/batch", 2**24 + 1)]
)
async def test_a_body_over_the_limit_is_a_413(api: Api, path: str, size: int) -> None:
    answered = await api.send("POST", path, raw=b" " * size)
    assert (answered.status, answered.problem) == (413, "too-large")


async def test_a_body_over_the_limit_that_does_not_tell_its_length_is_a_413(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    async with api.session.post(
        f"{api.base}/v1/endpoints",
        data=chunks(),
        headers={"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"},
    ) as response:
        assert response.status == 413


async def test_data_over_the_payload_limit_is_a_413_that_names_it(api: Api) -> None:
    large = {"type": "a.b", "data": "x" * 262_144}
    answered = await api.post("/v1/events", large)
    assert (answered.status, answered.problem, answered.pointers) == (413, "too-large", ["#/data"])
    batch = await api.post("/v1/events/batch", {"events": [{"type": "a.b", "data": 1}, large]})
    assert (batch.status, batch.pointers) == (413, ["#/events/1/data"])
    assert await rows(api) == 0

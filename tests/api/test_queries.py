"""Query parameters: typed, and refused by name."""

import pytest

from dispatcher.api.queries import PageQuery
from dispatcher.api.table import ROUTES
from tests.api.client import Api

LISTS = [route.path for route in ROUTES if issubclass(route.query, PageQuery)]
WRONG = [
    "limit=0",
    "limit=201",
    "limit=-1",
    "limit=x",
    "limit=",
    "limit=1e3",
    "limit=99999999999999999999",
    "limit=5.5",
]
CURSORS = [
    "x",
    "%00",
    "e30",
    "bnVsbA",
    "W10",
    "eyJyIjoxfQ",
    "a" * 2000,
    "%ff",
    "%F0%9F%98%80",
    "WzEsMiwzXQ==",
    "MWU5OTk",
]


@pytest.mark.parametrize("path", LISTS)
async def test_a_wrong_limit_is_a_422_that_names_it(api: Api, path: str) -> None:
    for query in WRONG:
        answered = await api.get(f"{path}?{query}")
        assert (answered.status, answered.pointers) == (422, ["#/limit"]), query
        assert answered.json["errors"][0]["in"] == "query"


@pytest.mark.parametrize("path", LISTS)
async def test_a_cursor_that_no_page_gave_is_a_422_that_names_it(api: Api, path: str) -> None:
    for cursor in CURSORS:
        answered = await api.get(f"{path}?cursor={cursor}")
        assert (answered.status, answered.pointers) == (422, ["#/cursor"]), cursor


async def test_an_unknown_parameter_is_named_with_those_there_are(api: Api) -> None:
    for route in ROUTES:
        if route.method == "GET" and "{" not in route.path:
            answered = await api.get(f"{route.path}?colour=red")
            assert (answered.status, answered.pointers) == (422, ["#/colour"]), route.path
    answered = await api.get("/v1/events?colour=red")
    assert "known are: tenant, limit, cursor, type, job_id, since, until" in answered.json["detail"]


async def test_a_parameter_that_is_given_twice_is_named(api: Api) -> None:
    answered = await api.get("/v1/events?limit=1&limit=2")
    assert (answered.status, answered.pointers) == (422, ["#/limit"])


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=2026-01-01",
        "since=2026-01-01T00:00:00",
        "since=2026-01-01T00:00:00+00:00",
        "since=0001-01-01T00:00:00%2B23:59",
        "since=9999-12-31T23:59:59-23:59",
        "since=1767225600",
        "since=%00",
    ],
)
async def test_a_time_that_is_none_is_a_422_that_names_it(api: Api, query: str) -> None:
    for path in ("/v1/events", "/v1/dead-letters"):
        answered = await api.get(f"{path}?{query}")
        assert (answered.status, answered.pointers) == (422, ["#/since"])


async def test_a_nul_or_control_character_in_any_parameter_is_a_422(api: Api) -> None:
    for route in ROUTES:
        for name in route.query.model_fields if route.method == "GET" and "{" not in route.path else ():
            answered = await api.get(f"{route.path}?{name}=a%00b")
            assert (answered.status, answered.pointers) == (422, [f"#/{name}"]), (route.path, name)


@pytest.mark.parametrize(
    "path", ["/v1/deliveries?state=lost", "/v1/dead-letters?reason=bored", "/v1/endpoints?status=on"]
)
async def test_a_word_outside_its_closed_set_is_a_422_that_lists_the_set(api: Api, path: str) -> None:
    answered = await api.get(path)
    assert answered.status == 422
    assert "should be" in answered.json["detail"]


async def test_times_with_an_offset_are_read(api: Api) -> None:
    assert (await api.get("/v1/events?since=2026-01-01T00:00:00Z&until=2036-01-01T02:00:00%2B02:00")).status == 200


async def test_nonsense_ids_in_filters_are_no_fault(api: Api) -> None:
    for path in ("/v1/deliveries?endpoint_id=x", "/v1/deliveries?event_id=x", "/v1/dead-letters?endpoint_id=ep_1"):
        assert (await api.get(path)).status in (200, 404, 422), path

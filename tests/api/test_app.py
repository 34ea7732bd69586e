"""What holds for every answer, whatever the route."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.api.table import ROUTES
from dispatcher.errors import StoreUnavailable
from dispatcher.service import events, stats
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from dispatcher.store.sqlite.connection import Connection
from dispatcher.store.sqlite.store import SqliteStore
from tests.api import rows
from tests.api.client import Api
from tests.api.conftest import running_api


async def test_an_unknown_path_is_a_404_problem(api: Api) -> None:
    for path in ("/", "/v1", "/v2/events", "/v1/events/", "/v1/endpoints/a/b/c", "/v1/%00", "/favicon.ico"):
        answered = await api.get(path)
        assert (answered.status, answered.problem) == (404, "not-found"), path


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_a_method_that_a_path_does_not_have_is_a_405_with_allow(api: Api, method: str) -> None:
    for path in {route.path for route in ROUTES}:
        has = {route.method for route in ROUTES if route.path == path}
        if method in has:
            continue
        answered = await api.send(method, path.replace("{id}", "x").replace("{job_id}", "x").replace("{tenant}", "x"))
        assert answered.status == 405, (path, answered)
        assert has <= set(answered.headers["Allow"].split(", "))


async def test_head_answers_what_get_does_without_a_body(api: Api) -> None:
    answered = await api.send("HEAD", "/v1/endpoints")
    assert (answered.status, answered.raw) == (200, b"")


async def test_every_answer_carries_the_security_headers(api: Api) -> None:
    for path in ("/v1/endpoints", "/v1/nothing", "/docs", "/healthz", "/v1/events?limit=0"):
        answered = await api.get(path)
        assert answered.headers["X-Content-Type-Options"] == "nosniff"
        assert answered.headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in answered.headers["Content-Security-Policy"]
        assert answered.headers["Server"] == "dispatcher"
    assert (await api.get("/v1/endpoints")).headers["Cache-Control"] == "no-store"


async def test_a_request_id_is_echoed_and_made_where_there_is_none(api: Api) -> None:
    echoed = await api.send("GET", "/healthz", headers={"X-Request-Id": "trace-1"})
    assert echoed.headers["X-Request-Id"] == "trace-1"
    first, second = await api.get("/v1/nothing"), await api.get("/healthz")
    assert len({first.headers["X-Request-Id"], second.headers["X-Request-Id"], ""}) == 3


async def test_a_request_id_is_in_the_problem_and_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "dispatcher")
    refused = await api.under("whk_nobodys-key").send("GET", "/v1/events", headers={"X-Request-Id": "trace-1"})
    unknown = await api.get("/v1/events/nothing")
    assert refused.json["request_id"] == "trace-1"
    assert unknown.json["request_id"] == unknown.headers["X-Request-Id"]
    lines = {record.getMessage() for record in caplog.records}
    assert {line for line in lines if line.startswith("api.refused") and "request_id=trace-1" in line}
    for request_id in ("trace-1", unknown.json["request_id"]):
        (answered,) = [line for line in lines if line.startswith("api.answered") and request_id in line]
        assert "method=GET route=/v1/events" in answered
    assert not any("nobodys-key" in line for line in lines)


@pytest.mark.parametrize("sent", ["a b", "x" * 129, "é", "<script>"])
async def test_a_request_id_that_is_none_is_replaced(api: Api, sent: str) -> None:
    answered = await api.send("GET", "/healthz", headers={"X-Request-Id": sent})
    assert answered.headers["X-Request-Id"] != sent


async def test_a_fault_of_ours_is_a_500_that_shows_nothing_and_is_logged_with_its_traceback(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("the inside of the service")

    monkeypatch.setattr(stats, "stats", broken)
    answered = await api.send("GET", "/v1/stats", headers={"X-Request-Id": "trace-1"})
    assert (answered.status, answered.problem) == (500, "internal")
    assert b"inside" not in answered.raw
    assert "trace-1" in answered.json["detail"]
    for logged in ("api.failed", "request_id=trace-1", "route=/v1/stats", "RuntimeError: the inside of the service"):
        assert logged in caplog.text


async def test_a_fault_in_the_database_is_logged_without_the_row_that_it_quotes(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = "what-an-event-says"

    async def refused(*arguments: object, **options: object) -> None:
        cause = sqlite3.IntegrityError(f"Failing row contains ({data})")
        raise IntegrityError("INSERT INTO events …", {"data": data}, cause) from cause

    monkeypatch.setattr(events, "publish", refused)
    answered = await api.post("/v1/events", {"type": "a.b", "data": data})
    assert answered.status == 500
    for logged in ("api.failed", "error=IntegrityError", "route=/v1/events", "in refused"):
        assert logged in caplog.text
    assert data not in caplog.text + answered.raw.decode()


async def test_a_database_that_does_not_answer_is_a_503_with_retry_after(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def unreachable(database: Database) -> AsyncIterator[AsyncConnection]:
        raise StoreUnavailable("the database did not answer; try again when it is back")
        yield

    monkeypatch.setattr(Database, "read", unreachable)
    monkeypatch.setattr(Database, "begin", unreachable)

    async def unanswered(store: SqliteStore, *given: object) -> None:
        raise StoreUnavailable("the database file cannot be used")

    monkeypatch.setattr(SqliteStore, "ingest", unanswered)
    for answered in (
        await api.get("/v1/endpoints"),
        await api.post("/v1/events", {"type": "a.b", "data": 1}),
        await api.under("whk_some-tenants-key").get("/v1/endpoints"),
    ):
        assert (answered.status, answered.problem) == (503, "unavailable")
        assert int(answered.headers["Retry-After"]) > 0


async def test_a_dispatcher_in_the_process_is_woken_once_an_event_is_committed(deployment: Deployment) -> None:
    woken: list[str] = []
    async with running_api(deployment, on_published=lambda: woken.append("now")) as api:
        await api.post("/v1/events", {"type": "nonsense type", "data": 1})
        assert woken == []
        await rows.event(api)
        assert woken == ["now"]
        await api.post("/v1/events/batch", {"events": [{"type": "a.b", "data": 1}, {"type": "a.b", "data": 2}]})
        assert woken == ["now", "now"]


async def test_ids_with_strange_characters_are_404(api: Api) -> None:
    for path in (route.path for route in ROUTES if "{id}" in route.path):
        methods = {route.method for route in ROUTES if route.path == path}
        for identifier in ("%00", "a%00b", "%ff", "ep_%F0%9F%98%80", "ep_" + "z" * 13, "x" * 3000, "..%2F..", "%C3%28"):
            for method in methods - {"PATCH"}:
                if path.endswith(("rotate-secret", "recover")):
                    continue
                answered = await api.send(method, path.replace("{id}", identifier))
                assert answered.status == 404, (method, path, identifier, answered)


async def test_a_job_id_may_be_any_printable_text(api: Api) -> None:
    body = {"url": "https://example.com/hook"}
    for job_id in ("a%2Fb", "%C3%A9", "a%20b", "x" * 255):
        assert (await api.post(f"/v1/jobs/{job_id}/callbacks", body)).status == 201, job_id
    for job_id in ("a%00b", "x" * 256, "%0A"):
        answered = await api.post(f"/v1/jobs/{job_id}/callbacks", body)
        assert (answered.status, answered.pointers) == (422, ["#/job_id"]), job_id


async def test_a_file_without_room_is_a_503_that_stores_nothing_and_ends_with_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = [0]
    begin = Connection.begin

    def bound(connection: Connection, wanted: Callable[[], bool]) -> None:
        connection.one(f"PRAGMA max_page_count = {most[0]}")
        begin(connection, wanted)

    monkeypatch.setattr(Connection, "begin", bound)
    async with running_api(deployment) as api:
        most[0] = 1
        refused = await api.post("/v1/events", {"type": "a.b", "data": "x" * 200_000})
        assert (refused.status, refused.problem, refused.headers["Retry-After"]) == (503, "unavailable", "5")
        assert (await api.get("/v1/events")).json["data"] == []
        most[0] = 1_000_000
        assert (await api.post("/v1/events", {"type": "a.b", "data": "x" * 200_000})).status == 202


async def test_the_methods_of_a_path_are_not_those_of_a_pattern_that_it_also_fits(api: Api) -> None:
    for path in ("/v1/events/batch", "/v1/dead-letters/redeliver", "/v1/dead-letters/discard"):
        refused = await api.send("OPTIONS", path)
        assert (refused.status, refused.headers["Allow"]) == (405, "POST")
    assert (await api.send("DELETE", "/v1/webhooks/subscriptions")).headers["Allow"] == "GET, HEAD, POST"

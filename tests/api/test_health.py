"""`/healthz` and `/readyz` of a process that serves and delivers: quick and true, whatever else goes on."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy.engine import make_url

from dispatcher.clock import SystemClock
from dispatcher.engine.vitals import Condition
from dispatcher.rules.sharing import KEPT_ONE_IN
from dispatcher.store import migrate
from tests.deployed import Deployed, deployed
from tests.outpost import Outpost
from tests.postgres_server import OwnPostgres
from tests.receiver import Received, Receiver

PATIENCE_S = 60.0
#: How long a probe waits at the most, by the defaults of those who probe.
PROBE_S = 10.0


async def probe(at: Deployed, path: str) -> tuple[int, Any]:
    async with asyncio.timeout(PROBE_S), at.session.get(at.url + path) as answer:
        return answer.status, await answer.json()


async def until_ready(at: Deployed) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await probe(at, "/readyz"))[0] != 200:
            pass


ALL_OK = {"database": "ok", "schema": "ok", "dispatcher": "ok"}


async def test_a_full_set_of_attempts_that_hang_changes_nothing(database_url: str, receiver: Receiver) -> None:
    # Two sockets each, of the thousand that a process may have open by default. A tenth is kept for other endpoints.
    slots = 400
    count = slots - slots // KEPT_ONE_IN
    arrived, release = 0, asyncio.Event()
    all_arrived = asyncio.Event()

    async def hang(received: Received) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived == count:
            all_arrived.set()
        await release.wait()
        return web.Response()

    receiver.answers("/hook", hang)
    caps = ("max_in_flight", "max_in_flight_per_endpoint", "max_in_flight_per_destination")
    full = {**dict.fromkeys(caps, slots), "timeout": "300s"}
    async with deployed(database_url, **full) as at:
        await at.post("/v1/endpoints", {"url": receiver.url("/hook"), "event_types": ["*"], "ordered": False})
        events = [{"type": "a.b", "data": {}}] * count
        await at.post("/v1/events/batch", {"events": events})
        async with asyncio.timeout(PATIENCE_S):
            await all_arrived.wait()
        # No room for what comes now, which is fanned out all the same.
        await at.post("/v1/events/batch", {"events": events})
        for _ in range(20):
            assert await probe(at, "/healthz") == (200, {"status": "ok"})
            assert await probe(at, "/readyz") == (200, {"ready": True, "checks": ALL_OK})
        assert arrived == count
        release.set()


async def test_a_database_that_is_away_is_told_by_readyz_alone(stoppable_postgres: OwnPostgres) -> None:
    url = make_url(stoppable_postgres.url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    outpost = Outpost(url, SystemClock())
    await migrate.upgrade(outpost.database)
    await outpost.close()
    async with deployed(url) as at:
        await until_ready(at)
        stoppable_postgres.stop()
        status, told = await probe(at, "/readyz")
        assert (status, told["ready"], told["checks"]["dispatcher"]) == (503, False, "ok")
        assert told["checks"]["database"] != "ok"
        assert await probe(at, "/healthz") == (200, {"status": "ok"})
        stoppable_postgres.start()
        await until_ready(at)
        assert await probe(at, "/healthz") == (200, {"status": "ok"})


async def test_a_part_that_hangs_is_told_by_both_and_one_that_fails_by_readyz(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with deployed(sqlite_url) as at:
        monkeypatch.setattr("dispatcher.engine.vitals.Vitals.condition", lambda _: Condition(hung=("claim hangs",)))
        assert await probe(at, "/healthz") == (503, {"status": "claim hangs"})
        status, told = await probe(at, "/readyz")
        assert (status, told["checks"]) == (503, {**ALL_OK, "dispatcher": "claim hangs"})
        monkeypatch.setattr("dispatcher.engine.vitals.Vitals.condition", lambda _: Condition(failing=("claim failed",)))
        assert await probe(at, "/healthz") == (200, {"status": "ok"})
        status, told = await probe(at, "/readyz")
        assert (status, told["checks"]) == (503, {**ALL_OK, "dispatcher": "claim failed"})

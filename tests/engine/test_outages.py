"""A database that goes away: a dispatcher waits for it at each of its parts; nothing is lost or sent twice."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from aiohttp import web
from sqlalchemy.engine import make_url

from dispatcher.clock import SystemClock
from dispatcher.states import AttemptError, DeliveryState
from dispatcher.store import migrate
from tests.outpost import Outpost
from tests.postgres_server import OwnPostgres
from tests.receiver import Received, Receiver


class Complaints(logging.Handler):
    """Hears the log, so that a test can wait until a part of the dispatcher has met the outage."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: dict[str, asyncio.Event] = {}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        for stage, heard in self._heard.items():
            if "store.unavailable" in message and f"stage={stage} " in message:
                heard.set()

    async def of(self, stage: str) -> None:
        async with asyncio.timeout(20):
            await self._heard.setdefault(stage, asyncio.Event()).wait()


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    handler = Complaints()
    listened = logging.getLogger("dispatcher.store")
    listened.addHandler(handler)
    yield handler
    listened.removeHandler(handler)


@pytest.fixture
async def outpost(stoppable_postgres: OwnPostgres) -> AsyncIterator[Outpost]:
    url = make_url(stoppable_postgres.url).set(drivername="postgresql+asyncpg")
    opened = Outpost(url.render_as_string(hide_password=False), SystemClock(), lease="60s", poll_interval="50ms")
    await migrate.upgrade(opened.database)
    yield opened
    await opened.close()


async def test_a_dispatcher_whose_postgresql_crashes_goes_on_when_it_is_back(
    outpost: Outpost, stoppable_postgres: OwnPostgres, receiver: Receiver, complaints: Complaints
) -> None:
    release = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish(*["before"] * 20)
    async with outpost.dispatcher() as dispatcher:
        await receiver.wait_for(20)
        await asyncio.to_thread(stoppable_postgres.stop)
        # Twenty were accepted, and nobody can be told.
        release.set()
        for stage in ("record", "claim", "fan_out"):
            await complaints.of(stage)
        await asyncio.to_thread(stoppable_postgres.start)
        await dispatcher.until_idle()
        await outpost.publish(*["after"] * 5)
        await receiver.wait_for(25)
        await dispatcher.until_idle()
    assert [(row.state, row.attempts) for row in await outpost.deliveries()] == [(DeliveryState.DELIVERED, 1)] * 25
    assert await outpost.count("attempts") == len(receiver.received()) == 25


async def test_a_dispatcher_that_is_stopped_during_an_outage_ends_and_its_attempt_is_taken_back_later(
    outpost: Outpost, stoppable_postgres: OwnPostgres, receiver: Receiver, complaints: Complaints
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    dispatcher = outpost.dispatcher(shutdown_grace=timedelta(milliseconds=100))
    await dispatcher.start()
    answered = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    receiver.answers("/hook", answer, 200)
    await outpost.publish()
    await receiver.wait_for(1)
    await asyncio.to_thread(stoppable_postgres.stop)
    answered.set()
    await complaints.of("record")
    async with asyncio.timeout(10):
        await dispatcher.stop()
    await asyncio.to_thread(stoppable_postgres.start)
    # Its lease ends by itself.
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.dispatchers.update().values(leased_until=outpost.database.now()))
    async with outpost.dispatcher() as other:
        await other.until_idle()
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED
    assert [row.error for row in await outpost.attempts()] == [AttemptError.INTERRUPTED, None]

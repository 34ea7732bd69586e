"""A database that goes away: a dispatcher waits for it at each of its parts; nothing is lost or sent twice."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import psycopg
import pytest
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.engine import make_url

from dispatcher.clock import SystemClock
from dispatcher.errors import StoreUnavailable
from dispatcher.outbox.events import new_event
from dispatcher.states import AttemptError, DeliveryState
from dispatcher.store import database as database_module
from dispatcher.store import migrate
from dispatcher.store.ingest import Straight
from tests.chaos.tcp_proxy import TcpProxy
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost
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


async def test_a_primary_that_is_demoted_under_a_dispatcher_is_an_outage_like_any_other(
    outpost: Outpost, stoppable_postgres: OwnPostgres, receiver: Receiver, complaints: Complaints
) -> None:
    release = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish(*["before"] * 5)
    async with outpost.dispatcher() as dispatcher:
        await receiver.wait_for(5)
        # Sessions live on, and may read only: so they do on a server that has become a standby.
        await _alter(stoppable_postgres, "SET default_transaction_read_only = on")
        release.set()
        for stage in ("record", "claim"):
            await complaints.of(stage)
        with pytest.raises(StoreUnavailable):
            await outpost.publish()
        await _alter(stoppable_postgres, "RESET default_transaction_read_only")
        await dispatcher.until_idle()
    assert [(row.state, row.attempts) for row in await outpost.deliveries()] == [(DeliveryState.DELIVERED, 1)] * 5


async def _alter(server: OwnPostgres, what: str) -> None:
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as session:
        await session.execute(f"ALTER SYSTEM {what}".encode())
        await session.execute("SELECT pg_reload_conf()")


async def test_a_database_whose_host_is_gone_without_a_goodbye_is_connected_to_anew(
    postgres_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "COLD_LIMIT_S", 1.0)
    monkeypatch.setattr(database_module, "OUTAGE_PATIENCE_S", 1.0)
    direct = Outpost(postgres_url, SystemClock())
    async with TcpProxy.before(postgres_url) as proxy:
        through = Outpost(proxy.url(postgres_url), SystemClock(), lease="1s", poll_interval="50ms")
        await direct.endpoint(receiver.url("/hook"))
        async with through.dispatcher():
            await direct.publish()
            await receiver.wait_for(1)
            proxy.abandon()
            # Whoever is asked for what is due next has a new connection. What was under way just then may hold these
            # rows until the server gives it up.
            async with direct.database.begin(limited=False) as connection:
                await connection.execute(text("UPDATE duties SET next_run_at = now() - interval '1 minute'"))
            # Its policy must be read anew, on a cold path, and so must what is due.
            await direct.endpoint(receiver.url("/new"))
            await direct.publish()
            await receiver.wait_for(3)
            await direct.sees("SELECT FROM duties WHERE name = 'reclaim all' AND next_run_at > clock_timestamp()")
        await through.close()
    await direct.close()


_WAITING_CLAIM = """
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%dispatcher_claim%'
"""


async def test_a_claim_whose_answer_was_lost_is_given_up_at_once_and_made_again(
    postgres_url: str, receiver: Receiver
) -> None:
    direct = Outpost(postgres_url, SystemClock())
    async with TcpProxy.before(postgres_url) as proxy:
        through = Outpost(proxy.url(postgres_url), SystemClock(), lease="60s", poll_interval="50ms")
        # Its tokens are spent under a lock, on which a test can make the claim wait.
        await direct.endpoint(receiver.url("/hook"), rate_limit=1000)
        # So that nobody claims it as it is fanned out, which takes another answer to be committed.
        await direct.publish()
        async with direct.store() as store:
            await store.fan_out(1)
        async with direct.database.engine.connect() as session:
            await session.execute(text("SELECT FROM endpoint_state FOR UPDATE"))
            async with through.dispatcher():
                await direct.sees(_WAITING_CLAIM)
                proxy.swallow_answers()
                await session.rollback()
                await direct.sees("SELECT FROM deliveries WHERE state = 'sending'")
                proxy.cut()
                await proxy.restore()
                await receiver.wait_for(1)
                await direct.sees("SELECT FROM deliveries WHERE state = 'delivered'")
        await through.close()
    assert [(row.number, row.error) for row in await direct.attempts()] == [(1, AttemptError.INTERRUPTED), (2, None)]
    assert len(receiver.received()) == 1
    await direct.close()


async def test_a_fan_out_that_claims_is_given_up_as_soon_as_any_other(postgres_url: str, clock: FakeClock) -> None:
    direct = Outpost(postgres_url, clock)
    await direct.endpoint()
    async with TcpProxy.before(postgres_url) as proxy:
        through = Outpost(proxy.url(postgres_url), clock, lease="1s")
        async with through.store() as store, asyncio.timeout(PATIENCE_S):
            for answered in (True, False):
                await direct.publish()
                if not answered:
                    proxy.swallow_answers()
                    with pytest.raises(StoreUnavailable):
                        await store.fan_out(1, Straight(1, ()))
                else:
                    assert (await store.fan_out(1, Straight(1, ()))).claimed is not None
            await proxy.restore()
        await through.close()
    await direct.close()


async def test_who_publishes_through_a_crash_is_told_what_is_known_and_may_publish_again(
    outpost: Outpost, stoppable_postgres: OwnPostgres, receiver: Receiver
) -> None:
    await outpost.endpoint(receiver.url("/hook"))

    async with outpost.dispatcher() as dispatcher:

        async def publish(number: int) -> bool:
            event = new_event("job.step", str(number), id=f"e{number}", job_id=f"job_{number % 7}", max_payload=99)
            try:
                await dispatcher.ingest.publish([event])
            except StoreUnavailable:
                return False
            return True

        assert all(await asyncio.gather(*(publish(number) for number in range(10))))
        await receiver.wait_for(10)
        stopping = asyncio.create_task(asyncio.to_thread(stoppable_postgres.stop))
        told = await asyncio.gather(*(publish(number) for number in range(10, 40)))
        await stopping
        assert not await publish(40)
        await asyncio.to_thread(stoppable_postgres.start)
        stored = {row.id for row in await outpost.rows("events")}
        assert stored >= {f"e{number}" for number, known in enumerate(told, 10) if known}
        assert all(await asyncio.gather(*(publish(number) for number in range(60))))
        async with asyncio.timeout(PATIENCE_S):
            while len({request.headers["webhook-id"] for request in receiver.received()}) < 60:
                await dispatcher.until_idle()
    assert await outpost.count("events") == 60
    assert [row.state for row in await outpost.deliveries()] == [DeliveryState.DELIVERED] * 60

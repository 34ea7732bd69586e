"""Attempts that last longer than a lease: heartbeats keep it; where it is lost all the same, the outcome is void."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from aiohttp import web
from sqlalchemy import select, text

from dispatcher.clock import SystemClock
from dispatcher.states import AttemptError
from dispatcher.store.database import LIMIT_TRANSACTIONS
from tests.chaos.tcp_proxy import TcpProxy
from tests.outpost import PATIENCE_S, Outpost
from tests.receiver import Received, Receiver

LEASE = {"lease": "1s", "poll_interval": "50ms"}


class _Ear(logging.Handler):
    """Sets `heard` when an event is logged."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self._event = event
        self.heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._event in record.getMessage():
            self.heard.set()


@contextmanager
def hearing(event: str) -> Iterator[asyncio.Event]:
    ear, log = _Ear(event), logging.getLogger("dispatcher")
    log.addHandler(ear)
    try:
        yield ear.heard
    finally:
        log.removeHandler(ear)


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(postgres_url) as opened:
        yield opened


@pytest.fixture
async def direct(postgres_url: str) -> AsyncIterator[Outpost]:
    """The deployment, by the way that nothing happens to."""
    opened = Outpost(postgres_url, SystemClock(), **LEASE)
    yield opened
    await opened.close()


@pytest.fixture
async def partitioned(postgres_url: str, proxy: TcpProxy) -> AsyncIterator[Outpost]:
    """The same deployment, behind the proxy."""
    opened = Outpost(proxy.url(postgres_url), SystemClock(), **LEASE)
    yield opened
    await opened.close()


async def test_an_attempt_of_three_leases_is_kept_by_heartbeats(database_url: str, receiver: Receiver) -> None:
    answering = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await answering.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    outpost = Outpost(database_url, SystemClock(), **LEASE)
    await outpost.endpoint(receiver.url("/hook"), timeout_s=25)
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish()
        await receiver.wait_for(1)
        [began] = await outpost.rows("dispatchers")
        leased_until = outpost.tables.dispatchers.c.leased_until
        await outpost.sees(select(leased_until).where(leased_until > began.leased_until + 3 * outpost.settings.lease))
        await dispatcher.run_duties()
        answering.set()
        await dispatcher.until_idle()
    assert [(row.number, row.status, row.error) for row in await outpost.attempts()] == [(1, 200, None)]
    assert len(receiver.received()) == 1
    await outpost.close()


async def test_an_attempt_that_outlived_its_lease_is_interrupted_on_record_and_its_outcome_void(
    direct: Outpost, partitioned: Outpost, proxy: TcpProxy, receiver: Receiver
) -> None:
    answering = asyncio.Event()

    async def answer(request: Received) -> web.Response:
        if request.headers["x-delivery-attempt"] == "1":
            await answering.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    await direct.endpoint(receiver.url("/hook"), timeout_s=25)
    async with partitioned.dispatcher():
        await direct.publish()
        await receiver.wait_for(1)
        proxy.swallow()
        async with direct.dispatcher() as other:
            await receiver.wait_for(2)
            await other.until_idle()
            [row] = await direct.deliveries()
            assert (row.state, row.attempts) == ("delivered", 2)
            with hearing("delivery.lease_lost") as heard:
                # The first one is accepted after all, and its dispatcher reaches the database again.
                answering.set()
                await proxy.restore()
                async with asyncio.timeout(PATIENCE_S):
                    await heard.wait()
    assert [row] == await direct.deliveries()
    assert [(row.number, row.status, row.error) for row in await direct.attempts()] == [
        (1, None, AttemptError.INTERRUPTED),
        (2, 200, None),
    ]


async def test_a_post_does_not_begin_after_its_lease_has_ended(
    direct: Outpost, partitioned: Outpost, proxy: TcpProxy, receiver: Receiver
) -> None:
    await direct.endpoint(receiver.url("/hook"))
    async with partitioned.dispatcher(), direct.database.engine.connect() as session:
        # Between its claim and its POST it reads the endpoint's policy, with the secrets.
        await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await session.execute(text(LIMIT_TRANSACTIONS.format(0, "true")))
        await session.execute(text("LOCK TABLE endpoint_secrets IN ACCESS EXCLUSIVE MODE"))
        await direct.publish()
        await direct.sees("SELECT FROM deliveries WHERE state = 'sending'")
        await direct.sees("SELECT FROM pg_locks WHERE NOT granted AND relation = 'endpoint_secrets'::regclass")
        proxy.swallow()
        await session.rollback()
        await direct.sees("SELECT FROM dispatchers HAVING max(leased_until) < clock_timestamp()")
        await proxy.restore()
        # It makes the next attempt itself, under a new lease.
        await receiver.wait_for(1)
        await direct.sees("SELECT FROM deliveries WHERE state = 'delivered'")
    [request] = receiver.received()
    assert request.headers["x-delivery-attempt"] == "2"
    assert [(row.number, row.status, row.error) for row in await direct.attempts()] == [
        (1, None, AttemptError.INTERRUPTED),
        (2, 200, None),
    ]

"""Attempts that last longer than a lease: heartbeats keep it; where it is lost all the same, the outcome is void."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from sqlalchemy import text

from dispatcher.clock import SystemClock
from dispatcher.states import AttemptError
from dispatcher.store.database import LIMIT_TRANSACTIONS
from tests.chaos.tcp_proxy import TcpProxy
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

LEASE = {"lease": "1s", "poll_interval": "50ms"}


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
        async with asyncio.timeout(25):
            while True:
                [renewed] = await outpost.rows("dispatchers")
                if renewed.leased_until - began.leased_until > 3 * outpost.settings.lease:
                    break
                await asyncio.sleep(0.05)
        await dispatcher.run_duties()
        answering.set()
        await dispatcher.until_idle()
    assert [(row.number, row.status, row.error) for row in await outpost.attempts()] == [(1, 200, None)]
    assert len(receiver.received()) == 1
    await outpost.close()


async def test_an_attempt_that_outlived_its_lease_is_interrupted_on_record_and_its_outcome_void(
    direct: Outpost, partitioned: Outpost, proxy: TcpProxy, receiver: Receiver, caplog: pytest.LogCaptureFixture
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
            with caplog.at_level(logging.WARNING):
                # The first one is accepted after all, and its dispatcher reaches the database again.
                answering.set()
                await proxy.restore()
                async with asyncio.timeout(25):
                    while True:
                        if "delivery.lease_lost" in caplog.text:
                            break
                        await asyncio.sleep(0.02)
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

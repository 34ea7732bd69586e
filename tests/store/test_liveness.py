"""Pooled connections whose host is gone without a goodbye: whoever borrows one is not kept waiting."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from dispatcher.clock import SystemClock
from dispatcher.errors import StoreUnavailable
from dispatcher.settings import load
from dispatcher.store import database as database_module
from dispatcher.store.database import Database, open_database
from dispatcher.store.postgres import liveness
from tests.chaos.tcp_proxy import TcpProxy

AT_ONCE = 4


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(postgres_url) as proxy:
        yield proxy


@pytest.fixture
async def database(proxy: TcpProxy, postgres_url: str) -> AsyncIterator[Database]:
    """With pooled connections, through the proxy."""
    opened = open_database(load(database_url=proxy.url(postgres_url)), SystemClock())
    together = asyncio.Barrier(AT_ONCE)

    async def borrow() -> None:
        async with opened.read():
            await together.wait()

    await asyncio.gather(*(borrow() for _ in range(AT_ONCE)))
    yield opened
    await opened.close()


async def _asked(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


async def test_what_does_not_answer_is_replaced(
    database: Database, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "ANSWER_S", 0.1)
    before = proxy.accepted
    proxy.abandon()
    async with asyncio.timeout(30):
        assert await asyncio.gather(*(_asked(database) for _ in range(2 * AT_ONCE))) == [1] * 2 * AT_ONCE
    assert proxy.accepted >= before + AT_ONCE


async def test_whoever_gives_up_while_it_is_asked_is_not_kept(
    database: Database, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver would wait without a limit for the end of a question that was given up.
    monkeypatch.setattr(database_module, "OUTAGE_PATIENCE_S", 0.1)
    proxy.abandon()
    async with asyncio.timeout(30):
        for _ in range(AT_ONCE):
            with pytest.raises(StoreUnavailable):
                await _asked(database)


async def test_what_the_server_has_closed_is_replaced(database: Database, proxy: TcpProxy) -> None:
    proxy.cut()
    assert await asyncio.gather(*(_asked(database) for _ in range(2 * AT_ONCE))) == [1] * 2 * AT_ONCE


async def test_what_answers_is_lent_again(database: Database, proxy: TcpProxy) -> None:
    before = proxy.accepted
    for _ in range(AT_ONCE):
        assert await _asked(database) == 1
    assert proxy.accepted == before

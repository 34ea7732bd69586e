"""A URL of several hosts: the one that takes writes is found, whatever the others do."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from dispatcher.clock import SystemClock
from dispatcher.errors import StoreUnavailable
from dispatcher.store.database import Database, open_database
from tests.chaos.tcp_proxy import TcpProxy
from tests.outpost import loopback_settings


@pytest.fixture
async def first(postgres_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(postgres_url) as proxy:
        yield proxy


@pytest.fixture
async def second(postgres_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(postgres_url) as proxy:
        yield proxy


@pytest.fixture
async def database(postgres_url: str, first: TcpProxy, second: TcpProxy) -> AsyncIterator[Database]:
    """One server under the addresses of two."""
    url = make_url(postgres_url)
    opened = open_database(
        loopback_settings(
            f"postgresql://{url.username}:{url.password}@{first.address},{second.address}/{url.database}"
            "?application_name=outbox&target_session_attrs=read-write"
        ),
        SystemClock(),
    )
    yield opened
    await opened.close()


async def ask(database: Database) -> None:
    """A statement through a new connection."""
    await database.engine.dispose()
    async with database.read() as connection:
        assert (await connection.execute(text("SHOW application_name"))).scalar_one() == "outbox"


async def test_the_first_that_answers_is_taken(database: Database, first: TcpProxy, second: TcpProxy) -> None:
    await ask(database)
    assert (first.accepted, second.accepted) == (1, 0)


async def test_a_silent_host_does_not_use_up_the_time_of_the_next_and_is_not_asked_first_again(
    database: Database, first: TcpProxy, second: TcpProxy
) -> None:
    first.swallow()
    await ask(database)
    await ask(database)
    assert (first.accepted, second.accepted) == (1, 2)


async def test_a_host_that_comes_back_is_not_preferred_to_the_one_that_took_over(
    database: Database, first: TcpProxy, second: TcpProxy
) -> None:
    await first.refuse()
    await ask(database)
    await first.restore()
    await ask(database)
    assert (first.accepted, second.accepted) == (0, 2)
    await second.refuse()
    await ask(database)
    assert (first.accepted, second.accepted) == (1, 2)


async def test_no_host_at_all_is_an_outage(database: Database, first: TcpProxy, second: TcpProxy) -> None:
    await first.refuse()
    await second.refuse()
    with pytest.raises(StoreUnavailable):
        await ask(database)

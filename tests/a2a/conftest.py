"""An agent server's own engine on the outbox's database, and what its process has in its environment."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dispatcher import prepare_sqlite
from dispatcher.clock import SystemClock
from tests.outpost import Outpost


@pytest.fixture
async def outpost(database_url: str) -> AsyncIterator[Outpost]:
    """A deployment in real time, since the SDK has no other."""
    opened = Outpost(database_url, SystemClock(), retry_schedule="20ms,20ms,20ms")
    yield opened
    await opened.close()


@pytest.fixture
async def engine(outpost: Outpost, producer_environment: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(outpost.settings.database_url)
    prepare_sqlite(made)
    yield made
    await made.dispose()

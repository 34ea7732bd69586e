"""A producer's own engines on the outbox's database, sync and async, prepared as the README says."""

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dispatcher import prepare_sqlite
from tests.outpost import Outpost


def sync_url(outpost: Outpost) -> str:
    """The same database through the drivers that sync producers use."""
    url = make_url(outpost.settings.database_url)
    driver = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"
    return url.set(drivername=driver).render_as_string(hide_password=False)


@pytest.fixture
def engine(outpost: Outpost) -> Iterator[Engine]:
    made = create_engine(sync_url(outpost))
    prepare_sqlite(made)
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE my_jobs (id TEXT PRIMARY KEY)"))
    yield made
    made.dispose()


@pytest.fixture
def postgres_engine(postgres_outpost: Outpost) -> Iterator[Engine]:
    made = create_engine(sync_url(postgres_outpost))
    yield made
    made.dispose()


@pytest.fixture
async def async_engine(outpost: Outpost) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(outpost.settings.database_url)
    prepare_sqlite(made)
    yield made
    await made.dispose()

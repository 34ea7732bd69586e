"""What plain SQLite drivers do to a producer's transaction: each case as it is, and as `prepare_sqlite` makes it."""

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from dispatcher import prepare_sqlite, publish
from dispatcher.outbox.session import UnpreparedEngine
from tests.outbox.conftest import sync_url
from tests.outpost import Outpost


@pytest.fixture
def make_engine(sqlite_outpost: Outpost) -> Iterator[Callable[[], Engine]]:
    made: list[Engine] = []

    def make() -> Engine:
        made.append(create_engine(sync_url(sqlite_outpost)))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def plain(make_engine: Callable[[], Engine]) -> Engine:
    """As `create_engine` gives it."""
    return make_engine()


@pytest.fixture
def prepared(make_engine: Callable[[], Engine]) -> Engine:
    engine = make_engine()
    prepare_sqlite(engine)
    return engine


PREPARED = {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000}


def _pragmas(engine: Engine) -> dict[str, object]:
    with engine.connect() as connection:
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in PREPARED}


def _roll_back_around_a_savepoint(engine: Engine) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            publish(session, "job.completed", {})
        session.rollback()


async def test_with_a_plain_engine_an_event_outlives_its_rollback_and_the_producer_is_warned(
    sqlite_outpost: Outpost, plain: Engine
) -> None:
    with pytest.warns(UnpreparedEngine, match="prepare_sqlite"):
        _roll_back_around_a_savepoint(plain)
    assert await sqlite_outpost.count("events") == 1
    assert await sqlite_outpost.count("fanout_queue") == 1


async def test_with_a_prepared_engine_it_does_not(sqlite_outpost: Outpost, prepared: Engine) -> None:
    _roll_back_around_a_savepoint(prepared)
    assert await sqlite_outpost.count("events") == 0
    assert await sqlite_outpost.count("fanout_queue") == 0


@pytest.mark.parametrize("prepares", [False, True])
async def test_async_engines_are_alike(sqlite_outpost: Outpost, prepares: bool) -> None:
    engine = create_async_engine(sqlite_outpost.settings.database_url)
    if prepares:
        prepare_sqlite(engine)

    async def roll_back_around_a_savepoint() -> None:
        async with AsyncSession(engine) as session:
            async with session.begin_nested():
                publish(session, "job.completed", {})
            await session.rollback()

    if prepares:
        await roll_back_around_a_savepoint()
    else:
        with pytest.warns(UnpreparedEngine):
            await roll_back_around_a_savepoint()
    await engine.dispose()
    assert await sqlite_outpost.count("events") == (0 if prepares else 1)


async def test_preparing_comes_in_time_for_a_connection_that_is_in_the_pool_already(
    sqlite_outpost: Outpost, plain: Engine
) -> None:
    with plain.connect() as connection:
        connection.execute(text("SELECT 1"))
    prepare_sqlite(plain)
    assert _pragmas(plain) == PREPARED
    _roll_back_around_a_savepoint(plain)
    assert await sqlite_outpost.count("events") == 0


def _begin_deferred(engine: Engine) -> None:
    """The recipe that is passed around for SQLite and savepoints: a real BEGIN, but a deferred one."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: object, record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


async def test_a_deferred_transaction_that_has_read_fails_at_once_when_another_one_wrote(
    sqlite_outpost: Outpost, plain: Engine, prepared: Engine
) -> None:
    _begin_deferred(plain)
    with Session(plain) as session:
        session.execute(text("SELECT count(*) FROM events")).scalar_one()
        with Session(prepared) as other, other.begin():
            publish(other, "written.meanwhile", {})
        publish(session, "job.completed", {})
        with (
            pytest.warns(UnpreparedEngine),
            pytest.raises(OperationalError, match="database is locked"),
        ):
            session.commit()
    assert [row.type for row in await sqlite_outpost.rows("events")] == ["written.meanwhile"]


async def test_prepared_transactions_that_read_first_wait_for_each_other(
    sqlite_outpost: Outpost, prepared: Engine
) -> None:
    seen: list[int] = []

    def produce() -> None:
        with Session(prepared) as session, session.begin():
            seen.append(session.execute(text("SELECT count(*) FROM events")).scalar_one())
            publish(session, "second", {})

    with Session(prepared) as session:
        session.execute(text("SELECT count(*) FROM events")).scalar_one()
        other = threading.Thread(target=produce)
        other.start()
        publish(session, "first", {})
        session.commit()
        other.join()
    # The other one's BEGIN came back only after this one's commit, which its first read saw.
    assert seen == [1]
    assert [row.type for row in await sqlite_outpost.rows("events")] == ["first", "second"]


def test_a_prepared_engine_keeps_foreign_keys_and_writes_ahead(prepared: Engine) -> None:
    assert _pragmas(prepared) == PREPARED


def test_preparing_does_nothing_to_postgresql() -> None:
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    prepare_sqlite(engine)
    assert list(engine.dispatch.begin) == []

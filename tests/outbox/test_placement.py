"""Where the outbox is: in a schema, behind a prefix, on one of several binds, and with no more rights than needed."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from dispatcher import ConfigurationError, IdempotencyConflict, prepare_sqlite, publish, register_callback
from dispatcher.store import migrate
from tests.clock import FakeClock
from tests.outbox.conftest import sync_url
from tests.outpost import Outpost
from tests.receiver import Receiver

pytestmark = pytest.mark.usefixtures("producer_environment")


@asynccontextmanager
async def _placed(url: str, clock: FakeClock, **placement: str) -> AsyncIterator[tuple[Outpost, Engine]]:
    """A deployment at a place of its own, beside a table `events` that is somebody else's."""
    outpost = Outpost(url, clock, **placement)
    engine = create_engine(sync_url(outpost), poolclass=NullPool)
    prepare_sqlite(engine)
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE events (theirs INTEGER)"))
        await migrate.upgrade(outpost.database)
        yield outpost, engine
    finally:
        await outpost.close()


async def _publish_and_receive(outpost: Outpost, engine: Engine, receiver: Receiver) -> None:
    async with outpost.dispatcher() as dispatcher:
        with Session(engine) as session, session.begin():
            register_callback(session, job_id="job_1", url=receiver.url("/hook"))
            event_id = publish(session, "job.completed", {}, job_id="job_1", idempotency_key="k")
            publish(session, "job.completed", {}, job_id="job_1", idempotency_key="k")
        (request,) = await receiver.wait_for(1)
        await dispatcher.until_idle()
    assert request.headers["webhook-id"] == event_id
    assert await outpost.count("events") == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM events")).scalar_one() == 0


async def test_a_table_prefix_is_where_producers_write_too(
    empty_database_url: str, clock: FakeClock, receiver: Receiver, producer_environment: pytest.MonkeyPatch
) -> None:
    producer_environment.setenv("DISPATCHER_TABLE_PREFIX", "outbox_")
    async with _placed(empty_database_url, clock, table_prefix="outbox_") as (outpost, engine):
        await _publish_and_receive(outpost, engine, receiver)


async def test_a_schema_is_where_producers_write_too(
    empty_postgres_url: str, clock: FakeClock, receiver: Receiver, producer_environment: pytest.MonkeyPatch
) -> None:
    producer_environment.setenv("DISPATCHER_SCHEMA", "outbox")
    async with _placed(empty_postgres_url, clock, schema="outbox") as (outpost, engine):
        await _publish_and_receive(outpost, engine, receiver)


class _Base(DeclarativeBase):
    pass


class _Note(_Base):
    """A row of the producer's, in another database than the outbox."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def notes() -> Iterator[Engine]:
    """The other database."""
    made = create_engine("sqlite:///notes.db")
    prepare_sqlite(made)
    _Base.metadata.create_all(made)
    yield made
    made.dispose()


async def test_with_several_binds_the_event_goes_to_the_one_that_is_named(
    outpost: Outpost, engine: Engine, notes: Engine
) -> None:
    with Session(binds={_Note: notes}) as session:
        session.add(_Note(id=1))
        publish(session, "job.completed", {}, bind=engine)
        session.flush()
        session.rollback()
        session.add(_Note(id=1))
        publish(session, "job.completed", {}, bind=engine)
        session.commit()
    assert await outpost.count("events") == 1
    with notes.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM notes")).scalar_one() == 1


async def test_with_several_binds_and_none_named_the_flush_says_what_to_pass(engine: Engine, notes: Engine) -> None:
    with Session(binds={_Note: notes}) as session:
        session.add(_Note(id=1))
        publish(session, "job.completed", {})
        with pytest.raises(ConfigurationError, match="bind="):
            session.commit()
        session.rollback()
    with notes.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM notes")).scalar_one() == 0


async def test_an_async_engine_or_an_open_connection_can_be_the_bind(
    outpost: Outpost, engine: Engine, async_engine: AsyncEngine, notes: Engine
) -> None:
    async with AsyncSession() as async_session, async_session.begin():
        publish(async_session, "by.async.engine", {}, bind=async_engine)
    with engine.connect() as connection, Session(notes) as session:
        publish(session, "rolled.back", {}, bind=connection)
        session.commit()
        connection.rollback()
        publish(session, "by.connection", {}, bind=connection)
        session.commit()
        connection.commit()
    assert [row.type for row in await outpost.rows("events")] == ["by.async.engine", "by.connection"]


@contextmanager
def _role(engine: Engine, *grants: str) -> Iterator[str]:
    # Roles belong to the whole server, which other runs may share.
    role = f"producer_{secrets.token_hex(4)}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role}"))
        for grant in grants:
            connection.execute(text(f"GRANT {grant} TO {role}"))
    try:
        yield role
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


def _publish_plain(session: Session) -> None:
    publish(session, "job.completed", {}, job_id="job_1", tenant="acme")


def _publish_the_same_key_twice(session: Session) -> None:
    for _ in range(2):
        publish(session, "job.completed", {"n": 1}, idempotency_key="k")
        session.flush()


def _insert_in_sql(session: Session) -> None:
    session.execute(text("INSERT INTO events (type, data) VALUES ('job.completed', '{}')"))


@pytest.mark.parametrize("publishes", [_publish_plain, _publish_the_same_key_twice, _insert_in_sql])
async def test_a_producer_needs_insert_and_select_on_events_and_nothing_else(
    postgres_outpost: Outpost, postgres_engine: Engine, publishes: Callable[[Session], Any]
) -> None:
    with _role(postgres_engine, "INSERT, SELECT ON events") as role:
        with Session(postgres_engine) as session, session.begin():
            session.execute(text(f"SET LOCAL ROLE {role}"))
            publishes(session)
        with Session(postgres_engine) as session, session.begin():
            session.execute(text(f"SET LOCAL ROLE {role}"))
            with pytest.raises(DBAPIError, match="permission denied"):
                session.execute(text("DELETE FROM events"))
    assert await postgres_outpost.count("events") == 1
    assert await postgres_outpost.count("fanout_queue") == 1


async def test_a_conflict_is_told_to_a_producer_with_few_rights_too(
    postgres_outpost: Outpost, postgres_engine: Engine
) -> None:
    with _role(postgres_engine, "INSERT, SELECT ON events") as role:
        with Session(postgres_engine) as session, session.begin():
            publish(session, "job.completed", {"n": 1}, idempotency_key="k")
        with Session(postgres_engine) as session:
            session.execute(text(f"SET LOCAL ROLE {role}"))
            publish(session, "job.completed", {"n": 2}, idempotency_key="k")
            with pytest.raises(IdempotencyConflict):
                session.flush()
            session.rollback()
    assert await postgres_outpost.count("events") == 1

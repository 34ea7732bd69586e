"""The same key twice at the same time: one event, and whoever says something else is told."""

import threading

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from dispatcher import IdempotencyConflict, publish
from tests.outbox.waiting import blocked
from tests.outpost import Outpost


class Producer(threading.Thread):
    """Publishes under a key in a transaction of its own."""

    def __init__(self, engine: Engine, data: object, isolation_level: str = "READ COMMITTED") -> None:
        super().__init__()
        self._engine = engine.execution_options(isolation_level=isolation_level)
        self._data = data
        self.published: str | None = None
        self.fault: Exception | None = None

    def run(self) -> None:
        try:
            with Session(self._engine) as session, session.begin():
                self.published = publish(session, "job.completed", self._data, idempotency_key="k")
        except (IdempotencyConflict, OperationalError) as fault:
            self.fault = fault


async def _meanwhile(outpost: Outpost, engine: Engine, other: Producer, *, commits: bool) -> str:
    """Has `other` publish while this transaction, which published first, is still open; the first one's id."""
    with Session(engine) as session:
        first = publish(session, "job.completed", {"n": 1}, idempotency_key="k")
        session.flush()
        other.start()
        blocked(engine)
        if commits:
            session.commit()
        else:
            session.rollback()
        other.join()
    return first


async def test_a_concurrent_repetition_waits_and_is_the_same_event(
    postgres_outpost: Outpost, postgres_engine: Engine
) -> None:
    other = Producer(postgres_engine, {"n": 1.0})
    first = await _meanwhile(postgres_outpost, postgres_engine, other, commits=True)
    assert (other.published, other.fault) == (first, None)
    assert await postgres_outpost.count("events") == 1
    assert await postgres_outpost.count("fanout_queue") == 1


async def test_a_concurrent_repetition_with_other_content_is_a_conflict(
    postgres_outpost: Outpost, postgres_engine: Engine
) -> None:
    other = Producer(postgres_engine, {"n": 2})
    await _meanwhile(postgres_outpost, postgres_engine, other, commits=True)
    assert isinstance(other.fault, IdempotencyConflict)
    [row] = await postgres_outpost.rows("events")
    assert row.data == '{"n":1}'


async def test_where_the_first_rolls_back_the_second_is_the_event(
    postgres_outpost: Outpost, postgres_engine: Engine
) -> None:
    other = Producer(postgres_engine, {"n": 2})
    first = await _meanwhile(postgres_outpost, postgres_engine, other, commits=False)
    assert (other.published, other.fault) == (first, None)
    [row] = await postgres_outpost.rows("events")
    assert row.data == '{"n":2}'


async def test_under_repeatable_read_a_collision_is_a_serialization_failure_to_be_tried_again(
    postgres_outpost: Outpost, postgres_engine: Engine
) -> None:
    other = Producer(postgres_engine, {"n": 1}, isolation_level="REPEATABLE READ")
    await _meanwhile(postgres_outpost, postgres_engine, other, commits=True)
    assert isinstance(other.fault, OperationalError)
    assert getattr(other.fault.orig, "sqlstate", None) == "40001"
    assert await postgres_outpost.count("events") == 1


async def test_a_conflict_is_told_at_the_latest_when_an_async_session_commits(
    outpost: Outpost, async_engine: AsyncEngine
) -> None:
    async with AsyncSession(async_engine) as session, session.begin():
        publish(session, "job.completed", {"n": 1}, idempotency_key="k")
    async with AsyncSession(async_engine) as session:
        publish(session, "job.completed", {"n": 2}, idempotency_key="k")
        with pytest.raises(IdempotencyConflict, match="idempotency_key"):
            await session.commit()
    async with AsyncSession(async_engine) as session, session.begin():
        publish(session, "job.completed", {"n": 1}, idempotency_key="k")
    assert await outpost.count("events") == 1


async def test_a_conflict_inside_one_transaction_leaves_none_of_it(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session:
        publish(session, "job.completed", {"n": 1}, idempotency_key="k")
        publish(session, "job.completed", {"n": 2}, idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            session.commit()
    assert await outpost.count("events") == 0


async def test_a_key_that_was_rolled_back_is_free_again(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session:
        lost = publish(session, "job.completed", {"n": 1}, idempotency_key="k")
        session.flush()
        session.rollback()
        kept = publish(session, "job.completed", {"n": 2}, idempotency_key="k")
        session.commit()
    assert kept == lost
    [row] = await outpost.rows("events")
    assert row.data == '{"n":2}'

"""publish: an event shares its transaction's fate, whatever kind of session or connection it is handed."""

import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from dispatcher import ConfigurationError, IdempotencyConflict, InvalidField, prepare_sqlite, publish
from dispatcher.ids import EVENT_ID, event_id_for_key
from dispatcher.outbox.events import insert_events, new_event
from dispatcher.outbox.session import UnpreparedEngine
from tests.outbox.conftest import sync_url
from tests.outpost import Outpost


async def _events(outpost: Outpost) -> list[str]:
    return [row.type for row in await outpost.rows("events")]


async def test_a_session_commits_the_event_with_its_own_rows(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.execute(text("INSERT INTO my_jobs VALUES ('job_1')"))
        event_id = publish(session, "job.completed", {"n": 1.5, "ü": [None, True]}, job_id="job_1", tenant="acme")
    (row,) = await outpost.rows("events")
    assert (row.id, row.tenant, row.type, row.job_id) == (event_id, "acme", "job.completed", "job_1")
    assert row.data == '{"n":1.5,"ü":[null,true]}'
    assert EVENT_ID.match(event_id)
    assert len(await outpost.rows("fanout_queue", "event_row")) == 1


async def test_a_session_that_rolls_back_takes_the_event_with_it(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session:
        publish(session, "before.the.flush", {})
        session.rollback()
        publish(session, "after.the.flush", {})
        session.flush()
        session.rollback()
        session.commit()
    assert await _events(outpost) == []
    assert await outpost.count("fanout_queue") == 0


async def test_an_exception_in_the_producers_transaction_takes_the_event_with_it(
    outpost: Outpost, engine: Engine
) -> None:
    def produce() -> None:
        with Session(engine) as session, session.begin():
            publish(session, "job.completed", {})
            for _ in range(2):
                session.execute(text("INSERT INTO my_jobs VALUES ('twice')"))

    with pytest.raises(IntegrityError):
        produce()
    assert await _events(outpost) == []


async def test_a_savepoint_that_rolls_back_takes_its_events_and_no_others(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        publish(session, "outer", {})
        inner = session.begin_nested()
        publish(session, "inner", {})
        session.flush()
        inner.rollback()
        inner = session.begin_nested()
        publish(session, "inner.unflushed", {})
        inner.rollback()
        with session.begin_nested():
            publish(session, "kept", {})
    assert await _events(outpost) == ["outer", "kept"]


async def test_a_savepoint_that_is_the_first_statement_does_not_outlive_a_rollback(
    outpost: Outpost, engine: Engine
) -> None:
    # What plain SQLite drivers do: no BEGIN before a SAVEPOINT, so that its release commits.
    with engine.connect() as connection:
        with connection.begin_nested():
            publish(connection, "phantom", {})
        connection.rollback()
    assert await _events(outpost) == []


async def test_two_transactions_that_read_first_wait_for_each_other_instead_of_failing(
    outpost: Outpost, engine: Engine
) -> None:
    # What plain SQLite drivers do: a deferred transaction that has read fails at once when another one wrote.
    begun = threading.Barrier(2, timeout=10)
    faults: list[DBAPIError] = []

    def produce(name: str) -> None:
        try:
            with Session(engine) as session:
                if engine.dialect.name != "sqlite":
                    begun.wait()
                session.execute(text("SELECT count(*) FROM my_jobs"))
                publish(session, name, {})
                session.commit()
        except DBAPIError as fault:
            faults.append(fault)

    threads = [threading.Thread(target=produce, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sorted(await _events(outpost)) == ["one", "other"]


async def test_an_async_session_takes_it_without_await(outpost: Outpost, async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        publish(session, "rolled.back", {})
        await session.flush()
        await session.rollback()
        event_id = publish(session, "kept", {})
        await session.commit()
    (row,) = await outpost.rows("events")
    assert (row.id, row.type) == (event_id, "kept")


async def test_scoped_sessions_are_sessions(outpost: Outpost, engine: Engine, async_engine: AsyncEngine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    publish(scoped, "sync", {})
    scoped.commit()
    scoped.remove()
    async_scoped = async_scoped_session(async_sessionmaker(async_engine), scopefunc=lambda: 1)
    publish(async_scoped, "async", {})
    await async_scoped.commit()
    await async_scoped.remove()
    assert await _events(outpost) == ["sync", "async"]


async def test_connections_are_written_to_at_once(outpost: Outpost, engine: Engine, async_engine: AsyncEngine) -> None:
    with engine.begin() as connection:
        publish(connection, "sync", {})
    async with async_engine.begin() as async_connection:
        await async_connection.run_sync(publish, "async", {})
    assert await _events(outpost) == ["sync", "async"]


async def test_an_engine_with_options_of_its_own_is_prepared_like_its_parent(outpost: Outpost, engine: Engine) -> None:
    with engine.execution_options(logging_token="mine").begin() as connection:
        publish(connection, "kept", {})
    assert await _events(outpost) == ["kept"]


async def test_an_async_connection_is_told_how(async_engine: AsyncEngine) -> None:
    async with async_engine.connect() as connection:
        with pytest.raises(ConfigurationError, match="run_sync"):
            publish(connection, "x", {})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not str"):
        publish("session", "x", {})  # type: ignore[arg-type]


async def test_a_session_with_several_binds_is_told_to_name_the_outboxs(outpost: Outpost, engine: Engine) -> None:
    with Session() as session:
        publish(session, "x", {})
        with pytest.raises(ConfigurationError, match="bind="):
            session.flush()
        session.rollback()
        publish(session, "kept", {}, bind=engine)
        session.commit()
    assert await _events(outpost) == ["kept"]


async def test_an_unprepared_sqlite_engine_is_warned_about(sqlite_outpost: Outpost) -> None:
    engine = create_engine(sync_url(sqlite_outpost), poolclass=NullPool)
    with engine.begin() as connection, pytest.warns(UnpreparedEngine, match="prepare_sqlite"):
        publish(connection, "x", {})


async def test_preparing_twice_is_preparing_once(sqlite_outpost: Outpost) -> None:
    engine = create_engine(sync_url(sqlite_outpost))
    for _ in range(2):
        prepare_sqlite(engine)
    with engine.begin() as connection:
        publish(connection, "x", {})
    engine.dispose()
    with pytest.raises(ConfigurationError, match="Engine"):
        prepare_sqlite("sqlite://")  # type: ignore[arg-type]


async def test_the_same_idempotency_key_is_one_event(outpost: Outpost, engine: Engine) -> None:
    ids = set()
    for data in ({"a": 1, "b": [1.0]}, {"b": [1.0], "a": 1}):
        with Session(engine) as session, session.begin():
            ids.add(publish(session, "job.completed", data, idempotency_key="k", job_id="job_1"))
            ids.add(publish(session, "job.completed", data, idempotency_key="k", job_id="job_1"))
    assert ids == {event_id_for_key("default", "k")}
    assert len(await outpost.rows("events")) == 1
    assert await outpost.count("fanout_queue") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"type": "job.failed"},
        {"data": {"n": 2}},
        {"job_id": "job_2"},
        {"kind": "state"},
        {"job_id": None},
        {"timestamp": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
async def test_the_same_idempotency_key_with_other_content_is_a_conflict_at_the_flush(
    outpost: Outpost, engine: Engine, other: dict[str, object]
) -> None:
    first: dict[str, object] = {"type": "job.completed", "data": {"n": 1}, "job_id": "job_1"}
    with Session(engine) as session, session.begin():
        publish(session, idempotency_key="k", **first)  # type: ignore[arg-type]
    with Session(engine) as session:
        publish(session, "unrelated", {})
        publish(session, idempotency_key="k", **{**first, **other})  # type: ignore[arg-type]
        with pytest.raises(IdempotencyConflict, match="other content"):
            session.flush()
        session.rollback()
        session.commit()
    assert await _events(outpost) == ["job.completed"]


async def test_keys_are_a_tenants_own_and_an_id_is_repeatable_too(outpost: Outpost, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        assert publish(session, "a", 1, idempotency_key="k", tenant="acme") != publish(
            session, "a", 1, idempotency_key="k", tenant="globex"
        )
        assert publish(session, "a", 1, id="my-id") == publish(session, "a", 1, id="my-id") == "my-id"
    assert len(await outpost.rows("events")) == 3


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"type": "job completed"}, "type"),
        ({"type": ".job"}, "type"),
        ({"type": ""}, "type"),
        ({"type": "webhook.test"}, "type"),
        ({"data": float("nan")}, "data"),
        ({"data": "\ud800"}, "data"),
        ({"data": {1: 2}}, "data"),
        ({"data": object()}, "data"),
        ({"data": "x" * 300_000}, "data"),
        ({"job_id": ""}, "job_id"),
        ({"job_id": "a\nb"}, "job_id"),
        ({"kind": "over"}, "kind"),
        ({"tenant": ""}, "tenant"),
        ({"id": "a.b"}, "id"),
        ({"id": "a" * 129}, "id"),
        ({"id": "a", "idempotency_key": "b"}, "id"),
        ({"timestamp": datetime(2026, 1, 1)}, "timestamp"),  # noqa: DTZ001
        ({"traceparent": "00-evil\r\nx: y"}, "traceparent"),
        ({"idempotency_key": ""}, "idempotency_key"),
    ],
)
async def test_what_is_wrong_is_refused_before_anything_is_written(
    sqlite_outpost: Outpost, wrong: dict[str, object], field: str
) -> None:
    session = Session()
    with pytest.raises(InvalidField) as caught:
        publish(session, **{"type": "a.b", "data": {}, **wrong})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert not session.new


async def test_events_with_and_without_a_timestamp_keep_their_order(outpost: Outpost, engine: Engine) -> None:
    moment = datetime(2020, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
    with Session(engine) as session, session.begin():
        for n in range(6):
            publish(session, f"n{n}", json.loads(str(n)), timestamp=moment if n % 2 else None, job_id="job_1")
    assert await _events(outpost) == [f"n{n}" for n in range(6)]
    assert [row.timestamp for row in await outpost.rows("events")][1] == moment
    async with outpost.database.read() as connection:
        queued = await connection.execute(select(outpost.tables.fanout_queue.c.event_row).order_by("event_row"))
        assert len(queued.all()) == 6


async def test_several_are_stored_in_their_order_whichever_have_a_timestamp(engine: Engine, outpost: Outpost) -> None:
    given: list[dict[str, Any]] = [{}, {"timestamp": "2020-01-02T03:04:05Z"}, {}, {}]
    events = [new_event("a", "1", max_payload=99, id=f"e{n}", **one) for n, one in enumerate(given)]
    with engine.begin() as connection:
        assert len(insert_events(connection, outpost.tables, events)) == 4
    assert [row.id for row in await outpost.rows("events")] == ["e0", "e1", "e2", "e3"]

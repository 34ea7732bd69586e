"""Producers in other languages insert with plain SQL: the database fills in the rest, and refuses what is wrong."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import NullPool

from dispatcher.rules.event_types import check_type
from dispatcher.states import DeliveryState
from tests.outbox.conftest import sync_url
from tests.outpost import Outpost
from tests.receiver import Receiver


def _insert(engine: Engine, **columns: Any) -> None:
    given = {"type": "job.done", "data": "{}", **columns}
    names = ", ".join(given)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO events ({names}) VALUES ({', '.join(f':{n}' for n in given)})"), given)


def _accepts(engine: Engine, columns: dict[str, Any]) -> bool:
    try:
        _insert(engine, **columns)
    except DBAPIError:
        return False
    return True


async def test_the_database_fills_in_everything_but_type_and_data(outpost: Outpost, engine: Engine) -> None:
    _insert(engine)
    _insert(engine)
    one, other = await outpost.rows("events")
    assert re.fullmatch("evt_[0-9a-f]{32}", one.id)
    assert one.id != other.id
    assert (one.tenant, one.job_id, one.traceparent) == ("default", None, None)
    for moment in (one.timestamp, one.created_at):
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    assert [row.event_row for row in await outpost.rows("fanout_queue", "event_row")] == [one.row_id, other.row_id]


async def test_each_row_of_one_statement_is_queued_for_its_tenant(outpost: Outpost, engine: Engine) -> None:
    with engine.begin() as connection:
        rows = "('a', '1', 'x'), ('b', '2', 'x'), ('c', '3', 'y')"
        connection.execute(text(f"INSERT INTO events (type, data, tenant) VALUES {rows}"))
    queued = [(row.tenant, row.event_row) for row in await outpost.rows("fanout_queue", "event_row")]
    assert queued == [(row.tenant, row.row_id) for row in await outpost.rows("events")]
    assert [tenant for tenant, _ in queued] == ["x", "x", "y"]


async def test_an_insert_that_is_rolled_back_leaves_an_empty_queue(outpost: Outpost, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO events (type, data) VALUES ('a', '1')"))
        connection.rollback()
    assert await outpost.count("events") == await outpost.count("fanout_queue") == 0


async def test_data_is_kept_as_it_was_written(outpost: Outpost, engine: Engine) -> None:
    written = '{ "n": 1.50e1, "n": 12345678901234567890.0, "ü":\t"\\u0041" }'
    _insert(engine, data=written)
    [row] = await outpost.rows("events")
    assert row.data == written


async def test_an_id_is_unique_among_a_tenants(outpost: Outpost, engine: Engine) -> None:
    _insert(engine, id="mine")
    _insert(engine, id="mine", tenant="acme")
    with pytest.raises(IntegrityError):
        _insert(engine, id="mine", type="other")
    assert await outpost.count("fanout_queue") == 2


async def test_types_that_the_rules_allow_are_inserted(outpost: Outpost, engine: Engine) -> None:
    allowed = ["a", "A.b_1.C", "1.2", "a" * 255]
    for good in allowed:
        check_type(good)
        _insert(engine, type=good)
    assert [row.type for row in await outpost.rows("events")] == allowed


WRONG: list[dict[str, Any]] = [
    {"type": ""},
    {"type": "a b"},
    {"type": ".a"},
    {"type": "a."},
    {"type": "a..b"},
    {"type": "a\n"},
    {"type": "é"},
    {"type": "a" * 256},
    {"type": None},
    {"data": ""},
    {"data": "{"},
    {"data": "{a: 1}"},
    {"data": "NaN"},
    {"data": None},
    {"id": ""},
    {"id": "a.b"},
    {"id": "a\n"},
    {"id": "a" * 129},
    {"tenant": ""},
    {"job_id": ""},
    {"job_id": "a" * 256},
    {"kind": ""},
    {"kind": "Progress"},
    {"traceparent": "00-x"},
    {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01\r\nx: y"},
]


async def test_what_is_wrong_is_refused_in_the_producers_own_transaction(outpost: Outpost, engine: Engine) -> None:
    assert [columns for columns in WRONG if _accepts(engine, columns)] == []
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO my_jobs VALUES ('job_1')"))
        with pytest.raises(DBAPIError):
            connection.execute(text("INSERT INTO events (type, data) VALUES ('job.done', '{')"))
        connection.rollback()
    assert await outpost.count("events") == 0
    assert await outpost.count("fanout_queue") == 0
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM my_jobs")).scalar_one() == 0


@pytest.mark.parametrize("column", ["id", "tenant", "type", "data", "job_id", "kind", "traceparent"])
async def test_bytes_are_no_text_on_sqlite(sqlite_outpost: Outpost, column: str) -> None:
    values = {"data": b'{"n":1}', "traceparent": b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", "kind": b"state"}
    with pytest.raises(DBAPIError, match=f"ck_events_{column}"):
        _insert(create_engine(sync_url(sqlite_outpost), poolclass=NullPool), **{column: values.get(column, b"abc")})


@pytest.mark.parametrize("column", ["tenant", "job_id"])
async def test_a_text_on_sqlite_has_no_nul(sqlite_outpost: Outpost, column: str) -> None:
    # Its JSON functions end there: it would be another's.
    with pytest.raises(DBAPIError, match=f"ck_events_{column}"):
        _insert(create_engine(sync_url(sqlite_outpost), poolclass=NullPool), **{column: "acme\0"})


@pytest.mark.parametrize("moment", [1_700_000_000_000_000_000, "2026-01-01", 1.5, -(10**17)])
async def test_a_moment_on_sqlite_is_a_number_of_microseconds_that_a_date_can_have(
    sqlite_outpost: Outpost, moment: object
) -> None:
    for column in ("timestamp", "created_at"):
        with pytest.raises(DBAPIError, match=f"ck_events_{column}"):
            _insert(create_engine(sync_url(sqlite_outpost), poolclass=NullPool), **{column: moment})


async def test_a_moment_on_postgresql_is_in_the_years_that_everybody_knows(postgres_engine: Engine) -> None:
    for moment in ("infinity", "-infinity", "20000-01-01", "0044-03-15 BC"):
        for column in ("timestamp", "created_at"):
            with pytest.raises(DBAPIError, match=f"ck_events_{column}"):
                _insert(postgres_engine, **{column: moment})


def _bad_utf8(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO events (type, data) VALUES ('bad', CAST(X'22ff22' AS TEXT))"))
        connection.execute(text("INSERT INTO events (type, data, job_id) VALUES ('bad', '1', CAST(X'ff' AS TEXT))"))


def _surrogate(engine: Engine) -> None:
    _insert(engine, type="bad", data='"\\ud800"')


def _deep(engine: Engine) -> None:
    _insert(engine, type="bad", data="[" * 900 + "]" * 900)


@pytest.mark.parametrize("poison", [_bad_utf8, _surrogate, _deep])
async def test_an_event_that_nobody_can_read_does_not_keep_the_others(
    sqlite_outpost: Outpost, receiver: Receiver, poison: Callable[[Engine], None]
) -> None:
    await sqlite_outpost.endpoint(receiver.url("/hook"))
    poison(create_engine(sync_url(sqlite_outpost), poolclass=NullPool))
    await sqlite_outpost.publish("good")
    async with sqlite_outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert any(b'"good"' in request.body for request in receiver.received())
    states = {row.state for row in await sqlite_outpost.deliveries()}
    assert states <= {DeliveryState.DELIVERED, DeliveryState.DEAD}

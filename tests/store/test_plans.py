"""Plans: with a long history behind them, the hot statements touch what is live, by its partial indexes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from dispatcher.clock import SystemClock
from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store import gauges
from dispatcher.store.hot import HotStore
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.store import PostgresStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.store.reads import rows_read, tell_what_was_read

HISTORY = 5000
_WHOLE_TABLE = re.compile(
    r"SCAN (d|b|n|busy|older|newer|later|de|ne|j|deliveries|events|attempts|jobs|job_events|dead_letters)( |$)(?!USING)"
)


async def _fill(outpost: Outpost) -> None:
    """A history of settled deliveries in many lanes, progress among them, and a lane that is live."""
    endpoint = await outpost.endpoint(max_in_flight=5, progress_interval_s=1.0)
    now = outpost.clock.now()
    async with outpost.database.begin() as connection:
        await connection.execute(
            insert(outpost.tables.events), [{"type": "old", "data": "{}", "job_id": f"j{n}"} for n in range(HISTORY)]
        )
        await connection.execute(outpost.tables.fanout_queue.delete())
        await connection.execute(
            insert(outpost.tables.jobs), [{"tenant": "default", "job_id": f"j{n}"} for n in range(HISTORY)]
        )
        await connection.execute(
            insert(outpost.tables.job_events),
            [{"job_row": n + 1, "sequence": 1, "event_row": n + 1, "kind": _kind(n)} for n in range(HISTORY)],
        )
        await connection.execute(
            insert(outpost.tables.deliveries),
            [
                {
                    "event_row": n + 1,
                    "endpoint_row": endpoint.row,
                    "tenant": "default",
                    "state": DeliveryState.DELIVERED,
                    "lane": n + 1,
                    "sequence": 1,
                    "progress_of": n + 1 if _kind(n) == "progress" else None,
                    "attempted_at": now if _kind(n) == "progress" else None,
                    "attempts": 1,
                    "created_at": now,
                    "updated_at": now,
                }
                for n in range(HISTORY)
            ],
        )
    async with outpost.database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("ANALYZE"))


def _kind(number: int) -> str | None:
    return "progress" if number % 2 else None


async def _work(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    """Every hot statement at least once, with something to do."""
    await outpost.publish("a", "b", "c", job_id="live")
    await outpost.publish("d", "e", "f")
    await store.fan_out(100)
    for outcome in (Outcome.RETRY, Outcome.DEAD, Outcome.INTERRUPTED, Outcome.DELIVERED):
        claimed = (await store.claim(100)).deliveries
        assert claimed
        await store.record([finished(one, outcome, at=clock.now(), hold_s=1.0) for one in claimed[:2]])
        await store.release(claimed[2:])
        clock.advance(5)
        await store.make_due(100)
        await store.pass_lanes(100)
        await store.orphans(100)
    await _report(outpost, store, clock)


async def _report(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    """Progress that is superseded by each of the hot statements that can."""
    clock.advance(3600)
    await store.make_due(100)
    while claimed := (await store.claim(100)).deliveries:
        await store.record([finished(one, at=clock.now()) for one in claimed])
    superseded = 0
    for ending in ("record", "release", "record"):
        await outpost.publish("job.progress", job_id="live")
        await store.fan_out(100)
        (claimed_one,) = (await store.claim(100)).deliveries
        await outpost.publish("job.progress", "job.progress", job_id="live")
        superseded += (await store.fan_out(100)).superseded
        if ending == "record":
            superseded += len((await store.record([finished(claimed_one, Outcome.RETRY, at=clock.now())])).superseded)
        else:
            await store.release([claimed_one])
        clock.advance(5)
        await store.make_due(100)
        (last,) = (await store.claim(100)).deliveries
        await store.record([finished(last, at=clock.now())])
        clock.advance(5)
    await outpost.publish("job.progress", "job.completed", job_id="live")
    superseded += (await store.fan_out(100)).superseded
    assert superseded == 6


@contextmanager
def _statements(outpost: Outpost) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        seen.append((statement, parameters))

    engine = outpost.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def _whole_table_reads(outpost: Outpost, statements: list[tuple[str, Any]]) -> list[str]:
    found = []
    async with outpost.database.read() as connection:
        for statement, parameters in statements:
            if not re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH)", statement):
                continue
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found += [f"{detail} IN {statement}" for detail in plan.scalars(3) if _WHOLE_TABLE.match(detail)]
    return found


async def test_on_sqlite_no_hot_statement_reads_a_whole_table(sqlite_outpost: Outpost, clock: FakeClock) -> None:
    await _fill(sqlite_outpost)
    executed: list[tuple[str, Any]] = []
    async with sqlite_outpost.store() as store:
        await store._writer.read(  # type: ignore[attr-defined]
            lambda connection: connection._connection.set_trace_callback(lambda sql: executed.append((sql, ())))
        )
        await _work(sqlite_outpost, store, clock)
    assert len(executed) > 50
    assert await _whole_table_reads(sqlite_outpost, executed) == []


async def test_on_sqlite_no_index_fills_a_table_for_each_row_that_changes(sqlite_outpost: Outpost) -> None:
    # As a list of three in an index's condition does, which costs as much as the change.
    async with sqlite_outpost.database.read() as connection:
        for change in (
            "UPDATE deliveries SET state = 'sending', attempts = 1, updated_at = 1 WHERE row_id = 1",
            "INSERT INTO deliveries (event_row, endpoint_row, tenant) VALUES (1, 1, 'default')",
        ):
            program = (await connection.exec_driver_sql(f"EXPLAIN {change}")).all()
            assert "OpenEphemeral" not in {row.opcode for row in program}


async def test_on_sqlite_a_redelivery_of_progress_reads_no_whole_table(sqlite_outpost: Outpost) -> None:
    await _fill(sqlite_outpost)
    rows = [row for row in await sqlite_outpost.deliveries() if row.progress_of is not None]
    with _statements(sqlite_outpost) as executed:
        results = await sqlite_outpost.put_back(*rows[:2])
    assert {result.outcome for result in results} == {"put_back"}
    assert await _whole_table_reads(sqlite_outpost, executed) == []


async def test_on_sqlite_the_gauges_read_no_whole_table(sqlite_outpost: Outpost) -> None:
    await _fill(sqlite_outpost)
    with _statements(sqlite_outpost) as executed:
        async with sqlite_outpost.database.read() as connection:
            await gauges.measure(connection, sqlite_outpost.database)
    assert executed
    assert await _whole_table_reads(sqlite_outpost, executed) == []


async def _whole_tables_read(outpost: Outpost, store: HotStore) -> dict[str, int]:
    """How often each big table was read from end to end so far."""
    await tell_what_was_read(store)
    async with outpost.database.read() as connection:
        rows = await connection.execute(
            text(
                "SELECT relname, seq_scan FROM pg_stat_user_tables"
                " WHERE relname IN ('deliveries', 'events', 'jobs', 'job_events')"
            )
        )
        return {row.relname: row.seq_scan for row in rows}


async def test_on_postgresql_no_hot_statement_reads_a_whole_table(postgres_outpost: Outpost, clock: FakeClock) -> None:
    await _fill(postgres_outpost)
    async with postgres_outpost.store() as store:
        before = await _whole_tables_read(postgres_outpost, store)
        await _work(postgres_outpost, store, clock)
        assert await _whole_tables_read(postgres_outpost, store) == before


async def _fill_many(outpost: Outpost, endpoint_row: int, many: int) -> None:
    """The same history as `_fill`, made by the server."""
    numbers = "FROM generate_series(1, :many) AS n"
    for statement in (
        f"INSERT INTO events (type, data, job_id) SELECT 'old', '{{}}', 'j' || n {numbers}",
        "TRUNCATE fanout_queue",
        f"INSERT INTO jobs (tenant, job_id, last_sequence) SELECT 'default', 'j' || n, 1 {numbers}",
        (
            f"INSERT INTO job_events (job_row, sequence, event_row, kind)"
            f" SELECT n, 1, n, CASE WHEN n % 2 = 0 THEN 'progress' END {numbers}"
        ),
        (
            f"INSERT INTO deliveries (event_row, endpoint_row, tenant, state, lane, sequence, progress_of,"
            f" attempted_at, attempts) SELECT n, :endpoint, 'default', 'delivered', n, 1,"
            f" CASE WHEN n % 2 = 0 THEN n END, CASE WHEN n % 2 = 0 THEN now() END, 1 {numbers}"
        ),
        (
            f"INSERT INTO attempts (delivery_row, number, started_at, duration_ms, status)"
            f" SELECT n, 1, now(), 1.0, 200 {numbers}"
        ),
    ):
        given = {name: value for name, value in (("many", many), ("endpoint", endpoint_row)) if f":{name}" in statement}
        async with outpost.database.begin() as connection:
            await connection.execute(text(statement), given)
    async with outpost.database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("VACUUM ANALYZE"))


@pytest.mark.parametrize(
    "many", [10_000, pytest.param(1_000_000, marks=[pytest.mark.campaign, pytest.mark.timeout(900)])]
)
async def test_on_postgresql_the_hot_statements_read_what_is_live_whatever_lies_behind_them(
    postgres_outpost: Outpost, clock: FakeClock, many: int
) -> None:
    outpost = postgres_outpost
    endpoint = await outpost.endpoint(max_in_flight=5, progress_interval_s=1.0)
    await _fill_many(outpost, endpoint.row, many)
    async with outpost.store() as store:
        whole, entries = await _whole_tables_read(outpost, store), await rows_read(outpost, store)
        await _work(outpost, store, clock)
        assert await _whole_tables_read(outpost, store) == whole
        read = {index: now - entries.get(index, 0) for index, now in (await rows_read(outpost, store)).items()}
    # Some fifty statements over a dozen rows each.
    assert all(count < 2000 for count in read.values()), read
    assert read["ix_deliveries_claim"] > 0
    assert read["ix_deliveries_sending"] > 0


@pytest.mark.parametrize("due_in_s", [-3600.0, 3600.0], ids=["overdue", "due later"])
async def test_on_postgresql_a_batch_of_retries_reads_little_more_than_itself_of_many_without_statistics(
    postgres_url: str, due_in_s: float
) -> None:
    # By the server's own clock, which is what dispatchers go by there.
    outpost = Outpost(postgres_url, SystemClock())
    async with outpost.database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO deliveries (event_row, endpoint_row, tenant, due_at)"
                " SELECT n, n % 7, 'default', now() + :due_in FROM generate_series(1, :many) AS n"
            ),
            {"due_in": timedelta(seconds=due_in_s), "many": 4 * HISTORY},
        )
    async with outpost.store() as store:
        before = await _read_of(outpost, store, "ix_deliveries_due")
        made, _ = await store.make_due(100)
        assert made == (100 if due_in_s < 0 else 0)
        # The batch, what is due next, and what is dead of the batch in the index by then.
        assert await _read_of(outpost, store, "ix_deliveries_due") - before < 400
    await outpost.close()


async def test_on_postgresql_heads_that_hold_their_lanes_are_not_read_before_their_time(postgres_url: str) -> None:
    outpost = Outpost(postgres_url, SystemClock())
    async with outpost.database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO deliveries (event_row, endpoint_row, tenant, lane, sequence, due_at, hold_until)"
                " SELECT n, 1, 'default', n, 1, now() + interval '1 h', now() + interval '1 h'"
                " FROM generate_series(1, :many) AS n"
            ),
            {"many": HISTORY},
        )
    async with outpost.store() as store:
        before = await _read_of(outpost, store, "ix_deliveries_hold")
        assert await store.pass_lanes(100) == 0
        assert await _read_of(outpost, store, "ix_deliveries_hold") == before
    await outpost.close()


async def test_on_postgresql_a_claim_does_not_walk_through_what_its_endpoint_was_sent_before(postgres_url: str) -> None:
    outpost = Outpost(postgres_url, SystemClock())
    endpoint = await outpost.endpoint(max_in_flight=1000)
    async with outpost.database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO deliveries (event_row, endpoint_row, tenant, state, fresh)"
                " SELECT n, :endpoint, 'default', CASE WHEN n <= :history THEN 'delivered' ELSE 'pending' END,"
                " n % 2 = 0 FROM generate_series(1, 4 * :history) AS n"
            ),
            {"endpoint": endpoint.row, "history": HISTORY},
        )
    async with outpost.database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("ANALYZE"))
    async with outpost.store() as store:
        before = [await _read_of(outpost, store, index) for index in ("pk_deliveries", "ix_deliveries_claim")]
        assert len((await store.claim(100)).deliveries) == 100
        after = [await _read_of(outpost, store, index) for index in ("pk_deliveries", "ix_deliveries_claim")]
        # The rows that it takes, and no more of the fresh ones and of the others than that.
        assert after[0] - before[0] < 400
        assert after[1] - before[1] < 400
    await outpost.close()


async def _read_of(outpost: Outpost, store: HotStore, index: str) -> int:
    """How many entries of an index were read so far."""
    return (await rows_read(outpost, store))[index]


async def test_on_postgresql_the_gauges_read_no_whole_table(postgres_outpost: Outpost) -> None:
    await _fill(postgres_outpost)
    async with postgres_outpost.database.read() as connection:
        with _statements(postgres_outpost) as executed:
            await gauges.measure(connection, postgres_outpost.database)
        for statement, parameters in list(executed):
            plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            whole = [row[0] for row in plan if "Seq Scan on deliveries" in row[0]]
            assert whole == [], statement


async def test_one_plan_serves_all_fan_outs_and_looks_for_endpoints_by_type(postgres_outpost: Outpost) -> None:
    types = [f"job.type_{number}" for number in range(20)]
    async with postgres_outpost.store() as store:
        assert isinstance(store, PostgresStore)
        for event_type in types:
            await postgres_outpost.endpoint(event_types=(event_type,))
        for repeated in (1, 20):
            await postgres_outpost.publish(*types * repeated)
            before = await _subscriptions_read(postgres_outpost, store)
            assert (await store.fan_out(1000)).deliveries == 20 * repeated
            # Each type's, however many events are of it.
            assert await _subscriptions_read(postgres_outpost, store) - before == 20

        async def plans(driver: Driver) -> list[tuple[int, int]]:
            rows = await driver.fetch("""
                SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%subscriptions%'
                AND statement LIKE '%INSERT INTO%'""")
            return [(row[0], row[1]) for row in rows]

        made = await store._fanning.transact(plans)
        assert (0, 2) in made
        assert not any(custom for custom, _ in made)


async def _subscriptions_read(outpost: Outpost, store: HotStore) -> int:
    return await _read_of(outpost, store, "pk_subscriptions")

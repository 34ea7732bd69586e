"""Plans: with thousands of callbacks of which few have work, no statement that runs all the time reads them all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import event, insert, text

from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store import endpoint_status, job_callbacks
from dispatcher.store.postgres.connection import Role
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

OPEN, EXPIRED = 2000, 3000
_ON_SQLITE = re.compile(
    r"SCAN (e|s|home|endpoints|endpoint_state|destinations|jobs|deliveries)\b(?! USING (COVERING )?INDEX ix_)"
)
# Of the other tables PostgreSQL reads the whole as long as they are as small as here.
_ON_POSTGRESQL = re.compile(r"Seq Scan on (endpoints|endpoint_state|subscriptions)")


async def _fill(outpost: Outpost, clock: FakeClock) -> None:
    """Callbacks of jobs that are under way and of others that ended long ago, and one that has work."""
    busy = await outpost.endpoint(job_id="busy")
    template = {**(await outpost.endpoint_now(busy))._mapping}
    columns = {column.name for column in outpost.tables.endpoints.c}
    template = {name: value for name, value in template.items() if name in columns}
    long_ago = clock.now() - timedelta(hours=12)
    rows = [template | {"row_id": n, "job_id": f"j{n}", "catch_up": False} for n in range(1, OPEN + 1)]
    rows += [
        template
        | {
            "row_id": OPEN + n,
            "job_id": f"old{n}",
            "catch_up": False,
            "status": EndpointStatus.DISABLED,
            "disabled_reason": Reason.EXPIRED,
            "expires_at": long_ago,
            "updated_at": long_ago,
        }
        for n in range(1, EXPIRED + 1)
    ]
    async with outpost.database.begin() as connection:
        await connection.execute(insert(outpost.tables.endpoints), rows)
        await connection.execute(
            insert(outpost.tables.endpoint_state), [{"endpoint_row": row["row_id"]} for row in rows]
        )
        await connection.execute(
            insert(outpost.tables.jobs), [{"tenant": "default", "job_id": row["job_id"]} for row in rows]
        )
        await connection.execute(
            insert(outpost.tables.deliveries),
            [
                {
                    "event_row": -row["row_id"],
                    "endpoint_row": row["row_id"],
                    "tenant": "default",
                    "state": DeliveryState.DELIVERED,
                    "created_at": long_ago,
                    "updated_at": long_ago,
                }
                for row in rows
            ],
        )
        await connection.execute(
            insert(outpost.tables.subscriptions),
            [
                {"tenant": "default", "pattern": "*", "job_id": row["job_id"], "endpoint_row": row["row_id"]}
                for row in rows[:OPEN]
            ],
        )
    async with outpost.database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("VACUUM ANALYZE" if outpost.database.dialect == "postgresql" else "ANALYZE"))


async def _work(outpost: Outpost, clock: FakeClock, store: Any) -> None:
    """An event of one callback, from the queue to its record; two are refused a connection first."""
    await outpost.publish("a", job_id="busy")
    while (await store.fan_out(100)).events:
        pass
    (claimed,) = (await store.claim(100)).deliveries
    await store.record([finished(claimed, at=clock.now())])


@contextmanager
def _statements(outpost: Outpost) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH)", statement) and "pg_advisory" not in statement:
            seen.append((statement, parameters))

    engine = outpost.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_on_sqlite_an_event_costs_the_same_however_many_callbacks_there_are(
    sqlite_outpost: Outpost, clock: FakeClock
) -> None:
    await _fill(sqlite_outpost, clock)
    executed: list[str] = []
    async with sqlite_outpost.store() as store:
        await store._writer.read(  # type: ignore[attr-defined]
            lambda connection: connection._connection.set_trace_callback(executed.append)
        )
        await _work(sqlite_outpost, clock, store)
    found, looked_at = [], 0
    async with sqlite_outpost.database.read() as connection:
        for statement in executed:
            if not re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH)", statement):
                continue
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
            looked_at += 1
            found += [f"{detail} IN {statement}" for detail in plan.scalars(3) if _ON_SQLITE.match(detail)]
    assert looked_at > 10
    assert found == []


async def test_on_postgresql_an_event_costs_the_same_however_many_callbacks_there_are(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await _fill(outpost, clock)

    async def rows_read(store: Any) -> int:
        for role in [role for role in vars(store).values() if isinstance(role, Role)]:
            await role.run(lambda driver: driver.execute("SELECT pg_stat_force_next_flush()"))
        async with outpost.database.read() as connection:
            statistics = "SELECT sum(seq_tup_read) + sum(idx_tup_fetch) FROM pg_stat_user_tables WHERE relname IN"
            rows = await connection.execute(text(f"{statistics} ('endpoints', 'endpoint_state', 'subscriptions')"))
            return int(rows.scalar_one())

    async with outpost.store() as store:
        await _work(outpost, clock, store)
        before = await rows_read(store)
        await _work(outpost, clock, store)
        assert await rows_read(store) - before < 50


async def test_the_duties_of_callbacks_stay_on_their_indexes(outpost: Outpost, clock: FakeClock) -> None:
    database = outpost.database
    await _fill(outpost, clock)
    lately = clock.now() - timedelta(minutes=10)
    with _statements(outpost) as executed:
        async with database.begin() as connection:
            await job_callbacks.catch_up(connection, database, 100)
            await job_callbacks.expire_settled(connection, database, 0, 100, timedelta(hours=1))
            await endpoint_status.expired(connection, database, 100)
            await endpoint_status.forget_expired_callbacks(connection, database, clock.now() - timedelta(days=1), 100)
            await endpoint_status.to_cancel(connection, database, lately, 100)
    assert len(executed) >= 6
    sqlite = database.dialect == "sqlite"
    explain, whole = ("EXPLAIN QUERY PLAN", _ON_SQLITE) if sqlite else ("EXPLAIN", _ON_POSTGRESQL)
    found = []
    async with database.read() as connection:
        for statement, parameters in executed:
            plan = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            found += [f"{line} IN {statement}" for line in plan.scalars(3 if sqlite else 0) if whole.search(line)]
    assert found == []

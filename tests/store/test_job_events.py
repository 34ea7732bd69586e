"""Reading behind a sequence is a range of an index, however long the job is; so is asking which jobs have moved."""

from typing import Any

import pytest
from sqlalchemy import event, insert, text

from dispatcher.store.job_events import events_behind, find_job, moved_jobs, queued_events
from tests.outpost import Outpost

EVENTS = 100_000
JOBS = 20_000
LAST = 60

_SERIES = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :events) SELECT {} FROM n",
    "postgresql": "SELECT {} FROM generate_series(1, CAST(:events AS integer)) AS n(i)",
}


async def long_job(outpost: Outpost) -> int:
    """A job with `EVENTS` events, of which retention kept the last, among many jobs. Answers its row."""
    tables, series = outpost.tables, _SERIES[outpost.database.dialect]
    async with outpost.database.begin() as connection:
        await connection.execute(
            text("INSERT INTO jobs (tenant, job_id, last_sequence) " + series.format("'default', 'j' || i, :events")),
            {"events": JOBS},
        )
        job = await find_job(connection, tables, "default", "j500")
        assert job is not None
        await connection.execute(
            text("INSERT INTO job_events (job_row, sequence, event_row) " + series.format(":job, i, i")),
            {"events": EVENTS, "job": job.row_id},
        )
        await connection.execute(
            tables.jobs.update().where(tables.jobs.c.row_id == job.row_id).values(last_sequence=EVENTS)
        )
        kept = range(EVENTS - LAST + 1, EVENTS + 1)
        await connection.execute(
            insert(tables.events),
            [{"row_id": n, "id": f"e{n}", "type": "job.step", "data": "{}", "job_id": "j500"} for n in kept],
        )
        await connection.execute(tables.fanout_queue.delete())
    async with outpost.database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("ANALYZE"))
    return int(job.row_id)


async def plans(outpost: Outpost, work: Any) -> str:
    """How the database would execute each statement of `work`."""
    seen: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        seen.append((statement, parameters))

    engine = outpost.database.engine.sync_engine
    explain = "EXPLAIN QUERY PLAN" if outpost.database.dialect == "sqlite" else "EXPLAIN"
    async with outpost.database.read() as connection:
        event.listen(engine, "before_cursor_execute", note)
        try:
            await work(connection)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        lines = []
        for statement, parameters in seen:
            plan = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            lines += [str(row[-1]) for row in plan]
    assert lines
    return "\n".join(lines)


@pytest.mark.parametrize("after", [0, EVENTS // 2, EVENTS - LAST])
async def test_a_part_of_a_long_job_is_a_range_of_its_index(outpost: Outpost, after: int) -> None:
    row = await long_job(outpost)
    plan = await plans(outpost, lambda connection: events_behind(connection, outpost.tables, row, after, 50))
    if outpost.database.dialect == "sqlite":
        assert "SEARCH job_events USING PRIMARY KEY (job_row=? AND sequence>?)" in plan
        assert "SCAN events" not in plan
    else:
        assert "using pk_job_events" in plan
        assert "Seq Scan on job_events" not in plan
    async with outpost.database.read() as connection:
        part = await events_behind(connection, outpost.tables, row, EVENTS - LAST, 50)
    assert [one.sequence for one in part] == list(range(EVENTS - LAST + 1, EVENTS - LAST + 51))


async def test_which_jobs_have_moved_is_asked_by_their_index(outpost: Outpost) -> None:
    await long_job(outpost)
    watched = [("default", f"j{n}", JOBS) for n in range(490, 511)] + [("default", "new", 0), ("rival", "j500", 0)]
    plan = await plans(outpost, lambda connection: moved_jobs(connection, outpost.tables, watched))
    assert "uq_jobs_job_id" in plan or "SEARCH j USING INDEX" in plan
    async with outpost.database.read() as connection:
        assert await moved_jobs(connection, outpost.tables, watched) == [("default", "j500")]


async def test_of_a_long_queue_the_oldest_are_looked_through(outpost: Outpost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.store.job_events.QUEUE_LOOKED_THROUGH", 3)
    await outpost.publish("a", "b", job_id="job_1")
    await outpost.publish("a", "b", job_id="job_2")
    async with outpost.database.read() as connection:
        found = [await queued_events(connection, outpost.tables, "default", job) for job in ("job_1", "job_2")]
        assert found == [2, 1]
        assert await queued_events(connection, outpost.tables, "acme", "job_1") == 0

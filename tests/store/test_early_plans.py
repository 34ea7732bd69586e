"""Plans that are made while there is next to nothing, and kept: on PostgreSQL they must serve when there is much."""

import pytest
from sqlalchemy import text

from dispatcher.clock import SystemClock
from dispatcher.rules.verdict import Outcome
from tests.outpost import Outpost, finished
from tests.store.reads import rows_read

#: Rows that come of each table, of which nobody gathers statistics, and how many of them one statement may read.
MANY, FEW = 20_000, 500
_TABLES = ("deliveries", "events", "endpoints", "endpoint_state", "destinations", "jobs", "job_events")
_MUCH = (
    "INSERT INTO destinations (name) SELECT 'http://h' || n FROM generate_series(1, :many) AS n",
    """INSERT INTO endpoints ({columns}) SELECT {values} FROM endpoints, generate_series(1, :many) AS n
       WHERE row_id = :endpoint""",
    "INSERT INTO endpoint_state (endpoint_row) SELECT n FROM generate_series(1, :many) AS n",
    """INSERT INTO jobs (tenant, job_id, last_sequence, updated_at)
       SELECT 'default', 'h' || n, 1, now() FROM generate_series(1, :many) AS n""",
    "INSERT INTO job_events (job_row, sequence, event_row) SELECT row_id, 1, -row_id FROM jobs WHERE job_id LIKE 'h%'",
    # What one endpoint was sent, one job's a lane, and what waits for it.
    """INSERT INTO deliveries
           (event_row, endpoint_row, tenant, state, lane, sequence, attempts, updated_at, created_at)
       SELECT -n, :endpoint, 'default', 'delivered', n + 1000, 1, 1, now(), now()
       FROM generate_series(1, :many) AS n""",
    """INSERT INTO deliveries (event_row, endpoint_row, tenant, state, fresh, created_at, updated_at)
       SELECT -:many - n, :endpoint, 'default', 'pending', n % 2 = 0, now(), now()
       FROM generate_series(1, :many) AS n""",
)


@pytest.mark.parametrize("limit", [2, 40])
async def test_the_hot_statements_read_no_more_than_they_need_though_their_plans_were_made_when_all_was_tiny(
    postgres_url: str, limit: int
) -> None:
    outpost = Outpost(postgres_url, SystemClock())
    async with outpost.database.begin() as connection:
        for table in _TABLES:
            await connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    endpoints = [
        await outpost.endpoint(f"http://127.0.0.1:800{n}/", rate_limit=1000 if n % 2 else None, progress_interval_s=0.1)
        for n in range(4)
    ]
    async with outpost.store() as store:

        async def step() -> list[str]:
            """Everything once; what read too much."""
            greedy = []
            await outpost.publish("a", "job.progress")
            await outpost.publish("a", "job.progress", "job.progress", "b", job_id="job_1")
            before = await rows_read(outpost, store)
            for outcome in (None, Outcome.RETRY, Outcome.DELIVERED):
                if outcome is None:
                    assert (await store.fan_out(100)).events
                else:
                    claimed = (await store.claim(limit)).deliveries
                    assert claimed
                    at = outpost.clock.now()
                    await store.record([finished(one, outcome, at=at, delay_s=None) for one in claimed])
                after = await rows_read(outpost, store)
                greedy += [
                    f"{name}: {after[name] - before[name]}" for name in after if after[name] > before[name] + FEW
                ]
                before = after
            return greedy

        for _ in range(3):
            await step()
        async with outpost.database.begin() as connection:
            columns = [column.name for column in outpost.tables.endpoints.columns]
            values = ["n" if column == "row_id" else f'"{column}"' for column in columns]
            for statement in _MUCH:
                much = statement.format(columns=", ".join(f'"{each}"' for each in columns), values=", ".join(values))
                given = {"many": MANY, "endpoint": endpoints[0].row}
                await connection.execute(text(much), {k: v for k, v in given.items() if f":{k}" in much})
        assert await step() == []
        assert await step() == []
    await outpost.close()

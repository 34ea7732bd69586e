"""Plans that are made when very much waits, and the statistics say so: on PostgreSQL they must not go through it."""

import pytest
from sqlalchemy import text

from dispatcher.clock import SystemClock
from dispatcher.rules.verdict import Outcome
from dispatcher.store.ingest import Straight
from tests.outpost import Outpost, finished
from tests.store.reads import rows_read

#: Events and deliveries that wait, and how many rows one statement may read of them.
MANY, FEW = 300_000, 1000


@pytest.mark.parametrize("straight", [None, Straight(50, ())], ids=["fanned out", "claimed along with it"])
async def test_what_waits_is_not_gone_through_to_take_some_of_it(postgres_url: str, straight: Straight | None) -> None:
    outpost = Outpost(postgres_url, SystemClock())
    endpoint = await outpost.endpoint(max_in_flight=1000)
    waiting = {"many": MANY, "endpoint": endpoint.row}
    for statement in (
        "INSERT INTO events (type, data) SELECT 'job.step', '{}' FROM generate_series(1, :many)",
        "TRUNCATE fanout_queue",
        """INSERT INTO deliveries (event_row, endpoint_row, tenant, fresh, due_at)
           SELECT row_id, :endpoint, 'default', row_id % 2 = 0, CASE WHEN row_id % 3 = 0 THEN now() END FROM events""",
        "INSERT INTO events (type, data) SELECT 'job.step', '{}' FROM generate_series(1, :many)",
    ):
        async with outpost.database.begin() as connection:
            given = {name: value for name, value in waiting.items() if f":{name}" in statement}
            await connection.execute(text(statement), given)
    async with outpost.database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("VACUUM ANALYZE"))
    greedy: list[str] = []
    async with outpost.store() as store:
        for _ in range(2):
            before = await rows_read(outpost, store)
            for step in ("fan out", "claim", "record", "release", "due", "orphans", "lanes"):
                match step:
                    case "fan out":
                        assert (await store.fan_out(100, straight)).events == 100
                    case "claim":
                        claimed = (await store.claim(50)).deliveries
                        assert len(claimed) == 50
                    case "record":
                        at = outpost.clock.now()
                        await store.record([finished(one, Outcome.DELIVERED, at=at) for one in claimed[:25]])
                    case "release":
                        await store.release(claimed[25:])
                    case "due":
                        assert (await store.make_due(100))[0] == 100
                    case "orphans":
                        await store.orphans(100)
                    case "lanes":
                        await store.pass_lanes(100)
                after = await rows_read(outpost, store)
                greedy += [
                    f"{step}, {name}: {after[name] - before[name]}"
                    for name in after
                    if after[name] > before[name] + FEW
                ]
                before = after
    assert greedy == []
    await outpost.close()

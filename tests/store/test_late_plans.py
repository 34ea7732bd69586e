"""Plans that are made when very much waits, and the statistics say so: on PostgreSQL they must not go through it."""

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import text

from dispatcher.clock import SystemClock
from dispatcher.outbox.events import new_event
from dispatcher.rules.verdict import Outcome
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Straight
from tests.outpost import Outpost, finished
from tests.store.reads import rows_read
from tests.store.steps import verified

#: How many rows one statement may read.
FEW = 1500
GO = Straight(50, ())

_WITHOUT_JOBS = (
    "INSERT INTO events (type, data) SELECT 'job.step', '{}' FROM generate_series(1, :many)",
    "TRUNCATE fanout_queue",
    """INSERT INTO deliveries (event_row, endpoint_row, tenant, fresh, due_at)
       SELECT row_id, :endpoint, 'default', row_id % 2 = 0, CASE WHEN row_id % 3 = 0 THEN now() END FROM events""",
    "INSERT INTO events (type, data) SELECT 'job.step', '{}' FROM generate_series(1, :many)",
)
# Of each job two that wait, the first of them at the head of its lane, and two more in the queue; every third head has
# held its lane for long enough.
_OF_JOBS = (
    """INSERT INTO jobs (tenant, job_id, last_sequence)
       SELECT 'default', 'j' || n, 2 FROM generate_series(1, :many / 2) n""",
    """INSERT INTO events (type, data, job_id)
       SELECT 'job.progress', '{}', 'j' || (n + 1) / 2 FROM generate_series(1, :many) n""",
    "TRUNCATE fanout_queue",
    """INSERT INTO job_events (job_row, sequence, event_row, kind)
       SELECT j.row_id, 2 - e.row_id % 2, e.row_id, 'progress' FROM events e JOIN jobs j ON j.job_id = e.job_id""",
    """INSERT INTO deliveries
           (event_row, endpoint_row, tenant, lane, sequence, progress_of, waiting, due_at, hold_until)
       SELECT n.event_row, :endpoint, 'default', n.job_row, n.sequence, n.job_row, n.sequence > 1,
              CASE WHEN failed THEN now() + interval '1 h' END, CASE WHEN failed THEN now() END
       FROM (SELECT *, sequence = 1 AND job_row % 3 = 0 AS failed FROM job_events) n""",
    """INSERT INTO events (type, data, job_id)
       SELECT CASE WHEN n % 2 = 1 THEN 'job.progress' ELSE 'job.completed' END, '{}', 'j' || (n + 1) / 2
       FROM generate_series(1, :many) n""",
)


#: Events that wait, and deliveries.
however_many = pytest.mark.parametrize(
    "many", [200_000, pytest.param(1_000_000, marks=[pytest.mark.campaign, pytest.mark.timeout(900)])]
)


@pytest.fixture
async def outpost(postgres_url: str) -> AsyncIterator[Outpost]:
    """By the server's own clock, which is what dispatchers go by there."""
    opened = Outpost(postgres_url, SystemClock())
    yield opened
    await opened.close()


async def _fill(outpost: Outpost, statements: Sequence[str], many: int) -> None:
    endpoint = await outpost.endpoint(event_types=("job.*",), max_in_flight=1000)
    given = {"many": many, "endpoint": endpoint.row}
    for statement in statements:
        async with outpost.database.begin(limited=False) as connection:
            await connection.execute(
                text(statement), {name: value for name, value in given.items() if f":{name}" in statement}
            )
    async with outpost.database.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("VACUUM ANALYZE"))


class Greed:
    """Which steps have read more than a few rows of an index or table."""

    def __init__(self, outpost: Outpost, store: HotStore) -> None:
        self._outpost = outpost
        self._store = store
        self._before: dict[str, int] = {}
        self.found: list[str] = []

    async def after(self, step: str) -> None:
        """What was read since the last one was this step's."""
        now = await rows_read(self._outpost, self._store)
        if self._before:
            read = {name: now[name] - self._before.get(name, 0) for name in now}
            self.found += [f"{step}, {name}: {count}" for name, count in read.items() if count > FEW]
        self._before = now


async def _step(outpost: Outpost, store: HotStore, greed: Greed, straight: Straight | None, passable: int) -> None:
    """Each of the hot statements once."""
    await greed.after("nothing")
    assert (await store.fan_out(100, straight)).events == 100
    await greed.after("fan out")
    claimed: Sequence[Claimed] = (await store.claim(60)).deliveries
    assert len(claimed) == 60
    await greed.after("claim")
    at = outpost.clock.now()
    for outcome in (Outcome.DELIVERED, Outcome.RETRY, Outcome.DEAD):
        batch, claimed = claimed[:15], claimed[15:]
        await store.record([finished(one, outcome, at=at, delay_s=0.0, hold_s=0.0) for one in batch])
        await greed.after(f"record {outcome}")
    await store.release(claimed)
    await greed.after("release")
    await store.make_due(10)
    await greed.after("make due")
    assert await store.pass_lanes(100) == passable
    await greed.after("pass lanes")
    await store.orphans(100)
    await greed.after("orphans")


@however_many
@pytest.mark.parametrize("straight", [None, GO], ids=["fanned out", "claimed along with it"])
@pytest.mark.parametrize(
    ("statements", "passable"), [(_WITHOUT_JOBS, 0), (_OF_JOBS, 100)], ids=["without jobs", "of jobs"]
)
async def test_what_waits_is_not_gone_through_to_take_some_of_it(
    outpost: Outpost, statements: Sequence[str], straight: Straight | None, passable: int, many: int
) -> None:
    await _fill(outpost, statements, many)
    async with outpost.store() as store:
        greed = Greed(outpost, store)
        for _ in range(2):
            await _step(outpost, store, greed, straight, passable)
    assert greed.found == []


@however_many
async def test_what_waits_for_others_is_not_gone_through_to_bear_a_delivery_in_flight(
    outpost: Outpost, born: list[bool], many: int
) -> None:
    await _fill(outpost, _WITHOUT_JOBS[:-1], many)
    await verified(outpost, event_types=("comes",))
    async with outpost.store() as store:
        greed = Greed(outpost, store)
        for _ in range(2):
            await greed.after("nothing")
            await outpost.publish("comes")
            assert (await store.fan_out(10, GO)).claimed is not None
            await greed.after("fan out")
            event = new_event("comes", "{}", max_payload=100)
            assert (await store.ingest([[event]], GO)).claimed is not None
            await greed.after("ingest")
    assert born == [True] * 4
    assert greed.found == []

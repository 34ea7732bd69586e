"""The deliveries' state machine under any order of publishing, claiming, crashing, redelivering and cancelling."""

import asyncio
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import Finished, HotStore, Orphan
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

#: What is reported of a job at once; `log` is progress by the settings.
REPORTS = (
    ("job.progress",),
    ("job.progress", "job.progress"),
    ("job.progress", "a", "job.progress"),
    ("log",),
    ("log", "job.progress"),
    ("job.progress", "job.completed", "job.progress"),
)
INTERVAL_S = 25
LIVE = (DeliveryState.PENDING, DeliveryState.SENDING)
Step = tuple[str, int]

STEPS = st.tuples(
    st.sampled_from(
        ["publish", "report", "report", "fan_out", "fan_out", "claim", "claim", "record", "record", "record", "crash",
         "reclaim", "redeliver", "cancel", "advance", "release", "late"]
    ),
    st.integers(0, 11),
)  # fmt: skip


class Deployment:
    """A store that is driven step by step, with what a dispatcher would remember."""

    def __init__(self, outpost: Outpost, clock: FakeClock, stack: AsyncExitStack) -> None:
        self.outpost = outpost
        self.clock = clock
        self.stack = stack
        self.store: HotStore
        self.in_flight: list[Claimed] = []
        self.lost: list[Claimed] = []
        #: Deliveries that somebody asked for again: their sequence says nothing about when they are attempted.
        self.asked_for: set[int] = set()
        self.interval_endpoint = 0
        self.begun_at: dict[int, tuple[Claimed, datetime]] = {}

    async def start(self) -> None:
        self.store = await self.stack.enter_async_context(self.outpost.store())

    async def publish(self, choice: int) -> None:
        await self.outpost.publish(*["a"] * (choice % 3 + 1), job_id=[None, "job_1", "job_2"][choice % 3])

    async def report(self, choice: int) -> None:
        await self.outpost.publish(*REPORTS[choice % len(REPORTS)], job_id=f"job_{choice // 6 + 1}")

    async def fan_out(self, choice: int) -> None:
        await self.store.fan_out(choice % 4 + 1)

    async def claim(self, choice: int) -> None:
        before = await self.outpost.deliveries()
        settled = {job.row_id for job in await self.outpost.rows("jobs") if job.settled_by is not None}
        taken = (await self.store.claim(choice % 5 + 1)).deliveries
        for claimed in taken:
            assert claimed.progress_of not in settled, "no progress begins when its job has ended"
            self._note_beginning(claimed)
            assert claimed.attempt == next(row.attempts for row in before if row.row_id == claimed.delivery_row) + 1
            if claimed.lane is None:
                continue
            lane = [row for row in before if (row.lane, row.endpoint_row) == (claimed.lane, claimed.endpoint_row)]
            assert not [row for row in lane if row.state == DeliveryState.SENDING]
            if not claimed.late:
                assert not [
                    row for row in lane if row.state in LIVE and not row.late and row.sequence < claimed.sequence
                ]
        self.in_flight += taken

    def _note_beginning(self, claimed: Claimed) -> None:
        if claimed.progress_of is None or claimed.attempt > 1 or claimed.delivery_row in self.asked_for:
            return
        for other, begun_at in self.begun_at.values():
            if claimed.endpoint_row == other.endpoint_row == self.interval_endpoint:
                passed_s = (self.clock.now() - begun_at).total_seconds()
                assert other.progress_of != claimed.progress_of or passed_s >= INTERVAL_S, "the interval is kept"
        self.begun_at[claimed.delivery_row] = claimed, self.clock.now()

    def _pick(self, choice: int) -> Claimed | None:
        return self.in_flight.pop(choice % len(self.in_flight)) if self.in_flight else None

    async def record(self, choice: int) -> None:
        claimed = self._pick(choice)
        if claimed is not None:
            outcome = list(Outcome)[choice % 4]
            ended = finished(claimed, outcome, at=self.clock.now(), delay_s=[None, 30.0][choice % 2], hold_s=60.0)
            assert not (await self.store.record([ended])).lost

    async def late(self, choice: int) -> None:
        """An outcome that its dispatcher lost the right to: nothing may change."""
        if self.lost:
            before = await self.outpost.deliveries()
            ended = finished(self.lost[choice % len(self.lost)], list(Outcome)[choice % 4], at=self.clock.now())
            assert (await self.store.record([ended])).lost
            assert await self.outpost.deliveries() == before

    async def release(self, choice: int) -> None:
        claimed = self._pick(choice)
        if claimed is not None:
            await self.store.release([claimed])
            self.begun_at.pop(claimed.delivery_row, None)

    async def crash(self, choice: int) -> None:
        # Its lease ends at once, and nothing of what it holds was recorded.
        await self.store.retire()
        await self.store.close()
        await self.start()
        self.in_flight = []
        await self.reclaim(choice)

    async def reclaim(self, choice: int) -> None:
        orphans = await self.store.orphans(100)
        batch = [_interrupted(orphan, self.clock) for orphan in orphans]
        assert not (await self.store.record(batch)).lost

    async def redeliver(self, choice: int) -> None:
        rows = await self.outpost.deliveries()
        if rows:
            row = rows[choice % len(rows)]
            settled = {job.row_id for job in await self.outpost.rows("jobs") if job.settled_by is not None}
            (result,) = await self.outpost.put_back(row)
            if result.outcome == "put_back":
                assert row.progress_of not in settled
                self.asked_for.add(row.row_id)
                self.begun_at.pop(row.row_id, None)

    async def cancel(self, choice: int) -> None:
        rows = await self.outpost.deliveries()
        if rows:
            row = rows[choice % len(rows)]
            assert await self.outpost.cancel(row) is (row.state == DeliveryState.PENDING)

    async def advance(self, choice: int) -> None:
        self.clock.advance(choice * 10)
        await self.store.make_due(100)
        await self.store.pass_lanes(100)

    async def check(self) -> None:
        rows = await self.outpost.deliveries()
        log: dict[int, list[int]] = defaultdict(list)
        for attempt in await self.outpost.attempts():
            log[attempt.delivery_row].append(attempt.number)
        letters = {letter.delivery_row for letter in await self.outpost.letters()}
        lanes: dict[tuple[int, int], list[Any]] = defaultdict(list)
        for row in rows:
            begun = row.attempts - (row.state == DeliveryState.SENDING)
            assert log[row.row_id] == list(range(1, begun + 1)), "every attempt is numbered, and on record when it ends"
            assert (row.reason is None) == (row.state in (*LIVE, DeliveryState.DELIVERED)), row
            assert (row.dispatcher_row is None) == (row.state != DeliveryState.SENDING)
            assert row.due_at is None or row.state == DeliveryState.PENDING
            assert row.state != DeliveryState.DEAD or row.row_id in letters
            if row.lane is not None and row.state in LIVE:
                lanes[row.lane, row.endpoint_row].append(row)
        for lane in lanes.values():
            assert sum(row.state == DeliveryState.SENDING for row in lane) <= 1
            in_order = sorted((row for row in lane if not row.late), key=lambda row: row.sequence)
            waiting = [row.waiting for row in in_order if row.state == DeliveryState.PENDING]
            if in_order and in_order[0].state == DeliveryState.PENDING:
                assert waiting == [False] + [True] * (len(waiting) - 1), "the head may go, all behind it wait"
            else:
                assert all(waiting)
        await self._check_progress(rows)
        numbers: dict[int, list[int]] = defaultdict(list)
        for numbered in await self.outpost.rows("job_events", "job_row", "sequence"):
            numbers[numbered.job_row].append(numbered.sequence)
        for job in await self.outpost.rows("jobs"):
            assert numbers[job.row_id] == list(range(1, job.last_sequence + 1)), "gap-free from 1"

    async def _check_progress(self, rows: list[Any]) -> None:
        events = {event.row_id: event for event in await self.outpost.rows("events")}
        places = {place.event_row: place for place in await self.outpost.rows("job_events", "job_row", "sequence")}
        settled_by = {job.row_id: job.settled_by for job in await self.outpost.rows("jobs")}
        for job_row, event_row in settled_by.items():
            ends = [place for place in places.values() if (place.job_row, place.kind) == (job_row, "terminal")]
            first = min((place.sequence for place in ends), default=None)
            assert (event_row and places[event_row].sequence) == first, "the first end settles a job"
        same: dict[tuple[int, int, str], list[Any]] = defaultdict(list)
        for row in rows:
            place = places.get(row.event_row)
            assert row.progress_of == (place.job_row if place is not None and place.kind == "progress" else None)
            assert (row.state == DeliveryState.SUPERSEDED) == (row.superseded_by is not None)
            if row.progress_of is not None:
                same[row.progress_of, row.endpoint_row, events[row.event_row].type].append(row)
            if row.superseded_by is None:
                continue
            assert row.progress_of is not None, "state and terminal are never superseded"
            newer = places[row.superseded_by]
            assert row.superseded_by == settled_by[row.progress_of] or (
                newer.kind == "progress"
                and newer.sequence > row.sequence
                and events[newer.event_row].type == events[row.event_row].type
            )
        for (job_row, _, _), progress in same.items():
            waiting = [row for row in progress if row.state == DeliveryState.PENDING]
            assert len(waiting) <= (settled_by[job_row] is None), "of a type the newest waits, and none at the end"
            last = max(progress, key=lambda row: row.sequence)
            assert settled_by[job_row] is not None or last.state != DeliveryState.SUPERSEDED, "the last one is sent"

    async def drain(self) -> None:
        """Everything that is left is delivered."""
        await self.crash(0)
        for _ in range(300):
            await self.store.fan_out(100)
            await self.advance(10)
            await self.claim(4)
            batch = [finished(claimed, at=self.clock.now()) for claimed in self.in_flight]
            self.in_flight = []
            await self.store.record(batch)
            if not batch and all(row.state not in LIVE for row in await self.outpost.deliveries()):
                break
        await self.check()
        assert all(row.state not in LIVE for row in await self.outpost.deliveries()), "no lane is stuck"
        assert await self.outpost.count("fanout_queue") == 0


def _interrupted(orphan: Orphan, clock: FakeClock) -> Finished:
    return Finished(
        delivery_row=orphan.delivery_row,
        endpoint_row=orphan.endpoint_row,
        dispatcher_row=orphan.dispatcher_row,
        attempt=orphan.attempt,
        lane=orphan.lane,
        outcome=Outcome.INTERRUPTED,
        reason=None,
        error=None,
        status=None,
        failures=orphan.failures,
        interruptions=orphan.interruptions + 1,
        delay_s=None,
        hold_s=60.0,
        pause_endpoint_s=None,
        backs_off=False,
        started_at=clock.now(),
        duration_ms=1.0,
        excerpt="",
        progress_of=orphan.progress_of,
    )


async def _play(url: str, steps: list[Step]) -> None:
    clock = FakeClock()
    outpost = Outpost(url, clock, event_kinds={"log": "progress"})
    async with AsyncExitStack() as stack:
        stack.push_async_callback(outpost.close)
        await _empty(outpost)
        deployment = Deployment(outpost, clock, stack)
        await deployment.start()
        await outpost.endpoint(max_in_flight=3)
        await outpost.endpoint(ordered=False)
        deployment.interval_endpoint = (await outpost.endpoint(progress_interval_s=float(INTERVAL_S))).row
        for name, choice in steps:
            if name == "crash":
                deployment.lost += deployment.in_flight
            action: Callable[[int], Coroutine[Any, Any, None]] = getattr(deployment, name)
            await action(choice)
            await deployment.check()
        await deployment.drain()


async def _empty(outpost: Outpost) -> None:
    """Takes away what the example before left in this database."""
    async with outpost.database.begin() as connection:
        for table in reversed(outpost.tables.metadata.sorted_tables):
            if table is not outpost.tables.wakeup:
                await connection.execute(table.delete())


_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
_STEPS = st.lists(STEPS, min_size=10, max_size=40)


@settings(max_examples=30, suppress_health_check=_CHECKS)
@given(_STEPS)
def test_no_order_of_steps_breaks_order_numbers_or_the_log(sqlite_template: Path, steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_play(f"sqlite:///{shutil.copy(sqlite_template, Path(directory) / 'dispatcher.db')}", steps))


@settings(max_examples=10, suppress_health_check=_CHECKS)
@given(_STEPS)
def test_no_order_of_steps_breaks_anything_on_postgresql_either(postgres_url: str, steps: list[Step]) -> None:
    asyncio.run(_play(postgres_url, steps))

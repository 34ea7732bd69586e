"""The deliveries' state machine under any order of publishing, claiming, crashing, redelivering and cancelling."""

import asyncio
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store.hot import Claimed, Finished, HotStore, Orphan
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

LIVE = (DeliveryState.PENDING, DeliveryState.SENDING)
Step = tuple[str, int]

STEPS = st.tuples(
    st.sampled_from(
        ["publish", "publish", "fan_out", "fan_out", "claim", "claim", "record", "record", "record", "crash", "reclaim",
         "redeliver", "cancel", "advance", "release", "late"]
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

    async def start(self) -> None:
        self.store = await self.stack.enter_async_context(self.outpost.store())

    async def publish(self, choice: int) -> None:
        await self.outpost.publish(*["a"] * (choice % 3 + 1), job_id=[None, "job_1", "job_2"][choice % 3])

    async def fan_out(self, choice: int) -> None:
        await self.store.fan_out(choice % 4 + 1)

    async def claim(self, choice: int) -> None:
        before = await self.outpost.deliveries()
        taken = (await self.store.claim(choice % 5 + 1)).deliveries
        for claimed in taken:
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

    async def crash(self, choice: int) -> None:
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
            await self.outpost.put_back(rows[choice % len(rows)])

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
        numbers: dict[int, list[int]] = defaultdict(list)
        for numbered in await self.outpost.rows("job_events", "job_row", "sequence"):
            numbers[numbered.job_row].append(numbered.sequence)
        for job in await self.outpost.rows("jobs"):
            assert numbers[job.row_id] == list(range(1, job.last_sequence + 1)), "gap-free from 1"

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
    )


async def _play(template: Path, steps: list[Step]) -> None:
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as directory:
        file = shutil.copy(template, Path(directory) / "dispatcher.db")
        outpost = Outpost(f"sqlite:///{file}", clock)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(outpost.close)
            deployment = Deployment(outpost, clock, stack)
            await deployment.start()
            await outpost.endpoint(max_in_flight=3)
            await outpost.endpoint(ordered=False)
            for name, choice in steps:
                if name == "crash":
                    deployment.lost += deployment.in_flight
                action: Callable[[int], Coroutine[Any, Any, None]] = getattr(deployment, name)
                await action(choice)
                await deployment.check()
            await deployment.drain()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=10, max_size=40))
def test_no_order_of_steps_breaks_order_numbers_or_the_log(sqlite_template: Path, steps: list[Step]) -> None:
    asyncio.run(_play(sqlite_template, steps))

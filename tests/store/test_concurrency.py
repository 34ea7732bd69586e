"""Several dispatchers on PostgreSQL at once, with people who redeliver and cancel: what each does meets the others'."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest
from sqlalchemy import update

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store import job_callbacks
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore, Orphan
from dispatcher.store.postgres import marks
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered, finished

JOBS = 6
TYPES = ("job.progress", "job.progress", "job.progress", "job.log", "job.step")
KINDS = {"job.log": "progress"}
ROUNDS = 40
INTERVAL_S = 10.0


def _once(claims: Iterable[Claimed]) -> list[Claimed]:
    return list({claimed.delivery_row: claimed for claimed in claims}.values())


class World:
    """Events, dispatchers and people; notes in which order attempts began."""

    def __init__(self, outpost: Outpost, clock: FakeClock, seed: int) -> None:
        self.outpost = outpost
        self.clock = clock
        self.dice = random.Random(seed)
        self.in_flight: dict[HotStore, list[Claimed]] = defaultdict(list)
        self.begun: list[Claimed] = []
        self.callbacks: list[Registered] = []

    async def publish(self, _: HotStore) -> None:
        job_id = f"job_{self.dice.randrange(JOBS)}"
        for _n in range(self.dice.randrange(1, 4)):
            event_type = self.dice.choice(TYPES)
            await self.outpost.publish(event_type, job_id=job_id, kind=KINDS.get(event_type))
        if self.dice.random() < 0.1:
            await self.outpost.publish("job.completed", job_id=job_id)

    async def fan_out(self, store: HotStore) -> None:
        await store.fan_out(self.dice.randrange(1, 8))

    async def claim(self, store: HotStore) -> None:
        batch = (await store.claim(self.dice.randrange(1, 10))).deliveries
        self.begun += batch
        if self.dice.random() < 0.1:
            await store.release(batch)
        else:
            self.in_flight[store] += batch

    async def record(self, store: HotStore) -> None:
        flying, self.in_flight[store] = self.in_flight[store], []
        self.dice.shuffle(flying)
        # A batch holds a delivery once.
        chosen = _once(one for one in flying if self.dice.random() < 0.6)
        self.in_flight[store] += [one for one in flying if one not in chosen]
        whole = self.dice.random() < 0.5
        outcomes = [Outcome.DELIVERED] if whole else [Outcome.DELIVERED, Outcome.RETRY, Outcome.DEAD]
        if chosen:
            await store.record([self.end(one, self.dice.choice(outcomes)) for one in chosen])

    def end(self, one: Claimed | Orphan, outcome: Outcome) -> Any:
        delay_s = self.dice.choice([None, 1.0, 20.0])
        return finished(one, outcome, at=self.clock.now(), delay_s=delay_s, hold_s=30.0)  # type: ignore[arg-type]

    async def take_over(self, store: HotStore) -> None:
        """Another's attempts are taken back though it still works on them, as after a lost lease."""
        taken = [one for flying in self.in_flight.values() for one in flying if self.dice.random() < 0.2]
        if taken:
            await store.record([self.end(one, Outcome.INTERRUPTED) for one in _once(taken)])

    async def make_due(self, store: HotStore) -> None:
        self.clock.advance(1)
        await store.make_due(self.dice.randrange(1, 10))

    async def pass_lanes(self, store: HotStore) -> None:
        await store.pass_lanes(10)

    async def put_back(self, _: HotStore) -> None:
        rows = await self.outpost.deliveries()
        if rows:
            await self.outpost.put_back(*self.dice.sample(rows, min(len(rows), 3)))

    async def cancel(self, _: HotStore) -> None:
        waiting = [row for row in await self.outpost.deliveries() if row.state == DeliveryState.PENDING]
        if waiting:
            await self.outpost.cancel(self.dice.choice(waiting))

    async def register(self, _: HotStore) -> None:
        """A callback of a job, wherever that job has got to."""
        port = self.dice.choice([8001, 8003])
        self.callbacks.append(
            await self.outpost.endpoint(f"http://127.0.0.1:{port}/cb", job_id=f"job_{self.dice.randrange(JOBS)}")
        )

    async def catch_up(self, _: HotStore) -> None:
        async with self.outpost.database.begin() as connection:
            await job_callbacks.catch_up(connection, self.outpost.database, 3)

    async def run(self, store: HotStore, deeds: Sequence[Callable[[HotStore], Awaitable[None]]]) -> None:
        for _ in range(ROUNDS):
            await self.dice.choice(deeds)(store)

    async def drain(self, store: HotStore) -> None:
        for other, flying in self.in_flight.items():
            for one in flying:
                await other.record([self.end(one, Outcome.DELIVERED)])
            flying.clear()
        for _ in range(600):
            while (fanned := await store.fan_out(100)).events or fanned.catch_up:
                await self.catch_up(store)
            while batch := (await store.claim(100)).deliveries:
                self.begun += batch
                await store.record([self.end(one, Outcome.DELIVERED) for one in batch])
            if not any(row.state == DeliveryState.PENDING for row in await self.outpost.deliveries()):
                return
            self.clock.advance(1)
            await store.make_due(100)


async def _play(outpost: Outpost, clock: FakeClock, seed: int, *, people: bool) -> World:
    world = World(outpost, clock, seed)
    await outpost.endpoint("http://127.0.0.1:8001/", max_in_flight=50)
    await outpost.endpoint("http://127.0.0.1:8001/paced", progress_interval_s=INTERVAL_S, rate_limit=1000.0)
    await outpost.endpoint("http://127.0.0.1:8002/", ordered=False)
    await outpost.endpoint("http://127.0.0.1:8002/paced", ordered=False, progress_interval_s=INTERVAL_S)
    await outpost.endpoint("http://127.0.0.1:8001/progress", event_types=("job.progress",))
    async with outpost.database.begin() as connection:
        await connection.execute(update(outpost.tables.destinations).values(verified_at=clock.now()))
    deeds = [world.publish, world.fan_out, world.claim, world.claim, world.record, world.record, world.make_due]
    deeds += [world.register, world.catch_up]
    async with outpost.store(name="one") as one, outpost.store(name="two") as two:
        if people:
            deeds += [world.take_over, world.pass_lanes, world.put_back, world.cancel]
        await asyncio.gather(*(world.run(store, deeds) for store in (one, two) for _ in range(2)))
        await world.drain(one)
    return world


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_meets_nothing_is_stuck_and_the_last_progress_is_sent(
    postgres_outpost: Outpost, clock: FakeClock, seed: int
) -> None:
    outpost = postgres_outpost
    world = await _play(outpost, clock, seed, people=True)
    rows = await outpost.deliveries()
    live = [row for row in rows if row.state in (DeliveryState.PENDING, DeliveryState.SENDING)]
    assert not live
    await _check_superseding(outpost, rows)
    await _check_ends(outpost, world, rows)


async def test_nothing_is_stuck_where_most_looks_go_from_marks(
    postgres_outpost: Outpost, clock: FakeClock, marked_looks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "REST", 50)
    outpost = postgres_outpost
    world = await _play(outpost, clock, 7, people=True)
    rows = await outpost.deliveries()
    assert not [row for row in rows if row.state in (DeliveryState.PENDING, DeliveryState.SENDING)]
    await _check_superseding(outpost, rows)
    await _check_ends(outpost, world, rows)


@pytest.mark.parametrize("seed", range(3))
async def test_lanes_are_in_order_and_progress_ends_with_its_job(
    postgres_outpost: Outpost, clock: FakeClock, seed: int
) -> None:
    outpost = postgres_outpost
    world = await _play(outpost, clock, seed, people=False)
    rows = await outpost.deliveries()
    assert not [row for row in rows if row.state in (DeliveryState.PENDING, DeliveryState.SENDING)]
    await _check_superseding(outpost, rows)
    await _check_ends(outpost, world, rows)
    began: dict[tuple[int, int], list[int]] = defaultdict(list)
    for one in world.begun:
        if one.lane is not None and one.sequence is not None:
            began[one.lane, one.endpoint_row].append(one.sequence)
    assert began
    callbacks = {callback.row for callback in world.callbacks}
    for (_, endpoint_row), sequences in began.items():
        # The end that a callback is given afterwards may come behind what came after it.
        assert sequences == sorted(sequences) or endpoint_row in callbacks
    settled = {row.row_id: row.settled_by for row in await outpost.rows("jobs") if row.settled_by is not None}
    order = {(row.job_row, row.sequence): row.event_row for row in await outpost.rows("job_events", "event_row")}
    for one in world.begun:
        if one.progress_of in settled and one.lane is not None:
            assert order[one.progress_of, one.sequence] < settled[one.progress_of]


async def _check_ends(outpost: Outpost, world: World, rows: list[Any]) -> None:
    """Every callback of a job that has settled was told so, once."""
    ends = {row.job_id: row.settled_by for row in await outpost.rows("jobs")}
    jobs = {row.row_id: row.job_id for row in await outpost.rows("endpoints")}
    told = Counter((row.endpoint_row, row.event_row) for row in rows)
    for callback in world.callbacks:
        end = ends.get(jobs[callback.row])
        assert end is None or told[callback.row, end] == 1
    assert not any(row.catch_up for row in await outpost.rows("endpoints"))


async def _check_superseding(outpost: Outpost, rows: list[Any]) -> None:
    events = {row.row_id: row for row in await outpost.rows("events")}
    settled = {row.row_id: row.settled_by for row in await outpost.rows("jobs")}
    last: dict[tuple[int, int, str], Any] = {}
    for row in rows:
        if row.progress_of is None:
            assert row.state != DeliveryState.SUPERSEDED
            continue
        if row.state == DeliveryState.SUPERSEDED:
            by = events[row.superseded_by]
            end = settled[row.progress_of]
            assert row.superseded_by == end or (by.row_id > row.event_row and by.type == events[row.event_row].type)
        key = row.endpoint_row, row.progress_of, events[row.event_row].type
        if key not in last or row.sequence > last[key].sequence:
            last[key] = row
    for row in last.values():
        if settled[row.progress_of] is None:
            assert row.state != DeliveryState.SUPERSEDED

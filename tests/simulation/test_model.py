"""The model does what the real stores do: the same calls in the same random order, and everything compared."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from dispatcher.rules.verdict import Outcome
from dispatcher.states import EventKind
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import Finished, HotStore, Orphan
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.simulation.model import Model
from tests.simulation.rows import Delivery, Endpoint, moment

LEASE_S = 30.0
KINDS = (EventKind.STATE, EventKind.STATE, EventKind.PROGRESS, EventKind.PROGRESS, EventKind.TERMINAL)
#: A delivery by its event's row and its endpoint's.
Key = tuple[int, int]


@dataclass
class Pair:
    """A real store and the model, driven together."""

    outpost: Outpost
    clock: FakeClock
    store: HotStore
    model: Model
    rng: Random
    dispatcher_row: int = 0
    in_flight: list[tuple[Claimed, Claimed]] = field(default_factory=list)
    keys: dict[int, Key] = field(default_factory=dict)

    async def enrol(self) -> None:
        """A dispatcher starts; what the one before had claimed is forgotten, and its outcomes come too late."""
        await self.store.enrol("again", LEASE_S)
        self.dispatcher_row = self.model.enrol(LEASE_S)

    async def heartbeat(self) -> None:
        assert await self.store.heartbeat(LEASE_S) == self.model.heartbeat(self.dispatcher_row, LEASE_S)

    async def publish(self) -> None:
        job = self.rng.randrange(3)
        for _ in range(self.rng.randint(1, 4)):
            kind = self.rng.choice(KINDS)
            job_id = f"job_{job}" if job else None
            event_type = f"job.{kind}{self.rng.randrange(2)}"
            await self.outpost.publish(event_type, job_id=job_id, kind=kind)
            self.model.commit(event_type, kind, job_id, "{}")

    async def fan_out(self) -> None:
        limit = self.rng.randint(1, 6)
        real, expected = await self.store.fan_out(limit), self.model.fan_out(limit)
        counted = real.events, real.deliveries, real.superseded, len(real.jobs)
        assert counted == (expected.events, expected.deliveries, expected.superseded, len(expected.jobs))
        self.keys = {row.row_id: (row.event_row, row.endpoint_row) for row in await self.outpost.deliveries()}

    async def claim(self) -> None:
        ended = [pair for pair in self.in_flight if self.rng.random() < 0.2]
        real = await self.store.claim(50, [(r.delivery_row, r.attempt) for r, _ in ended])
        expected = self.model.claim(self.dispatcher_row, 50, [(m.delivery_row, m.attempt) for _, m in ended])
        taken = {self.keys[claimed.delivery_row]: claimed for claimed in real.deliveries}
        wanted = {_key(self.model.deliveries[claimed.delivery_row]): claimed for claimed in expected.deliveries}
        assert {key: _shown(claimed) for key, claimed in taken.items()} == {
            key: _shown(claimed) for key, claimed in wanted.items()
        }
        assert (real.limited, real.starved) == (expected.limited, expected.starved)
        self.in_flight += [(taken[key], wanted[key]) for key in sorted(taken)]

    def _some(self) -> list[tuple[Claimed, Claimed]]:
        self.rng.shuffle(self.in_flight)
        rows: dict[int, tuple[Claimed, Claimed]] = {}
        for pair in self.in_flight[: self.rng.randint(1, 4)]:
            rows.setdefault(pair[0].delivery_row, pair)
        self.in_flight = [pair for pair in self.in_flight if pair not in rows.values()]
        return list(rows.values())

    async def record(self) -> None:
        pairs = self._some()
        outcomes = [self.rng.choice(list(Outcome)) for _ in pairs]
        given: dict[str, Any] = {
            "at": self.clock.now(),
            "delay_s": self.rng.choice((None, 10.0)),
            "hold_s": self.rng.choice((15.0, None)),
            "pause_endpoint_s": self.rng.choice((None, None, 5.0)),
        }
        await self._compare(
            [finished(real, outcome, **given) for (real, _), outcome in zip(pairs, outcomes, strict=True)],
            [finished(wanted, outcome, **given) for (_, wanted), outcome in zip(pairs, outcomes, strict=True)],
        )

    async def _compare(self, real: list[Finished], expected: list[Finished]) -> None:
        done, wanted = await self.store.record(real), self.model.record(expected)
        assert {self.keys[row] for row in done.lost} == {_key(self.model.deliveries[row]) for row in wanted.lost}
        assert {self.keys[row] for row in done.superseded} == {
            _key(self.model.deliveries[row]) for row in wanted.superseded
        }
        assert done.freed == wanted.freed

    async def release(self) -> None:
        pairs = self._some()
        await self.store.release([real for real, _ in pairs])
        self.model.release(self.dispatcher_row, [wanted for _, wanted in pairs])

    async def reclaim(self) -> None:
        real = {self.keys[orphan.delivery_row]: orphan for orphan in await self.store.orphans(100)}
        wanted = {_key(self.model.deliveries[orphan.delivery_row]): orphan for orphan in self.model.orphans(100)}
        assert {key: _counted(orphan) for key, orphan in real.items()} == {
            key: _counted(orphan) for key, orphan in wanted.items()
        }
        keys = sorted(real)
        at = self.clock.now()
        await self._compare(
            [_interrupted(real[key], at) for key in keys], [_interrupted(wanted[key], at) for key in keys]
        )

    async def make_due(self) -> None:
        assert await self.store.make_due(100) == self.model.make_due(100)

    async def pass_lanes(self) -> None:
        assert await self.store.pass_lanes(100) == self.model.pass_lanes(100)

    async def advance(self) -> None:
        self.clock.advance(self.rng.choice((1.0, 7.0, 20.0, 700.0)))

    async def redeliver(self) -> None:
        rows = [row for row in await self.outpost.deliveries() if row.progress_of is None]
        if rows:
            row = self.rng.choice(rows)
            [outcome] = await self.outpost.put_back(row)
            assert (outcome.outcome == "put_back") == self.model.put_back(self._modelled(self.keys[row.row_id]))

    async def pause(self) -> None:
        endpoint = self.rng.choice(list(self.model.endpoints.values()))
        endpoint.paused = not endpoint.paused
        await self.outpost.change("endpoints", endpoint.row, status="paused" if endpoint.paused else "enabled")

    def _modelled(self, key: Key) -> Delivery:
        [found] = [delivery for delivery in self.model.deliveries.values() if _key(delivery) == key]
        return found

    async def check(self) -> None:
        """Every column that says something is the same."""
        log: dict[int, list[tuple[Any, ...]]] = {}
        for row in await self.outpost.attempts():
            log.setdefault(row.delivery_row, []).append((row.number, row.error, row.status))
        real = {
            (row.event_row, row.endpoint_row): (
                *(row.state, row.reason, row.superseded_by, row.sequence, row.due_at, row.hold_until),
                *(bool(row.late), bool(row.replay), row.attempts, row.failures, row.interruptions),
                *(row.previous_sequence, row.state == "pending" and bool(row.waiting), log.get(row.row_id, [])),
            )
            for row in await self.outpost.deliveries()
        }
        assert real == {
            _key(d): (
                *(d.state, d.reason, d.superseded_by, d.sequence, _at(d.due_at), _at(d.hold_until)),
                *(d.late, d.replay, d.attempts, d.failures, d.interruptions),
                *(d.previous_sequence, self.model.waits(d), d.log),
            )
            for d in self.model.deliveries.values()
        }


STEPS = (
    *(Pair.publish, Pair.fan_out, Pair.fan_out, Pair.claim, Pair.claim, Pair.claim, Pair.record, Pair.record),
    *(Pair.record, Pair.record, Pair.release, Pair.reclaim, Pair.make_due, Pair.pass_lanes, Pair.advance),
    *(Pair.advance, Pair.redeliver, Pair.pause, Pair.heartbeat, Pair.enrol),
)


@pytest.mark.timeout(180)  # all that there is, compared after each of eighty steps
@pytest.mark.parametrize("seed", range(3))
async def test_the_model_does_what_the_database_does(outpost: Outpost, clock: FakeClock, seed: int) -> None:
    rng, start = Random(seed), clock.now()
    sqlite = outpost.database.dialect == "sqlite"
    model = Model(lambda: (clock.now() - start).total_seconds(), per_destination=1000, exclusive=sqlite)
    for number, ordered in enumerate((True, False, True)):
        registered = await outpost.endpoint(f"http://127.0.0.{number + 1}:8000/", ordered=ordered, max_in_flight=3)
        model.endpoints[registered.row] = Endpoint(registered.row, ordered, 3, None, number)
    async with outpost.store() as store:
        pair = Pair(outpost, clock, store, model, rng)
        await pair.enrol()
        for _ in range(80):
            await rng.choice(STEPS)(pair)
            await pair.check()
    assert model.deliveries


def _key(delivery: Delivery) -> Key:
    return delivery.event.row, delivery.endpoint.row


def _at(seconds: float | None) -> Any:
    return None if seconds is None else moment(seconds)


def _shown(claimed: Claimed) -> tuple[Any, ...]:
    counts = claimed.attempt, claimed.failures, claimed.interruptions
    return *counts, claimed.sequence, claimed.previous_sequence, claimed.late, claimed.replay, claimed.event_type


def _counted(orphan: Orphan) -> tuple[Any, ...]:
    return orphan.attempt, orphan.failures, orphan.interruptions, orphan.claimed_at


def _interrupted(orphan: Orphan, at: Any) -> Finished:
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
        hold_s=None,
        pause_endpoint_s=None,
        backs_off=False,
        started_at=at,
        duration_ms=1.0,
        excerpt="",
        progress_of=orphan.progress_of,
    )

"""The claim under any set-up: no limit is ever passed, nothing that may go is left, and in the end all has gone."""

import asyncio
import math
import shutil
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dispatcher.rules.sharing import KEPT_ONE_IN
from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store.claimed import Claimed
from dispatcher.store.endpoint_rows import callback_row
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

JOBS = ("job_0", "job_1")
#: Rounds until all must have gone: some tokens come with each.
ROUNDS = 120


@dataclass(frozen=True)
class Receiver:
    """An endpoint, and what is known of it."""

    tenant: int
    destination: int
    max_in_flight: int | None
    rate_limit: float | None
    #: Whether it is the callback of a job.
    callback: bool
    #: Whether it takes the events that are few only.
    few: bool
    ordered: bool
    paused: bool
    left_alone: bool
    ramp: int | None
    takes: float | None


@dataclass(frozen=True)
class Host:
    verified: bool
    left_alone: bool
    ramp: int | None


@dataclass(frozen=True)
class SetUp:
    receivers: list[Receiver]
    hosts: list[Host]
    limits: dict[str, Any]
    #: By tenant events without a job and with each of the jobs; of each of these one or two more are of another type.
    published: list[tuple[int, int, int]]
    most: int
    processes: int
    #: What becomes of the attempts of a round: so many end, and these fail.
    ending: list[tuple[int, bool]] = field(default_factory=list)


RARELY = st.sampled_from([False] * 7 + [True])
SETUPS = st.builds(
    SetUp,
    receivers=st.lists(
        st.builds(
            Receiver,
            tenant=st.sampled_from([0, 0, 1]),
            destination=st.sampled_from([0, 0, 0, 1, 2]),
            max_in_flight=st.sampled_from([None] * 4 + [1, 3]),
            rate_limit=st.sampled_from([None] * 5 + [0.5, 2.0, 30.0]),
            callback=RARELY,
            few=st.booleans(),
            ordered=st.booleans(),
            paused=RARELY,
            left_alone=RARELY,
            ramp=st.sampled_from([None] * 8 + [1, 3]),
            takes=st.sampled_from([None] * 8 + [1.0, 2.7]),
        ),
        min_size=2,
        max_size=6,
    ),
    hosts=st.tuples(
        *[st.builds(Host, verified=st.booleans(), left_alone=RARELY, ramp=st.sampled_from([None] * 4 + [1, 4]))] * 3
    ).map(list),
    limits=st.fixed_dictionaries(
        {
            "max_in_flight": st.sampled_from([20, 40, 200]),
            "max_in_flight_per_endpoint": st.sampled_from([10, 50, 50, 2]),
            "max_in_flight_per_destination": st.sampled_from([7, 12, 12, 200]),
            "max_in_flight_per_unverified_destination": st.integers(1, 4),
            "unverified_rate": st.sampled_from([1.0, 3.0, 50.0]),
        }
    ),
    published=st.lists(st.tuples(st.integers(8, 25), st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=2),
    most=st.sampled_from([10, 10, 50, 2, 1]),
    processes=st.integers(1, 2),
    ending=st.lists(st.tuples(st.integers(0, 12), RARELY), min_size=4, max_size=4),
)


class World:
    """A deployment in which it is claimed; what its tables say, as a claim should see it."""

    def __init__(self, outpost: Outpost, clock: FakeClock, setup: SetUp) -> None:
        self.outpost = outpost
        self.clock = clock
        self.setup = setup
        self.in_flight: list[tuple[HotStore, Claimed]] = []

    async def build(self) -> None:
        for number, one in enumerate(self.setup.receivers):
            url, tenant, job = f"http://127.0.0.1:{8000 + one.destination}/{number}", f"t{one.tenant}", JOBS[number % 2]
            of_job: dict[str, Any] = {"job_id": job, "row_id": callback_row(tenant, job, url)} if one.callback else {}
            made = await self.outpost.endpoint(
                url,
                tenant=tenant,
                event_types=("few",) if one.few else ("many", "few"),
                max_in_flight=one.max_in_flight,
                rate_limit=one.rate_limit,
                ordered=one.ordered,
                **of_job,
            )
            pause = {"paused_until": self.clock.now() + timedelta(hours=1)} if one.left_alone else {}
            await self.outpost.change("endpoint_state", made.row, ramp=one.ramp, takes=one.takes, **pause)
            if one.paused:
                await self.outpost.change("endpoints", made.row, status="paused")
        for row in await self.outpost.rows("destinations"):
            host = self.setup.hosts[int(row.name[-1])]
            await self.outpost.change(
                "destinations",
                row.row_id,
                verified_at=self.clock.now() if host.verified else None,
                ramp=host.ramp,
                paused_until=self.clock.now() + timedelta(hours=1) if host.left_alone else None,
            )
        for of, counts in enumerate(self.setup.published):
            for job_id, count in zip((None, *JOBS), counts, strict=True):
                if count:
                    types = ["many"] * count + ["few"] * (1 + count % 2)
                    await self.outpost.publish(*types, tenant=f"t{of}", job_id=job_id)

    async def claim(self, store: HotStore) -> None:
        """Claims as a dispatcher does, until it would wait."""
        for _ in range(1000):
            before = await Seen.of(self)
            batch = await store.claim(self.setup.most)
            assert len(batch.deliveries) <= self.setup.most
            before.check(Counter(one.endpoint_row for one in batch.deliveries))
            self.in_flight += [(store, one) for one in batch.deliveries]
            held = sum(holder is store for holder, _ in self.in_flight)
            assert held <= self.setup.limits["max_in_flight"]
            if not batch.limited:
                break
        else:
            raise AssertionError("it claims again and again")
        slots = int(self.setup.limits["max_in_flight"])
        if slots - held > slots // KEPT_ONE_IN:
            (await Seen.of(self)).check_that_nothing_may_go()

    async def end(self, count: int, *, fails: bool) -> None:
        """The oldest attempts end."""
        ending, self.in_flight = self.in_flight[:count], self.in_flight[count:]
        outcome = Outcome.RETRY if fails else Outcome.DELIVERED
        for store in {store for store, _ in ending}:
            batch = [finished(one, outcome, at=self.clock.now(), delay_s=None) for of, one in ending if of is store]
            assert not (await store.record(batch)).lost

    async def resume(self) -> None:
        """Nobody is paused any more."""
        self.clock.advance(3600)
        for row in await self.outpost.rows("endpoints"):
            await self.outpost.change("endpoints", row.row_id, status="enabled")


class Seen:
    """What the tables say before a claim: how many may be sent to whom."""

    def __init__(self, world: World, rows: dict[str, list[Any]]) -> None:
        self._limits = world.setup.limits
        self._now = world.clock.now()
        self._endpoints = {row.row_id: row for row in rows["endpoints"]}
        self._states = {row.endpoint_row: row for row in rows["endpoint_state"]}
        self._homes = {row.row_id: row for row in rows["destinations"]}
        sending = [row for row in rows["deliveries"] if row.state == DeliveryState.SENDING]
        self._flying = Counter(row.endpoint_row for row in sending)
        busy = {(row.lane, row.endpoint_row) for row in sending if row.lane is not None}
        self._claimable = Counter(
            row.endpoint_row
            for row in rows["deliveries"]
            if row.state == DeliveryState.PENDING and row.due_at is None and not row.waiting
            and (row.lane, row.endpoint_row) not in busy
        )  # fmt: skip

    @classmethod
    async def of(cls, world: World) -> "Seen":
        rows = {name: await world.outpost.rows(name) for name in ("endpoints", "destinations", "deliveries")}
        return cls(world, {**rows, "endpoint_state": await world.outpost.rows("endpoint_state", "endpoint_row")})

    def _tokens(self, rate: float, bucket: Any) -> int:
        most = max(rate, 1.0)
        if bucket.tokens is None:
            return math.floor(most)
        return int(min(most, bucket.tokens + rate * (self._now - bucket.tokens_at).total_seconds()))

    def _alone(self, row: int) -> int:
        """What this endpoint may be sent, the others aside."""
        endpoint, state = self._endpoints[row], self._states[row]
        home = self._homes[endpoint.destination_row]
        if endpoint.status != "enabled" or any(of.paused_until and of.paused_until > self._now for of in (state, home)):
            return 0
        cap = endpoint.max_in_flight or self._limits["max_in_flight_per_endpoint"]
        caps = [cap, *(math.floor(one) for one in (state.ramp, state.takes) if one is not None)]
        tokens = [] if endpoint.rate_limit is None else [self._tokens(endpoint.rate_limit, state)]
        return int(min([min(caps) - self._flying[row], *tokens]))

    def _there(self, home: Any) -> int:
        crowd = sum(n for row, n in self._flying.items() if self._endpoints[row].destination_row == home.row_id)
        return int(min(self._limits["max_in_flight_per_destination"], home.ramp or math.inf)) - crowd

    def _is_guest(self, row: int) -> bool:
        endpoint = self._endpoints[row]
        return endpoint.job_id is not None and self._homes[endpoint.destination_row].verified_at is None

    def _for_guests(self, home: Any) -> int:
        callbacks = sum(
            n
            for row, n in self._flying.items()
            if self._endpoints[row].job_id is not None and self._endpoints[row].destination_row == home.row_id
        )
        most = int(self._limits["max_in_flight_per_unverified_destination"]) - callbacks
        return min(most, self._tokens(float(self._limits["unverified_rate"]), home))

    def check(self, claimed: Counter[int]) -> None:
        """No limit was passed by these."""
        for row, n in claimed.items():
            assert n <= self._alone(row), "an endpoint's limits hold"
        for home in self._homes.values():
            here = {row: n for row, n in claimed.items() if self._endpoints[row].destination_row == home.row_id}
            assert sum(here.values()) <= max(0, self._there(home)), "a destination's limits hold"
            guests = sum(n for row, n in here.items() if self._is_guest(row))
            assert guests <= max(0, self._for_guests(home)), "the limits of callbacks at strangers hold"

    def check_that_nothing_may_go(self) -> None:
        """Whoever has something to claim has no room."""
        for row in self._claimable:
            home = self._homes[self._endpoints[row].destination_row]
            room = min(self._alone(row), self._there(home))
            assert (min(room, self._for_guests(home)) if self._is_guest(row) else room) <= 0, "nobody is forgotten"


async def _play(url: str, setup: SetUp) -> None:
    clock = FakeClock()
    outpost = Outpost(url, clock)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(outpost.close)
        async with outpost.database.begin() as connection:
            for table in reversed(outpost.tables.metadata.sorted_tables):
                if table is not outpost.tables.wakeup:
                    await connection.execute(table.delete())
        world = World(outpost, clock, setup)
        await world.build()
        processes = setup.processes if url.startswith("postgres") else 1
        stores = [await stack.enter_async_context(outpost.store(**setup.limits)) for _ in range(processes)]
        await stores[0].fan_out(1000)
        for store in stores:
            await world.claim(store)
        for number, (count, fails) in enumerate(setup.ending):
            clock.advance(0.3)
            await world.end(count, fails=fails)
            await world.claim(stores[number % processes])
        await world.resume()
        for number in range(ROUNDS):
            await world.claim(stores[number % processes])
            if all(row.state == DeliveryState.DELIVERED for row in await outpost.deliveries()):
                return
            await world.end(len(world.in_flight), fails=False)
            clock.advance(1)
        raise AssertionError("something is never sent")


_LIMITS = {
    "max_in_flight": 200,
    "max_in_flight_per_endpoint": 50,
    "max_in_flight_per_destination": 6,
    "max_in_flight_per_unverified_destination": 5,
    "unverified_rate": 10.0,
}
_ALIKE = Receiver(0, 0, None, None, False, False, True, False, False, None, None)
#: One has less to claim than it is given, another of the same destination more.
_UNEVEN = SetUp([replace(_ALIKE, few=True), _ALIKE], [Host(True, False, None)] * 3, _LIMITS, [(8, 0, 0)], 10, 1)

_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=15, suppress_health_check=_CHECKS)
@example(_UNEVEN)
@given(SETUPS)
def test_whatever_the_set_up_limits_hold_and_nobody_is_forgotten(sqlite_template: Path, setup: SetUp) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_play(f"sqlite:///{shutil.copy(sqlite_template, Path(directory) / 'dispatcher.db')}", setup))


@settings(max_examples=15, suppress_health_check=_CHECKS)
@example(_UNEVEN)
@given(SETUPS)
def test_whatever_the_set_up_on_postgresql_the_same_holds(postgres_url: str, setup: SetUp) -> None:
    asyncio.run(_play(postgres_url, setup))

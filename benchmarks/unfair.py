"""(h) What some endpoints and tenants cost the others: quiet endpoints beside loud ones, many endpoints, a burst."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sqlalchemy import insert

from benchmarks import slow_endpoint
from benchmarks.drain import Rate, drained, typical
from benchmarks.events import DATA
from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases, Scene
from benchmarks.slow_endpoint import SLOW_S
from benchmarks.worker import worker

#: Endpoints whose latency is looked at, and their events per second, all together.
QUIET = 10
QUIET_PER_S = 50.0
#: Endpoints that nobody listens at, and the events per second to all of them.
DEAD = 100
DEAD_PER_S = 200.0
#: A port that nothing is known to listen at.
NOBODY = 1025
#: Endpoints of different rates, the n-th 1/n as fast as the first, and the events per second to all of them.
UNEQUAL = 1_000
UNEQUAL_PER_S = 300.0
#: Endpoints in the measures of throughput over many.
MANY = 10_000
#: Events that one tenant publishes at once, its endpoints, each of which gets all of them, and how often another
#: tenant publishes one meanwhile, in seconds.
BURST = 50_000
BURST_ENDPOINTS = 3
BURST_EVERY_S = 0.2
WIDE_BURST = 6 * MANY
_CHUNK = 1_000
_WARM_UP_S = 2.0


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds from commit to arrival."""

    p50_ms: float
    p99_ms: float
    longest_ms: float


@dataclass(frozen=True, slots=True)
class Quiet:
    """The quiet endpoints' waits: round by round alone, and beside each kind of neighbours."""

    alone: list[Waits]
    beside: dict[str, list[Waits]]

    def ratio(self, neighbours: str) -> float:
        """The p99 beside these neighbours to the p99 alone, the median of the rounds."""
        return median(
            beside.p99_ms / alone.p99_ms for beside, alone in zip(self.beside[neighbours], self.alone, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """Rounds of the same deliveries: to one endpoint, each to one of many, and each event to all of many."""

    one: list[Rate]
    each: list[Rate]
    all_: list[Rate]

    def ratio(self, rates: list[Rate]) -> float:
        """To the rate of one endpoint, the median of the rounds."""
        return median(rate.events_per_s / one.events_per_s for rate, one in zip(rates, self.one, strict=True))


async def quiet(databases: Databases, dialect: str, *, seconds: float, rounds: int) -> Quiet:
    """Publishes for quiet endpoints at a steady rate: alone, beside a slow one, 100 dead and 1,000 unequal ones."""
    found = Quiet([], {"slow": [], "dead": [], "unequal": []})
    for _ in range(rounds):
        found.alone.append(await _quiet_beside(databases, dialect, [], {}, seconds))
        async with receiver(delay_s=SLOW_S) as slow:
            loads = {"loud.slow": QUIET_PER_S / 9}
            found.beside["slow"].append(await _quiet_beside(databases, dialect, [slow.url], loads, seconds))
        dead = [f"http://127.1.0.{number}:{NOBODY}/" for number in range(1, DEAD + 1)]
        loads = {f"loud.{number}": DEAD_PER_S / DEAD for number in range(DEAD)}
        found.beside["dead"].append(await _quiet_beside(databases, dialect, dead, loads, seconds))
        async with receiver() as loud:
            weights = [1 / number for number in range(1, UNEQUAL + 1)]
            loads = {f"loud.{n}": UNEQUAL_PER_S * weight / sum(weights) for n, weight in enumerate(weights)}
            found.beside["unequal"].append(
                await _quiet_beside(databases, dialect, [loud.url] * UNEQUAL, loads, seconds)
            )
    return found


async def _quiet_beside(
    databases: Databases, dialect: str, urls: Sequence[str], loads: Mapping[str, float], seconds: float
) -> Waits:
    async with receiver() as there, databases.scene(dialect) as scene:
        own = [f"quiet.{number}" for number in range(QUIET)]
        await scene.endpoints([(f"{there.url}/{event_type}", event_type) for event_type in own])
        await scene.endpoints(list(zip(urls, loads, strict=True)))
        async with worker(scene):
            loud = asyncio.create_task(_keep_on(scene, loads, _WARM_UP_S + seconds))
            await asyncio.sleep(_WARM_UP_S)
            committed = await publish_steadily(scene, own, QUIET_PER_S, seconds)
            await loud
            return await waits(there, committed)


async def _keep_on(scene: Scene, loads: Mapping[str, float], seconds: float) -> None:
    """Publishes so many per second of each type, what is due in one transaction every 20 ms."""
    started, earned = time.monotonic(), dict.fromkeys(loads, 0.5)
    last = started
    while loads and (now := time.monotonic()) < started + seconds:
        rows: list[str] = []
        for event_type, per_s in loads.items():
            earned[event_type] += per_s * (now - last)
            rows += [event_type] * int(earned[event_type])
            earned[event_type] %= 1
        last = now
        if rows:
            await publish(scene, rows)
        await asyncio.sleep(0.02)


async def publish(scene: Scene, event_types: Sequence[str], *, tenant: str = "default") -> list[str]:
    """Commits events of these types; answers their ids."""
    events = scene.deployment.database.tables.events
    async with scene.deployment.database.begin() as connection:
        made = await connection.execute(
            insert(events).returning(events.c.id, sort_by_parameter_order=True),
            [{"tenant": tenant, "type": event_type, "data": DATA} for event_type in event_types],
        )
        return list(made.scalars())


async def publish_steadily(
    scene: Scene, event_types: Sequence[str], per_s: float, seconds: float, *, tenant: str = "default"
) -> dict[str, float]:
    """One event a transaction, their types in turns; ids, and when the commit had returned (monotonic clock)."""
    committed: dict[str, float] = {}
    started = time.monotonic()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
        (event_id,) = await publish(scene, [event_types[number % len(event_types)]], tenant=tenant)
        committed[event_id] = time.monotonic()
    return committed


async def waits(there: Receiver, committed: Mapping[str, float]) -> Waits:
    """How long these events took to arrive; returns when all have."""
    arrivals: dict[str, float] = {}
    async with asyncio.timeout(180):
        while not committed.keys() <= arrivals.keys():
            await there.reach(len(committed))
            arrivals = await there.arrivals()
    waited = sorted((arrivals[event_id] - moment) * 1000 for event_id, moment in committed.items())
    return Waits(waited[len(waited) // 2], waited[len(waited) * 99 // 100], waited[-1])


async def spread(databases: Databases, there: Receiver, dialect: str, *, events: int, rounds: int) -> Spread:
    """Drains as many deliveries in turns to one endpoint, each event to one of 10,000, and each to all of 10,000."""
    found = Spread([], [], [])
    many = [f"bench.{number}" for number in range(MANY)]
    events = max(events // MANY, 1) * MANY
    async with databases.scene(dialect) as one, databases.scene(dialect) as crowd:
        await one.endpoints([(there.url, "all")])
        # Once, since it takes a minute.
        await crowd.endpoints([(there.url, event_type, "all") for event_type in many])
        for drains in range(rounds):
            await one.backlog(events, ["all"])
            found.one.append(await drained(one, events, before=drains * events))
            await crowd.backlog(events, many)
            found.each.append(await drained(crowd, events, before=2 * drains * events))
            await crowd.backlog(events // MANY, ["all"])
            found.all_.append(await drained(crowd, events, before=(2 * drains + 1) * events))
    return found


async def burst(databases: Databases, dialect: str, *, seconds: float) -> Waits:
    """A tenant has published 50,000 events for three endpoints each; how long another's single events take beside."""
    async with receiver() as bursting, receiver() as there, databases.scene(dialect) as scene:
        for number in range(BURST_ENDPOINTS):
            await scene.endpoints([(f"{bursting.url}/{number}", "burst")], tenant="burst")
        await scene.endpoints([(there.url, "single")], tenant="single")
        for start in range(0, BURST, _CHUNK):
            await publish(scene, ["burst"] * min(_CHUNK, BURST - start), tenant="burst")
        async with worker(scene):
            await bursting.reach(1)
            committed = await publish_steadily(scene, ["single"], 1 / BURST_EVERY_S, seconds, tenant="single")
            return await waits(there, committed)


async def wide_burst(databases: Databases, dialect: str, *, seconds: float) -> Waits:
    """As `burst`, where the first tenant has 10,000 endpoints, and six events for each."""
    async with receiver() as bursting, receiver() as there, databases.scene(dialect) as scene:
        many = [f"burst.{number}" for number in range(MANY)]
        await scene.endpoints([(bursting.url, event_type) for event_type in many], tenant="burst")
        await scene.endpoints([(there.url, "single")], tenant="single")
        for start in range(0, WIDE_BURST, _CHUNK):
            await publish(scene, [many[number % MANY] for number in range(start, start + _CHUNK)], tenant="burst")
        async with worker(scene):
            await bursting.reach(1)
            committed = await publish_steadily(scene, ["single"], 1 / BURST_EVERY_S, seconds, tenant="single")
            return await waits(there, committed)


async def quiet_rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on quiet endpoints."""
    return [row for dialect in NAMES for row in await _quiet_rows(databases, receiver, dialect, plan)]


async def _quiet_rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    # A round is four times as long as of most measures.
    found = await quiet(databases, dialect, seconds=plan.seconds, rounds=1)
    neighbours = {
        "slow": (f"one that takes {slow_endpoint.SLOW_S:.0f} s and gets 10 %", 2),
        "dead": (f"{DEAD} dead ones", 3),
        "unequal": (f"{UNEQUAL:,} of different rates", 3),
    }
    alone = median(waits.p99_ms for waits in found.alone)
    return [
        Row(
            f"p99 of {QUIET} quiet endpoints beside {what}, to an idle system's, on {NAMES[dialect]}",
            f"{found.ratio(key):.1f} ({median(waits.p99_ms for waits in found.beside[key]):.0f} to {alone:.0f} ms)",
            f"≤ {bar}",
            found.ratio(key) <= bar,
        )
        for key, (what, bar) in neighbours.items()
    ]


async def spread_rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on many endpoints."""
    return [row for dialect in NAMES for row in await _spread_rows(databases, receiver, dialect, plan)]


async def _spread_rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await spread(databases, receiver, dialect, events=2 * plan.events, rounds=plan.rounds)
    rows = []
    for what, rates in (("each event to one of", found.each), ("each event to all of", found.all_)):
        rate = typical(rates)
        rows.append(
            Row(
                f"{what} {MANY:,} endpoints, to a single endpoint's deliveries, on {NAMES[dialect]}",
                f"{found.ratio(rates):.2f}; {rate.events_per_s:,.0f} deliveries/s, {rate.cpu_us_per_event:.0f} µs CPU"
                " each",
                "≥ 0.70",
                found.ratio(rates) >= 0.7,
            )
        )
    return rows


async def burst_rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on a tenant's burst."""
    return [row for dialect in NAMES for row in await _burst_rows(databases, receiver, dialect, plan)]


async def _burst_rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await burst(databases, dialect, seconds=plan.seconds)
    return [
        Row(
            f"the longest wait of a tenant's event beside another's {BURST:,} for {BURST_ENDPOINTS}"
            f" endpoints each, on {NAMES[dialect]}",
            f"{found.longest_ms:.0f} ms (p50 {found.p50_ms:.0f} ms)",
            "≤ 1,000 ms",
            found.longest_ms <= 1000,
        )
    ]


async def wide_burst_rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on a tenant's burst to many endpoints."""
    rows = []
    for dialect, name in NAMES.items():
        found = await wide_burst(databases, dialect, seconds=plan.seconds)
        rows.append(
            Row(
                f"the longest wait of a tenant's event beside a backlog for another's {MANY:,} endpoints, on {name}",
                f"{found.longest_ms:,.0f} ms (p50 {found.p50_ms:,.0f} ms)",
                "≤ 1,000 ms",
                found.longest_ms <= 1000,
            )
        )
    return rows

"""(h) It stays fast while others misbehave and while it grows: PostgreSQL's horizon held back, overload, a long log.

Each part has a short form, and a long one for `--long`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

from sqlalchemy import text

from benchmarks import footprint as footprints
from benchmarks.load import Load, load
from benchmarks.receivers import Receiver
from benchmarks.rows import Measure, Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import worker

#: How long a load runs before it counts, in seconds.
_SETTLE_S = 5.0
_READERS = 4
#: Events that are drained to see what one costs.
_SAMPLE = 5000
#: The partial indexes and tables that hold what is live only.
_LIVE = ("fanout_queue", "ix_deliveries_claim", "ix_deliveries_sending", "ix_deliveries_due")


async def open_transaction(databases: Databases, receiver: Receiver, plan: Plan) -> Sequence[Row]:
    """Throughput while somebody's transaction with an id is open, to that before and after it."""
    return await _beside(
        databases,
        receiver,
        plan,
        f"throughput at the end of {_span(plan)} in which another session holds a transaction open",
        ["BEGIN; SELECT pg_current_xact_id()"],
    )


async def readers(databases: Databases, receiver: Receiver, plan: Plan) -> Sequence[Row]:
    """The same with transactions that only read, and see all from then on as it was."""
    return await _beside(
        databases,
        receiver,
        plan,
        f"throughput at the end of {_span(plan)} of {_READERS} open REPEATABLE READ readers",
        ["BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM events"] * _READERS,
    )


async def overload(databases: Databases, receiver: Receiver, plan: Plan) -> Sequence[Row]:
    """1.5 times what it can take for a while; then it drains, and takes as much as before."""
    seconds = 300.0 if plan.long else 15.0
    async with load(databases, receiver) as loaded:
        before = await _capacity(loaded, seconds=30.0 if plan.long else 5.0)
        async with loaded.at(1.5 * before):
            await asyncio.sleep(seconds / 2)
            during = await loaded.rate(seconds / 2)
        recovered = await loaded.drained(4 * seconds)
        after = await _capacity(loaded, seconds=30.0 if plan.long else 5.0)
    return [
        Row(
            f"throughput during {seconds:.0f} s of 1.5 × overload, to that of a full load, on PostgreSQL",
            f"{during / before:.2f} ({during:,.0f} to {before:,.0f} events/s)",
            "≥ 0.50",
            during / before >= 0.5,
        ),
        Row(
            "the same after the overload, its backlog drained",
            f"{after / before:.2f} ({after:,.0f} events/s)" if recovered else "its backlog is not drained",
            "≥ 0.90",
            recovered and after / before >= 0.9,
        ),
    ]


async def log_growth(databases: Databases, receiver: Receiver, plan: Plan) -> Sequence[Row]:
    """What an event costs with a long history, to what it costs without one; they take turns."""
    rows = 5_000_000 if plan.long else 100_000
    async with databases.scene("postgresql") as young, databases.scene("postgresql") as old:
        for scene in (young, old):
            await scene.endpoint(receiver.url, max_in_flight=100)
        async with old.deployment.database.begin(limited=False) as connection:
            await connection.execute(
                text(
                    "INSERT INTO deliveries (event_row, endpoint_row, tenant, state, attempts, last_status)"
                    " SELECT -n, (SELECT min(row_id) FROM endpoints), 'default', 'delivered', 1, 204"
                    " FROM generate_series(1, CAST(:rows AS int)) AS n"
                ),
                {"rows": rows},
            )
            await connection.execute(
                text(
                    "INSERT INTO attempts (delivery_row, number, started_at, duration_ms, status)"
                    " SELECT row_id, 1, now(), 12.5, 204 FROM deliveries"
                )
            )
        await old.settle()
        costs: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(5 if plan.long else 3):
            for scene in (young, old):
                await scene.backlog(_SAMPLE)
                async with worker(scene, "--until-idle") as working:
                    seconds, _ = await working.ended()
                costs[scene is old].append(seconds / _SAMPLE * 1e6)
    ratio = median(with_history / without for without, with_history in zip(costs[False], costs[True], strict=True))
    return [
        Row(
            f"an event's cost with {rows:,} attempts on record, to the same with few, on PostgreSQL",
            f"{ratio:.2f} ({median(costs[True]):.0f} to {median(costs[False]):.0f} µs)",
            "≤ 1.10",
            ratio <= 1.1,
        )
    ]


async def sizes(databases: Databases, receiver: Receiver, plan: Plan) -> Sequence[Row]:
    """What a steady load leaves in the tables and indexes of what is live, at its middle and at its end."""
    events = 5_000_000 if plan.long else 60_000
    async with load(databases, receiver) as loaded:
        capacity = await _capacity(loaded, seconds=5.0)
        async with loaded.at(0.7 * capacity):
            halfway = await _sizes_after(loaded, events // 2)
            at_end = await _sizes_after(loaded, events)
        await loaded.drained(120.0)
    grown = at_end["dead"] / max(halfway["dead"], 1.0)
    live = ", ".join(f"{name} {at_end[name] / 2**20:.1f}" for name in _LIVE)
    bytes_live = sum(at_end[name] for name in _LIVE)
    bytes_before = max(1.0, sum(halfway[name] for name in _LIVE))
    return [
        Row(
            f"live tables and indexes after {events:,} deliveries at steady load, to those after half of them",
            f"{bytes_live / bytes_before:.2f} (MB: {live})",
            "≤ 1.5",
            bytes_live / bytes_before <= 1.5 or bytes_live < 2**23,
        ),
        Row(
            "dead rows of deliveries at the end of it, to those at its middle",
            f"{grown:.2f} ({at_end['dead']:,.0f} of {at_end['rows']:,.0f})",
            "≤ 2.0" if plan.long else "",
            grown <= 2.0 if plan.long else None,
        ),
    ]


async def footprint(databases: Databases, receiver: Receiver, plan: Plan) -> Sequence[Row]:
    """What an event costs PostgreSQL, for the arithmetic of docs/scaling.md."""
    found = await footprints.measure(databases, receiver, events=100_000 if plan.long else 10_000)
    return [
        Row(
            "what an event costs PostgreSQL, its insert included",
            f"{found.cpu_us:.0f} µs CPU, {found.wal_bytes:,.0f} bytes of log, {found.commits:.3f} commits",
        )
    ]


#: By name, in the order in which they run.
PARTS: dict[str, Measure] = {
    "open-transaction": open_transaction,
    "readers": readers,
    "overload": overload,
    "log-growth": log_growth,
    "sizes": sizes,
    "footprint": footprint,
}


def _span(plan: Plan) -> str:
    return "10 minutes" if plan.long else "30 s"


async def _beside(
    databases: Databases, receiver: Receiver, plan: Plan, what: str, others: Sequence[str]
) -> Sequence[Row]:
    hold_s, window_s = (600.0, 60.0) if plan.long else (30.0, 10.0)
    async with load(databases, receiver) as loaded, loaded.full():
        await asyncio.sleep(_SETTLE_S)
        before = await loaded.rate(window_s)
        async with _holding(loaded, others):
            await asyncio.sleep(hold_s - window_s)
            during = await loaded.rate(window_s)
        await asyncio.sleep(_SETTLE_S)
        after = await loaded.rate(window_s)
    # Of both, since the machine drifts meanwhile.
    ratio = during / ((before + after) / 2)
    return [
        Row(
            f"{what}, to that before and after it, on PostgreSQL",
            f"{ratio:.2f} ({before:,.0f}, {during:,.0f}, {after:,.0f} events/s)",
            "≥ 0.75",
            ratio >= 0.75,
        )
    ]


@asynccontextmanager
async def _holding(loaded: Load, others: Sequence[str]) -> AsyncIterator[None]:
    """Inside it each of these sessions has begun its transaction and does nothing."""
    async with AsyncExitStack() as stack:
        for statements in others:
            connection = await stack.enter_async_context(loaded.scene.deployment.database.engine.connect())
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.execute(
                f"SET idle_in_transaction_session_timeout = 0; SET transaction_timeout = 0; {statements}"
            )
            stack.push_async_callback(driver.execute, "ROLLBACK")
        yield


async def _capacity(loaded: Load, seconds: float) -> float:
    async with loaded.full():
        await asyncio.sleep(_SETTLE_S)
        rate = await loaded.rate(seconds)
    await loaded.drained(60.0)
    return rate


async def _sizes_after(loaded: Load, deliveries: int) -> dict[str, float]:
    while await loaded.arrived() < deliveries:
        await loaded.rate(1.0)
    found = {name: float(await loaded.scene.scalar(f"SELECT pg_total_relation_size('{name}')")) for name in _LIVE}
    for what, column in (("dead", "n_dead_tup"), ("rows", "n_live_tup")):
        found[what] = float(
            await loaded.scene.scalar(f"SELECT {column} FROM pg_stat_user_tables WHERE relname = 'deliveries'")
        )
    return found

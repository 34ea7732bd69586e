"""`make bench`: every yardstick in one run, as one table with the bars beside the figures."""

import argparse
import asyncio
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

from benchmarks import coalescing, drain, latency, memory, order, receivers, slow_endpoint, waiting
from benchmarks.scene import Databases, databases

_NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
DIALECTS = tuple(_NAMES)
MEASURES = ("drain", "order", "latency", "coalescing", "waiting", "slow", "memory")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    bar: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    measures: Sequence[str]
    rounds: int
    events: int
    seconds: float

    @classmethod
    def chosen(cls, arguments: argparse.Namespace) -> "Plan":
        """The plan that the command line asks for."""
        measures = arguments.only or MEASURES
        if arguments.quick:
            return cls(measures, rounds=1, events=5_000, seconds=3.0)
        return cls(measures, rounds=arguments.rounds, events=arguments.events, seconds=15.0)


async def measure(plan: Plan, *, use_nginx: bool) -> None:
    """Measures and prints."""
    started = time.monotonic()
    async with databases() as where, AsyncExitStack() as stack:
        quickest = await stack.enter_async_context(receivers.nginx() if use_nginx else receivers.receiver())
        print(_circumstances(await where.postgres_version(), _receiver_name(use_nginx)), flush=True)
        rows: list[Row] = []
        if "drain" in plan.measures:
            rows += _drain_rows(await drain.measure(where, quickest, events=plan.events, rounds=plan.rounds))
        if "order" in plan.measures:
            rows += [await _order_row(where, quickest, dialect, plan) for dialect in DIALECTS]
        if "latency" in plan.measures:
            rows += [row for dialect in DIALECTS for row in await _latency_rows(where, dialect, plan)]
        if "coalescing" in plan.measures:
            rows += [row for dialect in DIALECTS for row in await _coalescing_rows(where, dialect, plan)]
        if "slow" in plan.measures:
            rows += [await _slow_row(where, dialect, plan) for dialect in DIALECTS]
        if "memory" in plan.measures:
            rows += [row for dialect in DIALECTS for row in await _memory_rows(where, dialect)]
        if "waiting" in plan.measures:
            rows += [row for dialect in DIALECTS for row in await _waiting_rows(where, dialect, plan)]
    print(_table(rows))
    print(f"\n{plan.rounds} rounds of {plan.events:,} events, {time.monotonic() - started:.0f} s in all.")
    if any(row.met is False for row in rows):
        sys.exit(1)


def _drain_rows(drained: drain.Drained) -> list[Row]:
    raw = drain.typical(drained.raw)
    rows = [
        Row(
            "bare aiohttp+uvloop loop, 100 in flight",
            f"{raw.events_per_s:,.0f} events/s, {raw.cpu_us_per_event:.0f} µs CPU each",
        )
    ]
    for dialect, rates in drained.by_dialect.items():
        ratios, ours = drained.ratios(dialect), drain.typical(rates)
        rows.append(
            Row(
                f"backlog drained by one process on {_NAMES[dialect]}, fan-out included, to that loop",
                f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}); {ours.events_per_s:,.0f} events/s,"
                f" {ours.cpu_us_per_event:.0f} µs CPU each",
                "≥ 0.60",
                median(ratios) >= 0.6,
            )
        )
    return rows


async def _order_row(where: Databases, receiver: receivers.Receiver, dialect: str, plan: Plan) -> Row:
    found = await order.measure(where, receiver, dialect, events=plan.events, rounds=plan.rounds)
    ordered = drain.typical(found.ordered)
    return Row(
        f"{order.JOBS:,} jobs to an ordered endpoint, to the same unordered, on {_NAMES[dialect]}",
        f"{found.ratio:.2f} ({min(found.ratios):.2f}–{max(found.ratios):.2f}); {ordered.events_per_s:,.0f} events/s,"
        f" {ordered.cpu_us_per_event:.0f} µs CPU each",
        "≥ 0.85",
        found.ratio >= 0.85,
    )


async def _latency_rows(where: Databases, dialect: str, plan: Plan) -> list[Row]:
    found = await latency.measure(where, dialect, per_s=200, seconds=plan.seconds)
    what = f"commit to arrival at 200 events/s on {_NAMES[dialect]}"
    bar, met = ("≤ 10 ms", found.p50_ms <= 10) if dialect == "postgresql" else ("", None)
    return [Row(f"{what}, p50", f"{found.p50_ms:.1f} ms", bar, met), Row(f"{what}, p99", f"{found.p99_ms:.1f} ms")]


async def _coalescing_rows(where: Databases, dialect: str, plan: Plan) -> list[Row]:
    found = await coalescing.measure(where, dialect, seconds=plan.seconds)
    most = coalescing.JOBS * (plan.seconds / coalescing.DELAY_S + 2)
    what = f"progress of {coalescing.JOBS} jobs, {coalescing.PER_S}/s each, to a receiver that takes"
    return [
        Row(
            f"{what} {coalescing.DELAY_S:g} s, on {_NAMES[dialect]}: sent of published",
            f"{found.sent:,} of {found.published:,}; the last word after {found.last_s:.1f} s",
            f"≤ {most:.0f}",
            found.sent <= most,
        ),
        Row(
            "the same: age of what is sent, p50 and p99",
            f"{found.age_p50_s * 1000:.0f} ms, {found.age_p99_s * 1000:.0f} ms",
            f"p99 ≤ {coalescing.DELAY_S * 100:.0f} ms",
            found.age_p99_s <= coalescing.DELAY_S / 10,
        ),
    ]


async def _slow_row(where: Databases, dialect: str, plan: Plan) -> Row:
    found = await slow_endpoint.measure(where, dialect, events=plan.events, rounds=plan.rounds)
    return Row(
        f"healthy endpoints beside one that takes 10 s and gets 10 %, to without it, on {_NAMES[dialect]}",
        f"{found.ratio:.2f} ({median(found.beside_slow):,.0f} to {median(found.alone):,.0f} events/s)",
        "≥ 0.80",
        found.ratio >= 0.8,
    )


async def _memory_rows(where: Databases, dialect: str) -> list[Row]:
    found = await memory.measure(where, dialect)
    return [
        Row(f"resident memory at rest on {_NAMES[dialect]}", f"{found.at_rest_mb:.0f} MB"),
        Row(f"resident memory with 100 in flight on {_NAMES[dialect]}", f"{found.in_flight_mb:.0f} MB"),
    ]


async def _waiting_rows(where: Databases, dialect: str, plan: Plan) -> list[Row]:
    found = await waiting.measure(where, dialect, seconds=plan.seconds)
    shares = {"streams of jobs' events": found.streams, "long-polls of 30 s": found.long_polls}
    return [
        Row(
            f"CPU that {waiting.READERS:,} idle {what} cost one process on {_NAMES[dialect]}",
            f"{share - found.nobody:.1f} % of a core, beside {found.nobody:.1f} % with none",
            "≤ 5 %",
            share - found.nobody <= 5,
        )
        for what, share in shares.items()
    ]


def _circumstances(postgres: str, receiver: str) -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = ", ".join(f"{name} {version(name)}" for name in ("outbox-dispatcher", "aiohttp", "uvloop", "asyncpg"))
    return f"""\
machine:  {os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}, load {load}
versions: Python {platform.python_version()}, {packages}
database: {postgres}; SQLite {sqlite3.sqlite_version} (write-ahead log, synchronous=FULL)
receiver: {receiver}; for latency and the slow endpoint benchmarks/receiver.py
"""


def _receiver_name(use_nginx: bool) -> str:
    if not use_nginx:
        return "benchmarks/receiver.py (asyncio.Protocol on uvloop)"
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return told.strip().removeprefix("nginx version: ")


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _table(rows: Sequence[Row]) -> str:
    lines = [("what", "measured", "bar", "met"), ("---", "---", "---", "---")]
    lines += [(row.what, row.measured, row.bar, "" if row.met is None else "yes" if row.met else "NO") for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def main() -> None:
    """The command; exit code 1 when a bar is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure against the yardsticks.")
    parser.add_argument("--quick", action="store_true", help="one small round of everything, within a minute")
    parser.add_argument("--only", choices=MEASURES, action="append", help="measure this only; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--events", type=int, default=30_000, help="events in a round (30000)")
    parser.add_argument("--receiver", choices=("auto", "nginx", "python"), default="auto", help="auto: nginx if there")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("the benchmarks read CPU and memory from /proc: run them on Linux")
    use_nginx = arguments.receiver == "nginx" or (arguments.receiver == "auto" and receivers.has_nginx())
    asyncio.run(measure(Plan.chosen(arguments), use_nginx=use_nginx))


if __name__ == "__main__":
    main()

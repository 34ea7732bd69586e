"""`make bench`: every yardstick in one run, as one table with the bars beside the figures."""

import argparse
import asyncio
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version

from benchmarks import receivers
from benchmarks.long import measure_long
from benchmarks.receivers import Receiver
from benchmarks.registry import ALL, LONG, MEASURES
from benchmarks.rows import Measure, Plan, Row
from benchmarks.scene import Databases, databases


async def measure(names: Sequence[str], plan: Plan, *, use_nginx: bool) -> Sequence[Row]:
    """Measures these on one server and receiver."""
    async with databases() as where, AsyncExitStack() as stack:
        quickest = await stack.enter_async_context(receivers.nginx() if use_nginx else receivers.receiver())
        print(_circumstances(await where.postgres_version(), _receiver_name(use_nginx)), flush=True)
        return [row for name in names for row in await _rows(name, ALL[name], where, quickest, plan)]


async def _rows(name: str, part: Measure, where: Databases, quickest: Receiver, plan: Plan) -> Sequence[Row]:
    """One measure's lines, told as soon as they are there: what comes later may fail, or be stopped."""
    started = time.monotonic()
    try:
        rows = await part(where, quickest, plan)
    except Exception as error:  # noqa: BLE001 - told, and a bar missed; the others are measured all the same
        traceback.print_exc()
        rows = [Row(name, f"failed: {error}", met=False)]
    print(f"{name}, {time.monotonic() - started:.0f} s", flush=True)
    for row in rows:
        print(f"  {row.what}: {row.measured}", flush=True)
    return rows


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
    parser.add_argument("--only", choices=tuple(ALL), action="append", help="measure this only; may be repeated")
    parser.add_argument("--long", action="store_true", help="the long forms, hours; goes on where it was stopped")
    parser.add_argument("--afresh", action="store_true", help="with --long: measure again what was finished")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--events", type=int, default=10_000, help="events in a round (10000)")
    parser.add_argument("--receiver", choices=("auto", "nginx", "python"), default="auto", help="auto: nginx if there")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("the benchmarks read CPU and memory from /proc: run them on Linux")
    use_nginx = arguments.receiver == "nginx" or (arguments.receiver == "auto" and receivers.has_nginx())
    plan = Plan(arguments.rounds, arguments.events, seconds=8.0, long=arguments.long)
    if arguments.quick:
        plan = Plan(rounds=1, events=3_000, seconds=3.0)
    # What they have started ends with them, however they are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    if arguments.long:
        chosen = {name: part for name, part in LONG.items() if name in (arguments.only or LONG)}
        rows = asyncio.run(measure_long(chosen, plan, use_nginx=use_nginx, afresh=arguments.afresh))
    else:
        rows = asyncio.run(measure(arguments.only or tuple(MEASURES), plan, use_nginx=use_nginx))
    print(f"\n{_table(rows)}")
    print(f"\n{plan.rounds} rounds of {plan.events:,} events, {time.monotonic() - started:.0f} s in all.")
    if any(row.met is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

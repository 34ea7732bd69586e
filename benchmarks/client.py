"""What the HTTP client costs: each kind of it end to end, in a drain on PostgreSQL, and alone, without a database.

`python -m benchmarks.client URL COUNT KIND` POSTs alone, as the engine does, every protection on, and prints as JSON
how long it took and what CPU it used, in seconds.
"""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from statistics import median
from typing import get_args

import uvloop
from yarl import URL

from benchmarks.drain import Rate, drained, typical
from benchmarks.events import SECRET
from benchmarks.posting import post_all
from benchmarks.receivers import Receiver
from benchmarks.rows import Plan, Row
from benchmarks.scene import Databases
from benchmarks.timing import IN_FLIGHT, timed
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.secrets import Secret
from dispatcher.transport.client import HttpClient, Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
_HEADERS = {"user-agent": "client-loop", "x-delivery-attempt": "1"}


@dataclass(frozen=True, slots=True)
class Compared:
    """The rounds of a run, by the client's kind; the n-th of each belong together."""

    alone: dict[Kind, list[Rate]]
    end_to_end: dict[Kind, list[Rate]]


def ratios(rates: dict[Kind, list[Rate]]) -> list[float]:
    """Of each round: events per second with the lean client to those with aiohttp."""
    return [lean.events_per_s / usual.events_per_s for lean, usual in zip(rates["lean"], rates["aiohttp"], strict=True)]


def cpu_ratio(rates: dict[Kind, list[Rate]]) -> float:
    """CPU per event with aiohttp to that with the lean client: other work on the machine hardly changes it."""
    return median(
        usual.cpu_us_per_event / lean.cpu_us_per_event
        for lean, usual in zip(rates["lean"], rates["aiohttp"], strict=True)
    )


async def measure(databases: Databases, receiver: Receiver, *, events: int, rounds: int) -> Compared:
    """Each kind in turns, alone and end to end."""
    result = Compared({kind: [] for kind in KINDS}, {kind: [] for kind in KINDS})
    for _ in range(rounds):
        for kind in KINDS:
            result.alone[kind].append(await _alone(receiver, events, kind))
        for kind in KINDS:
            result.end_to_end[kind].append(await _end_to_end(databases, receiver, events, kind))
    return result


async def _alone(receiver: Receiver, events: int, kind: Kind) -> Rate:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.client", receiver.url, str(events), kind, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the client {kind} failed")
    used = json.loads(output)
    return Rate(events / used["seconds"], used["cpu_s"] / events * 1e6)


async def _end_to_end(databases: Databases, receiver: Receiver, events: int, kind: Kind) -> Rate:
    async with databases.scene("postgresql") as scene:
        scene.environment.update(DISPATCHER_CLIENT=kind)
        await scene.endpoint(receiver.url, max_in_flight=IN_FLIGHT)
        await scene.backlog(events)
        return await drained(scene, events)


async def _run(url: str, count: int, kind: Kind) -> dict[str, float]:
    rules = EgressRules(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
    client = HttpClient(rules, connect_timeout_s=5.0, kind=kind)
    result = await timed(count, partial(post_all, client, URL(url), Secret.parse(SECRET).key, _HEADERS))
    await client.close()
    return result


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on the clients."""
    compared = await measure(databases, receiver, events=plan.events, rounds=plan.rounds)
    rows = []
    for what, rates in (
        ("POSTs alone", compared.alone),
        ("backlog drained by one process on PostgreSQL", compared.end_to_end),
    ):
        found, each = ratios(rates), {kind: typical(rates[kind]).cpu_us_per_event for kind in KINDS}
        rows.append(
            Row(
                f"{what}: the lean client to aiohttp",
                f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f}); CPU {each['lean']:.0f} to"
                f" {each['aiohttp']:.0f} µs each: 1 to {cpu_ratio(rates):.2f}",
            )
        )
    return rows


if __name__ == "__main__":
    chosen = KINDS[KINDS.index(sys.argv[3])]
    print(json.dumps(uvloop.run(_run(sys.argv[1], int(sys.argv[2]), chosen))))

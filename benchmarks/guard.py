"""What the egress guard costs: signed POSTs with it and without it, in turns in one process, by the CPU that they take.

`python -m benchmarks.guard URL COUNT ROUNDS KIND` POSTs and prints as JSON, for connections that are kept and for a new
one each time, the ratios of the rounds.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import ip_network
from statistics import median

import uvloop
from yarl import URL

from benchmarks.client import KINDS
from benchmarks.events import SECRET, bodies
from benchmarks.posting import post_all
from benchmarks.receivers import Receiver
from benchmarks.rows import Plan, Row
from benchmarks.scene import Databases
from benchmarks.timing import cpu_s
from dispatcher.rules.egress import EgressRules, Refusal
from dispatcher.rules.secrets import Secret
from dispatcher.transport.client import HttpClient, Kind

#: POSTs at once.
IN_FLIGHT = 50
#: CPU with the guard to that without it.
BAR = 1.03
#: So many rounds: each is short, and other work on the machine falls on few of them.
ROUNDS = 30
CONNECTIONS: Mapping[str, Mapping[str, str]] = {"kept": {}, "a new one each": {"connection": "close"}}


class Unguarded(EgressRules):
    """Rules that look at nothing."""

    def target_refusal(self, scheme: str, host: str, port: int) -> Refusal | None:
        """None, whatever it is."""
        return None

    def connection_refusal(self, address: str, port: int) -> Refusal | None:
        """None, whatever it is."""
        return None

    def port_refusal(self, port: int) -> Refusal | None:
        """None, whatever it is."""
        return None


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on the guard."""
    return [
        Row(
            f"the egress guard, {kind}, connections {connections}: CPU of a POST to that without it",
            f"{median(found):.3f} (quartiles {_quartiles(found)})",
            f"≤ {BAR:.2f}" if connections == "kept" else "",
            median(found) <= BAR if connections == "kept" else None,
        )
        for kind in KINDS
        for connections, found in (await _measured(receiver, plan.events, kind)).items()
    ]


async def _measured(receiver: Receiver, events: int, kind: Kind) -> dict[str, list[float]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.guard", receiver.url, str(events // ROUNDS), str(ROUNDS), kind,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the client {kind} failed")
    ratios: dict[str, list[float]] = json.loads(output)
    return ratios


def _quartiles(found: list[float]) -> str:
    ordered = sorted(found)
    return f"{ordered[len(ordered) // 4]:.3f}–{ordered[len(ordered) * 3 // 4]:.3f}"


async def _run(url: str, count: int, rounds: int, kind: Kind) -> dict[str, list[float]]:
    networks = (ip_network("127.0.0.0/8"),)
    clients = [
        HttpClient(rules(allow_http=True, allow_networks=networks), connect_timeout_s=5.0, kind=kind)
        for rules in (EgressRules, Unguarded)
    ]
    made = list(bodies(count))
    ratios: dict[str, list[float]] = {}
    for connections, headers in CONNECTIONS.items():
        found = ratios[connections] = []
        for turn in range(rounds + 1):
            used = {}
            # The one that begins changes, since what comes second finds things warm.
            for client in clients if turn % 2 else clients[::-1]:
                used[client] = await _cpu_of(client, URL(url), headers, made)
            # The first opens connections and fills caches.
            if turn:
                found.append(used[clients[0]] / used[clients[1]])
    for client in clients:
        await client.close()
    return ratios


async def _cpu_of(client: HttpClient, url: URL, headers: Mapping[str, str], made: list[tuple[str, bytes]]) -> float:
    key, each = Secret.parse(SECRET).key, iter(made)
    before = cpu_s()
    await asyncio.gather(*(post_all(client, url, key, headers, each) for _ in range(IN_FLIGHT)))
    return cpu_s() - before


if __name__ == "__main__":
    chosen = KINDS[KINDS.index(sys.argv[4])]
    print(json.dumps(uvloop.run(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), chosen))))

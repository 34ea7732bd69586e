"""`--long`: the measures that take hours, one after the other; what is finished is kept in a file, not done again."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import receivers
from benchmarks.rows import Measure, Plan, Row
from benchmarks.scene import databases

#: In the working directory: which parts are finished, with their rows.
STATE = Path(".bench-long.json")


async def measure_long(parts: Mapping[str, Measure], plan: Plan, *, use_nginx: bool, afresh: bool) -> Sequence[Row]:
    """Measures what the file does not hold; answers the rows of all these parts."""
    finished = {} if afresh else await asyncio.to_thread(_kept)
    for name, part in parts.items():
        if name in finished:
            print(f"{name}: measured before", flush=True)
            continue
        print(f"{name} …", flush=True)
        # Each has a server and a receiver of its own, so that none pays for another's leavings.
        async with databases() as where, receivers.nginx() if use_nginx else receivers.receiver() as receiver:
            rows = await part(where, receiver, plan)
        finished[name] = [asdict(row) for row in rows]
        await asyncio.to_thread(_keep, finished)
    return [Row(**row) for name in parts for row in finished[name]]


def _kept() -> dict[str, list[dict[str, Any]]]:
    kept: dict[str, list[dict[str, Any]]] = json.loads(STATE.read_text()) if STATE.exists() else {}
    return kept


def _keep(finished: Mapping[str, object]) -> None:
    beside = STATE.with_suffix(".new")
    beside.write_text(json.dumps(finished, indent=1))
    beside.replace(STATE)

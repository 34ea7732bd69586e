"""The yardstick of the drain: a bare aiohttp client on uvloop that signs and POSTs, and does nothing else.

No database, no log, no guard, no retry; default garbage collection. `python -m benchmarks.raw_loop URL COUNT`
prints as JSON how long it took and what CPU it used, in seconds.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterator

import aiohttp
import uvloop

from benchmarks.events import SECRET, bodies
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import signature_header

#: POSTs at once.
IN_FLIGHT = 100


async def post_all(session: aiohttp.ClientSession, url: str, key: bytes, todo: Iterator[tuple[str, bytes]]) -> None:
    """One of the loop's workers: takes the next body, signs it, POSTs it, reads the answer."""
    for event_id, body in todo:
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "raw-loop",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature_header((key,), event_id, timestamp, body),
        }
        async with session.post(url, data=body, headers=headers) as response:
            await response.read()
            if response.status != 200:
                raise RuntimeError(f"the receiver answered {response.status}")


async def run(url: str, count: int) -> dict[str, float]:
    """POSTs `count` bodies; answers the seconds and CPU seconds that took."""
    key = Secret.parse(SECRET).key
    made = list(bodies(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:
        await post_all(session, url, key, iter(made[:100]))
        todo = iter(made)
        used, started = _cpu_s(), time.perf_counter()
        await asyncio.gather(*(post_all(session, url, key, todo) for _ in range(IN_FLIGHT)))
        return {"seconds": time.perf_counter() - started, "cpu_s": _cpu_s() - used}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(sys.argv[1], int(sys.argv[2])))))

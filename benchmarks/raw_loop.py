"""The yardstick of the drain: a bare aiohttp client on uvloop that signs and POSTs, and does nothing else.

No database, no log, no guard, no retry; default garbage collection. `python -m benchmarks.raw_loop URL COUNT`
prints as JSON how long it took and what CPU it used, in seconds.
"""

import json
import sys
import time
from functools import partial

import aiohttp
import uvloop

from benchmarks.events import SECRET
from benchmarks.timing import IN_FLIGHT, Waiting, timed
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import signature_header


async def post_all(session: aiohttp.ClientSession, url: str, key: bytes, waiting: Waiting) -> None:
    """One of the loop's workers: takes the next body, signs it, POSTs it, reads the answer."""
    for event_id, body in waiting:
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
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:
        return await timed(count, partial(post_all, session, url, key))


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(sys.argv[1], int(sys.argv[2])))))

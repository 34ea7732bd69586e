"""The signed POSTs of the bare yardsticks: a task each, and nothing else."""

import asyncio
import time

import aiohttp

from benchmarks.events import SECRET
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import signature_header


class BarePosts:
    """POSTs to one receiver."""

    def __init__(self, session: aiohttp.ClientSession, receiver: str) -> None:
        self._session = session
        self._receiver = receiver
        self._key = Secret.parse(SECRET).key
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, event_id: str, body: bytes) -> None:
        """Signs and sends it while the caller goes on."""
        task = asyncio.get_running_loop().create_task(self._post(event_id, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, event_id: str, body: bytes) -> None:
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature_header((self._key,), event_id, timestamp, body),
        }
        async with self._session.post(self._receiver, data=body, headers=headers) as response:
            await response.read()

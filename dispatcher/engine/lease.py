"""The lease of a dispatcher: renewed every third of it; lost, it is taken anew and what was claimed is given up."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from dispatcher import metrics
from dispatcher.clock import Clock
from dispatcher.engine.patience import patiently
from dispatcher.logs import logger
from dispatcher.store.hot import HotStore

log = logger("dispatcher.lease")


class Lease:
    """Keeps one dispatcher's lease. `on_taken` is told the row of each that it takes."""

    def __init__(
        self,
        store: HotStore,
        clock: Clock,
        lease_s: float,
        on_taken: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._on_taken = on_taken
        self._store = store
        self._clock = clock
        self._lease_s = lease_s
        self._ends_s = 0.0
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def covers(self, dispatcher_row: int) -> bool:
        """Whether what was claimed under this row is still ours: its lease lives, by this process's own clock."""
        return dispatcher_row == self._store.dispatcher_row and self._clock.monotonic() < self._ends_s

    async def take(self) -> None:
        """Takes a fresh lease. Raises `StoreUnavailable`."""
        await self._enrol()
        await self._tell()

    async def _enrol(self) -> None:
        asked_s = self._clock.monotonic()
        await self._store.enrol(self._name, self._lease_s)
        self._ends_s = asked_s + self._lease_s

    async def _tell(self) -> None:
        if self._on_taken is not None:
            await self._on_taken(self._store.dispatcher_row)

    async def keep(self) -> None:
        """Renews the lease until it is cancelled."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            await self.renew()

    async def renew(self) -> None:
        """Renews the lease, or takes a new one: then what was in flight is nobody's, and its outcomes are void."""
        if not await patiently("lease", self._beat):
            log.warning("dispatcher.lease_lost", dispatcher=self._store.dispatcher_row)
            metrics.store_outages.labels("lease").inc()
            await patiently("lease", self._enrol)
            # Apart: tried again together, it would take another row, and void what was claimed under this one.
            await patiently("lease", self._tell)

    async def _beat(self) -> bool:
        asked_s = self._clock.monotonic()
        renewed = await self._store.heartbeat(self._lease_s)
        if renewed:
            # From before it was asked for: the database's lease never ends earlier than this process believes.
            self._ends_s = asked_s + self._lease_s
        return renewed

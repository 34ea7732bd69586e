"""Record: outcomes in batches, tried again until the database has them; a lost lease changes nothing."""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from dispatcher import metrics
from dispatcher.engine.attempt import Ended, count
from dispatcher.engine.patience import patiently
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState, Reason
from dispatcher.store.hot import HotStore, Recorded

log = logger("dispatcher.record")

#: The most outcomes in one transaction.
BATCH = 500
#: How long an outcome waits for others to share its commit with, in seconds.
LINGER_S = 0.002


class Recorder:
    """The one recorder of a dispatcher."""

    def __init__(
        self,
        store: HotStore,
        *,
        recorded: Callable[[Recorded, int], None],
        disable: Callable[[int, Reason], Awaitable[None]],
    ) -> None:
        self._store = store
        self._recorded = recorded
        self._disable = disable
        self._waiting: list[Ended] = []
        self._unrecorded: dict[tuple[int, int], bool] = {}
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = False
        #: Transactions so far.
        self.batches = 0

    @property
    def idle(self) -> bool:
        """Whether everything that ended is on record."""
        return self._empty.is_set()

    @property
    def unrecorded(self) -> list[tuple[int, int]]:
        """Deliveries whose attempt has ended and is not on record yet, each with the attempt's number."""
        return list(self._unrecorded)

    @property
    def making_room(self) -> list[tuple[int, int]]:
        """Of these, those in whose place another attempt may be made already."""
        return [held for held, frees_room in self._unrecorded.items() if frees_room]

    def put(self, ended: Ended) -> bool:
        """Takes an outcome, returns at once; whether another attempt may take its place already."""
        finished, frees_room = ended.finished, ended.frees_room
        self._unrecorded[finished.delivery_row, finished.attempt] = frees_room
        if not self._waiting:
            self._empty.clear()
            self._arrived.set()
        self._waiting.append(ended)
        return frees_room

    async def run(self) -> None:
        """Records until `close` was called and nothing is left."""
        while not self._closing or self._waiting:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if len(self._waiting) < BATCH and not self._closing:
                    await asyncio.sleep(LINGER_S)
                batch = self._next_batch()
                count(batch)
                await self._record(batch)
            self._empty.set()

    def close(self) -> None:
        """Lets `run` end when everything is on record."""
        self._closing = True
        self._arrived.set()

    async def drained(self) -> None:
        """Waits until everything that ended so far is on record."""
        await self._empty.wait()

    def _next_batch(self) -> list[Ended]:
        # No delivery twice: behind the late outcome of an attempt that was taken over may be that of the next one,
        # and the store fences deliveries, not outcomes.
        rows: set[int] = set()
        for ended in self._waiting[:BATCH]:
            if ended.finished.delivery_row in rows:
                break
            rows.add(ended.finished.delivery_row)
        batch, self._waiting = self._waiting[: len(rows)], self._waiting[len(rows) :]
        return batch

    async def _record(self, batch: list[Ended]) -> None:
        outcomes = [ended.finished for ended in batch]
        # First, while the attempt still holds its slot: what is recorded makes room for another attempt there.
        for endpoint_row in {ended.finished.endpoint_row for ended in batch if ended.disables is not None}:
            await self._end(endpoint_row, Reason.GONE)
        try:
            result = await patiently("record", lambda: self._store.record(outcomes))
        except Exception:
            if len(batch) > 1:
                for ended in batch:
                    await self._record([ended])
                return
            log.exception("delivery.unrecordable", delivery_id=public_id(Kind.DELIVERY, outcomes[0].delivery_row))
            if outcomes[0].excerpt:
                await self._record([replace(batch[0], finished=replace(outcomes[0], excerpt=""))])
            else:
                self._unrecorded.pop((outcomes[0].delivery_row, outcomes[0].attempt), None)
            return
        self.batches += 1
        delivered = room = 0
        for finished in outcomes:
            room += not self._unrecorded.pop((finished.delivery_row, finished.attempt), False)
            if finished.delivery_row in result.lost:
                metrics.leases_lost.inc()
                log.warning("delivery.lease_lost", delivery_id=public_id(Kind.DELIVERY, finished.delivery_row))
            elif finished.outcome is Outcome.DELIVERED:
                delivered += 1
            elif finished.delivery_row in result.superseded:
                metrics.settled.labels(DeliveryState.SUPERSEDED, Reason.SUPERSEDED).inc()
            elif finished.outcome is Outcome.DEAD:
                metrics.settled.labels(DeliveryState.DEAD, finished.reason or "").inc()
        if delivered:
            metrics.settled.labels(DeliveryState.DELIVERED, "").inc(delivered)
        self._recorded(result, room)
        for endpoint_row in result.failing:
            await self._end(endpoint_row, Reason.FAILING)

    async def _end(self, endpoint_row: int, reason: Reason) -> None:
        try:
            await patiently("disable", lambda: self._disable(endpoint_row, reason))
        except Exception:
            # Outcomes come first; the endpoint's next answer asks for this again.
            log.exception("endpoint.not_disabled", endpoint_id=public_id(Kind.ENDPOINT, endpoint_row), reason=reason)

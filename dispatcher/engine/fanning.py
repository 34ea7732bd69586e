"""The fan-out loop: wakes, empties the outbox's queue in batches, and tells producers when they need not notify."""

import asyncio
from collections.abc import Callable, Collection

from dispatcher import metrics
from dispatcher.engine.claiming import STRAIGHT_EVENTS, Claiming
from dispatcher.engine.patience import patiently
from dispatcher.engine.pulse import Pulse
from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger
from dispatcher.states import DeliveryState, Reason
from dispatcher.store import job_callbacks
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.database import Database
from dispatcher.store.hot import FannedOut, HotStore
from dispatcher.store.ingest import Straight

log = logger("dispatcher.fan_out")

#: The most events in one transaction, and in the first one.
BATCH = 500
FIRST_BATCH = 10
#: The deliveries that one transaction should make at most: an event may go to ten thousand endpoints.
DELIVERIES = 5000
#: New callbacks looked at in one transaction, and how long they wait for others while events come, in seconds.
CALLBACKS = 300
CALLBACKS_LINGER_S = 0.1
#: A pass that takes so many says that events come faster than notifications are worth.
BUSY_BATCH = 50
#: How long producers are told not to notify, and how often the queue is looked at meanwhile, in seconds.
BUSY_S = 0.5
BUSY_POLL_S = 0.01
#: How long the next look waits where another was fanning out, doubled each time, in seconds.
CONTENDED_S = 0.005
CONTENDED_MOST_S = 0.3
#: How often the claim loop is to look for what a pass of this one's has not claimed and another process may have left,
#: in seconds at least.
OTHERS_EVERY_S = 0.1
#: An event that goes to more endpoints than this keeps its publisher waiting too long to be fanned out on the way.
WIDE = 20
#: So many passes in a row that found some say that the queue is not emptied by small ones.
IN_A_ROW = 10
#: How long a publisher waits for the pass that is under way, in seconds. A pass that is short costs less than the way
#: through the queue, which keeps this loop at work just when the next publisher comes.
TURN_S = 0.03


class Fanning:
    """Fans out for one dispatcher."""

    def __init__(
        self,
        store: HotStore,
        database: Database,
        pulse: Pulse,
        made: Pulse,
        poll_interval_s: float,
        claiming: Claiming,
        numbered: Callable[[Collection[int]], None],
    ) -> None:
        self._store = store
        self._database = database
        self._clock = database.clock
        self._pulse = pulse
        self._made = made
        self._claiming = claiming
        self._poll_interval_s = poll_interval_s
        self._numbered = numbered
        self._busy_until = 0.0
        self._callbacks_at = 0.0
        self._turn = asyncio.Lock()
        self._contended_s = 0.0
        self._per_event = 1.0
        self._batch = FIRST_BATCH
        #: The most events that the last pass was to take; passes in a row that found some; whether there may be many.
        self._limit = FIRST_BATCH
        self._in_a_row = 0
        self._many = False
        #: Whether there was word of something, and no pass has found what it was about.
        self._told = False
        #: Whether the claim loop is about to look for others, and when it last was.
        self._looking = False
        self._looked_at = 0.0
        self._goes_straight = False
        self._returned = asyncio.Event()
        #: Events that are to be fanned out each by itself, since one of so many cannot be.
        self._singly = 0

    async def take_turn(self) -> bool:
        """Keeps this loop from fanning out until `end_turn`; false where events had better wait in the queue.

        So they do where each goes to many endpoints, where so many come that they are taken in large batches, and where
        the pass under way takes long.
        """
        if self._per_event > WIDE or self._clock.monotonic() < self._busy_until:
            return False
        try:
            async with asyncio.timeout(TURN_S):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    def end_turn(self) -> None:
        """This loop may fan out again."""
        self._turn.release()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._told |= self._pulse.rung
            self._pulse.quiet()
            async with self._turn:
                found = await self.once()
            if not found:
                await self._pulse.found_nothing()
                await self._pulse.wait(self._pause_s())

    def _pause_s(self) -> float:
        if self._clock.monotonic() < self._busy_until:
            return BUSY_POLL_S
        return min(self._contended_s or self._poll_interval_s, self._poll_interval_s)

    async def once(self) -> int:
        """One batch; answers how many events left the queue and how many new callbacks were looked at."""
        try:
            result = await patiently("fan_out", self._fan_out)
        except Exception:
            if self._singly:
                raise
            log.exception("fan_out.batch_failed", events=self._limit)
            self._singly = self._limit
            return self._limit
        self.settle(result)
        self._in_a_row = self._in_a_row + 1 if result.events else 0
        # Each tenant has its share of a pass: many of one may be few of all, and then one pass follows another.
        self._many = 2 * result.events > min(self._limit, STRAIGHT_EVENTS) or self._in_a_row >= IN_A_ROW
        self._contended_s = min(CONTENDED_MOST_S, 2 * self._contended_s or CONTENDED_S) if result.contended else 0.0
        if result.events:
            self._batch = max(1, min(BATCH, self._batch * 4, int(DELIVERIES / self._per_event)))
        if not result.contended:
            if result.claimed is None and (
                result.deliveries or result.superseded or (self._told and not result.events)
            ):
                # A head that was superseded has freed its lane; and what was told of, and is not in the queue, another
                # process has fanned out, who may have no room for it.
                self._made.ring()
            elif result.others:
                self._look_for_others()
            self._told = False
        if result.events >= BUSY_BATCH and self._clock.monotonic() > self._busy_until - BUSY_S / 2:
            # Noted first: as long as producers may be silent, the queue is looked at without being asked.
            self._busy_until = self._clock.monotonic() + BUSY_S + BUSY_POLL_S
            await patiently("fan_out", lambda: self._store.busy(BUSY_S))
        if not result.catch_up or (result.events and self._clock.monotonic() < self._callbacks_at):
            return result.events
        return result.events + await patiently("fan_out", self._catch_up)

    def _look_for_others(self) -> None:
        """Perhaps another process has no room for what it fanned out; or it is held back, and has been for long."""
        if not self._looking:
            self._looking = True
            rested_s = self._clock.monotonic() - self._looked_at
            asyncio.get_running_loop().call_later(max(0.0, OTHERS_EVERY_S - rested_s), self._look)

    def _look(self) -> None:
        self._looking, self._looked_at = False, self._clock.monotonic()
        self._made.ring()

    def settle(self, result: FannedOut) -> None:
        """Tells whom it concerns what was fanned out, by this loop or beside a publisher's events."""
        for rejected in result.rejected:
            log.error("event.rejected", event_row=rejected.event_row, reason=rejected.reason)
            metrics.unreadable.labels("event").inc()
        if result.events:
            self._per_event = max(1.0, result.deliveries / result.events)
            metrics.fanned_out.inc(result.events)
            metrics.deliveries_made.inc(result.deliveries)
        if result.superseded:
            metrics.settled.labels(DeliveryState.SUPERSEDED, Reason.SUPERSEDED).inc(result.superseded)
            log.debug("delivery.superseded", count=result.superseded)
        if result.held:
            self._claiming.look_for_due()
        if result.jobs:
            self._numbered(result.jobs)

    async def _catch_up(self) -> int:
        self._callbacks_at = self._clock.monotonic() + CALLBACKS_LINGER_S
        async with self._database.begin() as connection:
            looked_at, deliveries = await job_callbacks.catch_up(connection, self._database, CALLBACKS)
        metrics.deliveries_made.inc(deliveries)
        if looked_at:
            # What came after a job's end may have waited for this.
            self._made.ring()
        return looked_at

    async def _fan_out(self) -> FannedOut:
        if self._singly:
            self._limit = 1
            result = await self._store.fan_out_one()
            self._singly = self._singly - 1 if result.events else 0
            return result
        straight = await self._lend()
        if straight is not None:
            return await self._fan_out_straight(straight)
        self._limit = self._batch
        try:
            return await self._store.fan_out(self._batch)
        except StoreUnavailable:
            # Perhaps it only took too long.
            self._batch = max(1, self._batch // 2)
            raise

    async def _lend(self) -> Straight | None:
        if self._many or self._per_event > WIDE or self._clock.monotonic() < self._busy_until:
            return None
        return await self._claiming.lend_between()

    async def _fan_out_straight(self, straight: Straight) -> FannedOut:
        self._goes_straight = True
        self._returned.clear()
        self._limit = min(self._batch, STRAIGHT_EVENTS)
        try:
            result = await self._store.fan_out(self._limit, straight)
        except (StoreUnavailable, asyncio.CancelledError):
            self._claiming.doubt()
            raise
        except Exception:
            # Nothing came about.
            self._claiming.returned(ClaimedBatch(()), left=False)
            raise
        else:
            self._claiming.returned(result.claimed or ClaimedBatch(()), left=result.left)
            return result
        finally:
            self._goes_straight = False
            self._returned.set()

    async def straight_returned(self, seconds: float) -> None:
        """Returns when what a pass under way claims has been handed over; after so long at most."""
        if not self._goes_straight:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._returned.wait()
        except TimeoutError:
            return

"""The claim loop: keeps as many attempts in flight as there is room for, and claims again before they have ended."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from dispatcher import metrics
from dispatcher.clock import Clock
from dispatcher.engine.attempt import Attempts, Ended
from dispatcher.engine.burial import Burial
from dispatcher.engine.patience import patiently
from dispatcher.engine.pulse import Pulse
from dispatcher.errors import StoreUnavailable
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.rules.sharing import KEPT_ONE_IN
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Straight

log = logger("dispatcher.claim")

#: The most deliveries in one claim.
BATCH = 500
#: One claim takes half of what is in flight, or so many where that is more: while these are sent the next claim is
#: under way, where one that took all the room at once would leave nothing to do until the next has returned. Claims
#: that come back when nothing is in flight any more grow.
LEAST_BATCH = 50
#: Retries made due in one statement.
DUE_BATCH = 1000
#: What is fanned out is claimed by the same transaction where it is so few events: more would wait for each other's
#: deliveries. It claims so many deliveries at most, and waits so long for the claim under way, in seconds.
STRAIGHT_EVENTS = 20
STRAIGHT_DELIVERIES = 50
LENDING_S = 0.02
#: How long the database has at a stop to take back what was claimed and not begun, in seconds.
RELEASE_S = 1.5
#: How long the first attempt that ends waits for others before their room is claimed again, in seconds.
LINGER_S = 0.003
#: Attempts that have been in flight for so long, or up to twice as long, are no measure of how soon there will be room,
#: in seconds: one slow endpoint's would make everybody's claims small and rare.
LASTING_S = 0.5
#: How long a claim waits that looked at a part of the endpoints with work and found that none has room, in seconds:
#: where ten thousand are full, looking at them all again and again would cost more than what they are sent.
LOOK_ON_S = 0.002


class Claiming:
    """Claims for one dispatcher, and owns its attempts in flight."""

    def __init__(
        self,
        store: HotStore,
        clock: Clock,
        attempts: Attempts,
        pulse: Pulse,
        *,
        ended: Callable[[Ended], None],
        unrecorded: Callable[[], Sequence[tuple[int, int]]],
        take_back_unanswered: Callable[[], Awaitable[None]],
        doubt_s: float,
        burial: Burial,
        max_in_flight: int,
        poll_interval_s: float,
    ) -> None:
        self._burial = burial
        self._store = store
        self._clock = clock
        self._attempts = attempts
        self._pulse = pulse
        self._ended = ended
        self._unrecorded = unrecorded
        self._take_back_unanswered = take_back_unanswered
        self._doubt_s = doubt_s
        self._doubt_ends_s: float | None = None
        self._look_again_s = 0.0
        self._max_in_flight = max_in_flight
        self._poll_interval_s = poll_interval_s
        self._tasks: dict[asyncio.Task[None], Claimed] = {}
        self._lasting: set[asyncio.Task[None]] = set()
        self._seen: set[asyncio.Task[None]] = set()
        self._looked_at = 0.0
        self._look_for_due_at = 0.0
        self._starved = False
        self._full = False
        self._room = 0
        self._room_enough = 1
        self._batch = LEAST_BATCH
        #: Room that a claim under way may fill, this loop's and one beside a publisher's events.
        self._asked = 0
        self._lent = 0
        self._returned = asyncio.Event()
        #: Whether the last claim left as much as it took: the next one follows at once.
        self._rushing = False
        self._releasing: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def in_flight(self) -> int:
        """Attempts in flight."""
        return len(self._tasks)

    @property
    def held(self) -> set[tuple[int, int]]:
        """The deliveries in flight, each with its attempt's number."""
        return {(claimed.delivery_row, claimed.attempt) for claimed in self._tasks.values()}

    def room_made(self, room: int) -> None:
        """Attempts have ended: their endpoints, which may have had no room, have some."""
        if not self._starved or not room:
            return
        first = not self._room
        self._room += room
        if self._room >= self._room_enough:
            self._pulse.ring()
        elif first:
            asyncio.get_running_loop().call_later(LINGER_S, self._pulse.ring)

    def recorded(self, *, freed: bool) -> None:
        """Outcomes are on record: lanes may have moved on, and what held no slot any more is forgotten."""
        metrics.in_flight.set(len(self._tasks))
        if freed or self._full or (self._pulse.awaited and not self._tasks):
            self._pulse.ring()

    def look_for_due(self) -> None:
        """The next pass asks for retries that are due by now."""
        self._look_for_due_at = 0.0

    def retry_at(self, delay_s: float) -> None:
        """A retry was put off: wake for it in time."""
        due_at = self._clock.monotonic() + delay_s
        if due_at < self._look_for_due_at:
            # The pass that waits just now waits for something later.
            self._look_for_due_at = due_at
            self._pulse.ring()

    async def lend_between(self) -> Straight | None:
        """As `lend`, when the claim under way has returned: who is in its way waits `LENDING_S` at most, and not at all
        where others follow it.
        """
        if self._asked and not self._rushing:
            with suppress(TimeoutError):
                async with asyncio.timeout(LENDING_S):
                    await self._returned.wait()
        return self.lend(STRAIGHT_DELIVERIES)

    def lend(self, most: int) -> Straight | None:
        """Room for attempts that a transaction of somebody else's claims: `returned` or `doubt` ends it.

        None while this loop claims, which would be in its way, and while it looks for what a claim may have taken; and
        where the last slots are left, which are kept: others are to hear of what is published then.
        """
        if self._stopping or self._asked or self._lent or self._doubt_ends_s is not None:
            return None
        unrecorded = self._unrecorded()
        free = self._max_in_flight - len(self._tasks) - len(unrecorded)
        self._lent = max(0, min(most, free - self._max_in_flight // KEPT_ONE_IN))
        return Straight(self._lent, unrecorded) if self._lent else None

    def returned(self, batch: ClaimedBatch, *, left: bool) -> None:
        """What was lent has claimed this batch, whose attempts begin; `left`: there is more to claim."""
        self._lent = 0
        if self._stopping and batch.deliveries:
            self._releasing = asyncio.get_running_loop().create_task(self._release(batch))
            return
        self._begin(batch)
        # Who waits for an idle pass had none while this was lent.
        if left or self._full or self._doubt_ends_s is not None or (self._pulse.awaited and not self._tasks):
            self._pulse.ring()

    def doubt(self) -> None:
        """A claim was not answered: it may have come about, and then nobody but the database knows what it took."""
        self._lent = 0
        self._doubt_ends_s = self._clock.monotonic() + self._doubt_s
        self._pulse.ring()

    async def run(self) -> None:
        """Claims until it is told to stop."""
        while not self._stopping:
            self._pulse.quiet()
            try:
                pause_s = await self.once()
            except StoreUnavailable:
                # Asked to stop meanwhile: what such a claim took, if it took anything, is reclaimed as interrupted.
                return
            except Exception:
                # One row must not keep all others from being sent. Where it is not found, whoever runs this goes on.
                if not await patiently("claim", self._burial.of_unclaimable):
                    raise
                continue
            if pause_s is not None:
                await self._pulse.wait(pause_s)

    async def once(self) -> float | None:
        """One pass; answers how long to wait for the next one at most, in seconds (null: not at all)."""
        await self._look_for_unanswered()
        unrecorded = self._unrecorded()
        free = self._max_in_flight - len(self._tasks) - len(unrecorded) - self._lent
        self._room, self._full = 0, free <= 0
        if self._full:
            self._starved = True
            return self._poll_interval_s
        # Before the first wait: nothing of it is lent meanwhile.
        self._asked = limit = min(free, self._batch)
        self._returned.clear()
        try:
            made = await self._make_due()
            batch = await patiently("claim", lambda: self._claim(limit, unrecorded), enough=lambda: self._stopping)
        finally:
            self._asked = 0
            self._returned.set()
        self._rushing = batch.limited
        too_late = batch.limited and not self._lively
        self._starved = batch.starved
        if self._stopping:
            if batch.deliveries:
                await self._release(batch)
            return None
        self._begin(batch)
        if batch.homeless:
            await patiently("claim", lambda: self._burial.of_homeless(batch.homeless))
        self._batch = min(BATCH, 2 * self._batch) if too_late else max(LEAST_BATCH, self._lively // 2)
        if batch.limited:
            return None if batch.deliveries else LOOK_ON_S
        if batch.contended:
            return random.uniform(0.001, 0.005)  # noqa: S311
        if not batch.deliveries and not made and not self._tasks and not self._lent:
            await self._pulse.found_nothing()
        return min(self._poll_interval_s, max(0.001, self._look_for_due_at - self._clock.monotonic()))

    async def _claim(self, limit: int, unrecorded: Sequence[tuple[int, int]]) -> ClaimedBatch:
        try:
            return await self._store.claim(limit, unrecorded)
        except StoreUnavailable:
            # Or it still runs there.
            self._doubt_ends_s = self._clock.monotonic() + self._doubt_s
            raise

    async def _look_for_unanswered(self) -> None:
        now = self._clock.monotonic()
        if self._doubt_ends_s is None or now < self._look_again_s or self._lent:
            # What is being claimed beside a publisher's events will be known when it has returned.
            return
        await patiently("claim", self._take_back_unanswered)
        self._look_again_s = now + self._poll_interval_s
        if now >= self._doubt_ends_s:
            self._doubt_ends_s = None

    async def _make_due(self) -> int:
        now = self._clock.monotonic()
        if now < self._look_for_due_at:
            return 0
        made, next_s = await patiently("claim", lambda: self._store.make_due(DUE_BATCH), enough=lambda: self._stopping)
        # Another process may put off a retry that comes earlier than the one seen here.
        self._look_for_due_at = now + min(
            self._poll_interval_s, 0 if made == DUE_BATCH else next_s or self._poll_interval_s
        )
        return made

    def _begin(self, batch: ClaimedBatch) -> None:
        loop = asyncio.get_running_loop()
        for claimed in batch.deliveries:
            task = loop.create_task(self._attempt(claimed))
            self._tasks[task] = claimed
            task.add_done_callback(self._end)
        metrics.in_flight.set(len(self._tasks))
        self._tell_lasting()
        self._room_enough = max(1, self._lively // 4)

    @property
    def _lively(self) -> int:
        """Attempts in flight that may end any moment."""
        return len(self._tasks) - len(self._lasting)

    def _tell_lasting(self) -> None:
        now = self._clock.monotonic()
        if now >= self._looked_at + LASTING_S:
            self._lasting, self._seen, self._looked_at = self._seen, set(self._tasks), now

    async def _release(self, batch: ClaimedBatch) -> None:
        await patiently("release", lambda: self._store.release(batch.deliveries))

    async def _attempt(self, claimed: Claimed) -> None:
        self._ended(await self._attempts.make(claimed))

    def _end(self, task: "asyncio.Task[None]") -> None:
        claimed = self._tasks.pop(task)
        self._lasting.discard(task)
        self._seen.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            delivery_id = public_id(Kind.DELIVERY, claimed.delivery_row)
            log.error("delivery.failed_inside", delivery_id=delivery_id, exc_info=fault)
        if fault is not None or task.cancelled():
            # Its claim says that it began, so it must end on record.
            self._ended(self._attempts.interrupted(claimed))

    def stop(self) -> None:
        """Takes nothing more: `run` ends, and a claim that is under way is given back, or given up."""
        self._stopping = True
        self._pulse.ring()

    def interrupt(self) -> None:
        """Ends the attempts in flight as interrupted."""
        for task in list(self._tasks):
            task.cancel()

    async def finish(self, grace_s: float) -> None:
        """After `run` has ended: attempts in flight may end within `grace_s`, the rest is interrupted."""
        if self._releasing is not None:
            # As the last outcomes, also where there is no grace: nobody else would know that it was not begun.
            await asyncio.wait({self._releasing}, timeout=max(RELEASE_S, grace_s))
            self._releasing.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        if self._tasks:
            self.interrupt()
            await asyncio.wait(self._tasks)

"""Running: the parts of a dispatcher, put together, started, and stopped so that nothing is left behind."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from dispatcher.engine.attempt import Attempts, Ended
from dispatcher.engine.burial import Burial
from dispatcher.engine.claiming import Claiming
from dispatcher.engine.duties import Duties
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.fanning import Fanning
from dispatcher.engine.ingest import Ingest
from dispatcher.engine.lease import Lease
from dispatcher.engine.pulse import Pulse
from dispatcher.engine.recorder import Recorder
from dispatcher.engine.straight import StraightWay
from dispatcher.engine.vitals import Condition, Vitals
from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger
from dispatcher.store.deployment import Deployment
from dispatcher.store.hot import HotStore, Recorded, statement_limit_s
from dispatcher.transport.client import HttpClient

log = logger("dispatcher.engine")

#: How long the database has to take the last outcomes when the grace is over, and the lease back, in seconds each.
LAST_S = 1.5


class Running:
    """The parts of a dispatcher while it runs: they meet the world in the deployment's clock, `store`, `client` and
    `book`, and in what else the duties touch."""

    def __init__(
        self,
        deployment: Deployment,
        store: HotStore,
        client: HttpClient,
        book: EndpointBook,
        numbered: Callable[[Collection[int]], None],
        *,
        duties: type[Duties] = Duties,
        enrolled: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        settings = deployment.settings
        self._deployment = deployment
        self._grace_s = settings.shutdown_grace.total_seconds()
        self._store = store
        self._client = client
        self._lease = Lease(self._store, deployment.clock, settings.lease.total_seconds(), enrolled)
        self._queued, self._claimable = Pulse(), Pulse()
        attempts = Attempts(deployment, self._client, book, covers=self._lease.covers)
        burial = Burial(deployment.database, self._claimable.ring)
        self.duties = duties(deployment, self._store, book, burial, self._claimable.ring, self._held)
        self._recorder = Recorder(self._store, recorded=self._on_recorded, disable=self.duties.expiry.disable)
        poll_interval_s = settings.poll_interval.total_seconds()
        self._claiming = Claiming(
            self._store,
            deployment.clock,
            attempts,
            self._claimable,
            ended=self._on_ended,
            unrecorded=lambda: self._recorder.making_room,
            take_back_unanswered=self.duties.reclaiming.take_back_unanswered,
            doubt_s=statement_limit_s(settings),
            burial=burial,
            max_in_flight=settings.max_in_flight,
            poll_interval_s=poll_interval_s,
        )
        self._fanning = Fanning(
            self._store,
            deployment.database,
            self._queued,
            self._claimable,
            poll_interval_s,
            claiming=self._claiming,
            numbered=numbered,
        )
        self.ingest = Ingest(self._store, StraightWay(self._fanning, self._claiming, self._queued))
        self._vitals = Vitals(deployment.clock, settings.lease.total_seconds())
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: By the monotonic clock; null until it is asked to stop.
        self._stop_by: float | None = None

    async def start(self) -> None:
        await self._lease.take()
        await self.duties.retaining.make_partitions()
        # What one process left in flight; of more the duty takes care, while everything else goes on.
        await self.duties.reclaiming.reclaim(steps=2)
        loop = asyncio.get_running_loop()
        for name, work in (
            ("fan out", self._fanning.run),
            ("claim", self._claiming.run),
            ("record", self._recorder.run),
            ("lease", self._lease.keep),
            ("watch", lambda: self._store.watch(self._queued.ring, self.wake)),
        ):
            self._tasks[name] = loop.create_task(self._vitals.keep(name, work), name=f"dispatcher {name}")
        await self.duties.start()

    def condition(self) -> Condition:
        condition = self._vitals.condition()
        ended = [task.get_name() for task in self._tasks.values() if task.done()]
        return replace(condition, hung=(*condition.hung, *(f"{name} has ended" for name in ended)))

    def _held(self) -> set[tuple[int, int]]:
        return self._claiming.held | set(self._recorder.unrecorded)

    def wake(self) -> None:
        self._queued.ring()
        self._claimable.ring()

    async def until_idle(self) -> None:
        while True:
            await self._queued.next_idle_pass()
            batches = self._recorder.batches
            self._claiming.look_for_due()
            await self._claimable.next_idle_pass()
            # What was recorded during the idle pass may have made room or freed a lane that the pass did not see.
            if self._recorder.idle and self._recorder.batches == batches and not self._claiming.in_flight:
                return

    async def run_until(self, stop: asyncio.Event) -> None:
        waiting = asyncio.get_running_loop().create_task(stop.wait())
        done, _ = await asyncio.wait({waiting, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if stop.is_set():
            self.ask_to_stop()
        for task in done - {waiting}:
            task.result()
            raise RuntimeError(f"{task.get_name()} ended")

    def ask_to_stop(self) -> None:
        """Claims nothing more from now on; the grace begins, once."""
        if self._stop_by is None:
            self._stop_by = self._deployment.clock.monotonic() + self._grace_s
            log.info("dispatcher.stopping", in_flight=self._claiming.in_flight, grace_s=self._grace_s)
            self._claiming.stop()

    def hurry(self) -> None:
        if self._stop_by is not None:
            self._stop_by = self._deployment.clock.monotonic()
            self._claiming.interrupt()

    async def stop(self) -> None:
        self.ask_to_stop()
        # All at once: each may have to give a connection up that does not answer, which takes its time.
        others = asyncio.gather(self.duties.stop(), self._cancel("watch"), self._end_fan_out())
        await self._join("claim", self._left_s())
        # What it claims from now on, it gives back.
        await self.ingest.finish(max(LAST_S, self._left_s()))
        await self._fanning.straight_returned(LAST_S)
        await self._claiming.finish(self._left_s())
        self._recorder.close()
        # The lease is kept until the last outcome is on record.
        recorded = await self._join("record", max(LAST_S, self._left_s()))
        await asyncio.gather(others, self._cancel("lease"))
        try:
            if recorded:
                async with asyncio.timeout(LAST_S):
                    await self._store.retire()
        except (StoreUnavailable, TimeoutError) as error:
            # Then the lease ends by itself, and what was not recorded is reclaimed by another.
            log.warning("store.unavailable", stage="stop", error=str(error))
        finally:
            await self._store.close()
            await self._client.close()

    async def _end_fan_out(self) -> None:
        await self._fanning.straight_returned(LAST_S)
        await self._cancel("fan out")

    def _left_s(self) -> float:
        by = self._deployment.clock.monotonic() if self._stop_by is None else self._stop_by
        return max(0.0, by - self._deployment.clock.monotonic())

    async def _join(self, name: str, seconds: float) -> bool:
        """Lets a part end by itself, for so long; false when it did not."""
        task = self._tasks.pop(name, None)
        if task is None:
            return True
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return True
        log.warning("dispatcher.stopped_unrecorded", part=name)
        task.cancel()
        await asyncio.wait({task})
        return False

    async def _cancel(self, *names: str) -> None:
        tasks = [task for name in names if (task := self._tasks.pop(name, None)) is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _on_ended(self, ended: Ended) -> None:
        frees_room = self._recorder.put(ended)
        if frees_room:
            self._claiming.room_made(1)
        elif ended.finished.delay_s is not None:
            self._claiming.retry_at(ended.finished.delay_s)

    def _on_recorded(self, recorded: Recorded, room: int) -> None:
        if recorded.held:
            self._claiming.look_for_due()
        self._claiming.recorded(freed=recorded.freed)
        self._claiming.room_made(room)

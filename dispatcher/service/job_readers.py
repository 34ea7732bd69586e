"""Who waits for a job's events in this process: woken by what fan-outs numbered, never by asking one by one.

A fan-out says which jobs it numbered: in this process by a call, in another on PostgreSQL by a notification, which is
sent only while some process has readers. Every 5 s, as the floor under these hints, one statement asks about all
jobs that are waited for.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dispatcher import metrics
from dispatcher.errors import StoreUnavailable, TooManyReaders
from dispatcher.logs import logger
from dispatcher.store.deployment import Deployment
from dispatcher.store.job_events import announce_readers, listen_for_numbered, moved_jobs

#: How often all are asked about at most without a hint, in seconds.
FLOOR_S = 5.0
#: When one for whom there is no place may try again, in seconds.
RETRY_AFTER_S = 5.0
#: How long the readers wait after an outage or a fault before they look again.
RETRY_S = 1.0
#: Hints that come so close together are answered by one statement.
COALESCE_S = 0.02
#: For how long fan-outs elsewhere are told to notify, and how often that is told again.
ANNOUNCED_S = 30.0
ANNOUNCE_EVERY_S = 10.0
#: How long the last reader's connection to the notifications is kept for the next one.
LINGER_S = 30.0
#: How long a job is watched on for the next request of a reader that polls, which then need not read it again.
REMEMBER_S = 5.0
#: How often a reader that waits is looked at, whether it is still there.
PRESENCE_S = 15.0
#: Long waits end up to this early, those of all readers on the same tick: a process that idles is woken, and finds its
#: caches cold, twice a second instead of once for each of a thousand readers.
TICK_S = 0.5
#: Pages read at once: a thousand readers who wake together must leave the other requests their connections.
READS_AT_ONCE = 4

log = logger("dispatcher.readers")
KeyT = TypeVar("KeyT")


class Watch:
    """One reader's eye on one job."""

    def __init__(self, readers: "JobReaders", tenant: str, job_id: str, sequence: int) -> None:
        self._readers = readers
        self.tenant = tenant
        self.job_id = job_id
        #: Up to here the reader knows the job.
        self.sequence = sequence
        #: Null until the job has a row: then every hint may be about it.
        self.job_row: int | None = None
        self.moved = asyncio.Event()
        #: Watched since an earlier reader saw that nothing lies behind: there is nothing to read yet.
        self.quiet = False

    def saw(self, job_row: int, last_sequence: int) -> None:
        """What the reader has read: it waits for what comes behind that."""
        self.sequence = max(self.sequence, last_sequence)
        if self.job_row is None:
            self._readers.named(self, job_row)

    async def has_moved(self, deadline: float, gone: Callable[[], bool]) -> bool:
        """Whether the job may have moved, as soon as it may; false at `deadline` (of the loop's time), when this
        process ends, or when the reader is `gone`.
        """
        loop = asyncio.get_running_loop()
        deadline = on_tick(deadline, loop.time())
        while not self._readers.closing and not gone():
            if self.moved.is_set():
                self.moved.clear()
                return True
            now = loop.time()
            if now >= deadline:
                return False
            self._readers.waiting += 1
            try:
                async with asyncio.timeout_at(min(deadline, on_tick(now + PRESENCE_S, now))):
                    await self.moved.wait()
            except TimeoutError:
                continue
            finally:
                self._readers.waiting -= 1
        return False


class JobReaders:
    """The readers of one process; `numbered` is how a dispatcher in it wakes them."""

    def __init__(self, deployment: Deployment) -> None:
        self._database = deployment.database
        self._most = deployment.settings.max_readers
        self._watches: dict[tuple[str, str], set[Watch]] = {}
        self._named: dict[int, set[Watch]] = {}
        self._nameless: set[Watch] = set()
        self._remembered: dict[tuple[str, str], tuple[Watch, asyncio.TimerHandle]] = {}
        #: How many long-polls and streams there are.
        self.count = 0
        #: How many streams are about to be.
        self._coming = 0
        self._rung = asyncio.Event()
        self._all = False
        self._running: asyncio.Task[None] | None = None
        self.reading = asyncio.Semaphore(READS_AT_ONCE)
        #: How many have read all there is and wait for more.
        self.waiting = 0
        #: The process ends: nobody waits any more.
        self.closing = False

    @property
    def full(self) -> bool:
        """Whether this process has as many readers as it takes."""
        return self.count + self._coming >= self._most

    def admit(self) -> None:
        """Raises `TooManyReaders` when this process has as many as it takes."""
        if self.full:
            raise TooManyReaders(
                f"{self._most} readers wait for jobs' events in this process already; try again later, or without wait",
                RETRY_AFTER_S,
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a reader's place until it watches. Raises `TooManyReaders`."""
        self.admit()
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    @contextmanager
    def watch(self, tenant: str, job_id: str, after: int) -> Iterator[Watch]:
        """Watches a job meanwhile. Whatever is numbered from now on moves the watch, so read after it was begun."""
        watch = Watch(self, tenant, job_id, after)
        self._watches.setdefault((tenant, job_id), set()).add(watch)
        self._nameless.add(watch)
        self._recall(watch)
        self.count += 1
        metrics.job_readers.inc()
        self._run_while_watched()
        try:
            yield watch
        finally:
            self.count -= 1
            metrics.job_readers.dec()
            self._remember(watch)

    def named(self, watch: Watch, job_row: int) -> None:
        """The job of a watch has this row."""
        watch.job_row = job_row
        self._nameless.discard(watch)
        self._named.setdefault(job_row, set()).add(watch)

    def numbered(self, jobs: Collection[int]) -> None:
        """Events of the jobs with these rows were numbered; of any job, where there are none."""
        for row in jobs:
            for watch in self._named.get(row, ()):
                watch.moved.set()
        if self._nameless or (self._watches and not jobs):
            self._all = self._all or not jobs
            self._rung.set()

    async def close(self) -> None:
        """Lets everybody who waits go."""
        self.closing = True
        for key, (_, timer) in list(self._remembered.items()):
            timer.cancel()
            self._forget_remembered(key)
        for watches in self._watches.values():
            for watch in watches:
                watch.moved.set()
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    def _run_while_watched(self) -> None:
        if self._running is None and not self.closing:
            self._running = asyncio.get_running_loop().create_task(self._run(), name="job readers")
        elif self.count == 1:
            self._rung.set()

    def _remember(self, watch: Watch) -> None:
        """Watches on for a while, if the reader saw the job up to its end."""
        key = (watch.tenant, watch.job_id)
        if watch.job_row is None or watch.moved.is_set() or self.closing or len(self._remembered) >= self._most:
            self._forget(watch)
            return
        earlier = self._remembered.pop(key, None)
        if earlier is not None:
            earlier[1].cancel()
            self._forget(earlier[0])
        timer = asyncio.get_running_loop().call_later(REMEMBER_S, self._forget_remembered, key)
        self._remembered[key] = watch, timer

    def _recall(self, watch: Watch) -> None:
        """What an earlier reader saw is true for this one too, as long as nothing has moved since."""
        remembered = self._remembered.pop((watch.tenant, watch.job_id), None)
        if remembered is None:
            return
        earlier, timer = remembered
        timer.cancel()
        if earlier.job_row is not None and not earlier.moved.is_set() and watch.sequence >= earlier.sequence:
            watch.quiet = True
            self.named(watch, earlier.job_row)
        self._forget(earlier)

    def _forget_remembered(self, key: tuple[str, str]) -> None:
        watch, _ = self._remembered.pop(key)
        self._forget(watch)

    def _forget(self, watch: Watch) -> None:
        self._nameless.discard(watch)
        _remove(self._watches, (watch.tenant, watch.job_id), watch)
        if watch.job_row is not None:
            _remove(self._named, watch.job_row, watch)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        listening = loop.create_task(listen_for_numbered(self._database, self.numbered), name="job readers listen")
        announce_at = loop.time()
        try:
            while True:
                try:
                    if self._watches and loop.time() >= announce_at:
                        await self._announce()
                        announce_at = loop.time() + ANNOUNCE_EVERY_S
                    if not await self._next_look():
                        return
                    await self._look()
                except StoreUnavailable as error:
                    log.warning("store.unavailable", stage="readers", error=str(error))
                    await asyncio.sleep(RETRY_S)
                except Exception:
                    # A fault of ours must not leave those who wait without the floor.
                    log.exception("readers.failed")
                    await asyncio.sleep(RETRY_S)
        finally:
            if self._running is asyncio.current_task():
                self._running = None
            listening.cancel()
            await asyncio.wait([listening])

    async def _next_look(self) -> bool:
        """Waits for a hint or the floor; false when nobody has been here for a while."""
        watched = bool(self._watches)
        try:
            async with asyncio.timeout(FLOOR_S if watched else LINGER_S):
                await self._rung.wait()
        except TimeoutError:
            if not watched and not self._watches:
                return False
            self._all = True
        await asyncio.sleep(COALESCE_S)
        return True

    async def _look(self) -> None:
        self._rung.clear()
        everybody, self._all = self._all, False
        asked: dict[tuple[str, str], int] = {}
        for watch in (one for watches in self._watches.values() for one in watches) if everybody else self._nameless:
            key = (watch.tenant, watch.job_id)
            asked[key] = min(watch.sequence, asked.get(key, watch.sequence))
        if not asked:
            return
        async with self._database.read() as connection:
            moved = await moved_jobs(connection, self._database.tables, [(*key, low) for key, low in asked.items()])
        for key in moved:
            for watch in self._watches.get(key, ()):
                watch.moved.set()

    async def _announce(self) -> None:
        if self._database.dialect != "sqlite":
            async with self._database.begin() as connection:
                await announce_readers(connection, self._database, ANNOUNCED_S)
            # What was numbered elsewhere before it was told.
            self._all = True
            self._rung.set()


def on_tick(at: float, now: float) -> float:
    """When a wait until `at` ends, in seconds of the loop's clock: on the tick before it, unless it is short."""
    return at - at % TICK_S if at - now > 10 * TICK_S else at


def _remove(index: dict[KeyT, set[Watch]], key: KeyT, watch: Watch) -> None:
    index[key].discard(watch)
    if not index[key]:
        del index[key]

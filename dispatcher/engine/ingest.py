"""Ingest: the one committer of a process. Whoever publishes while it commits shares its next transaction."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from dispatcher.errors import StoreUnavailable
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Created, Group, Ingested, Straight

#: The most events in one transaction, and bytes of their data; a larger group has one of its own.
BATCH = 1000
BATCH_BYTES = 4 * 1024 * 1024


class Way(Protocol):
    """What becomes of events once they are committed."""

    async def lend(self, events: int) -> Straight | None:
        """What the transaction that stores so many events may claim; `committed` or `failed` follows."""

    def committed(self, done: Ingested) -> None:
        """They are in the outbox."""

    def failed(self) -> None:
        """The transaction was not answered: it may have come about, or still come about."""


class ByTheQueue:
    """Where nobody in this process dispatches, or somebody who looks at the queue when told."""

    def __init__(self, published: Callable[[], None]) -> None:
        self._published = published

    async def lend(self, events: int) -> None:
        """Nothing."""

    def committed(self, done: Ingested) -> None:
        """Tells who dispatches here."""
        self._published()

    def failed(self) -> None:
        """Nobody claimed anything."""


class Ingest:
    """Stores what is published in this process."""

    def __init__(self, store: HotStore, way: Way) -> None:
        self._store = store
        self._way = way
        self._waiting: deque[tuple[Group, asyncio.Future[Created]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def publish(self, events: Group) -> Created:
        """Stores all of them or none; answers when each was created, by tenant and id, once that is committed.

        Who gives up before its transaction has begun publishes nothing. Raises `IdempotencyConflict`, `InvalidField`,
        and `StoreUnavailable`: then nobody knows, and the same ids or idempotency keys may be published again.
        """
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Created] = loop.create_future()
        self._waiting.append((events, answered))
        if self._work is None:
            self._work = loop.create_task(self._commit_waiting())
        return await answered

    async def finish(self, seconds: float) -> None:
        """Waits for what is being committed, for so long; then its publishers are told that nobody knows."""
        work = self._work
        if work is None:
            return
        await asyncio.wait({work}, timeout=seconds)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})

    async def _commit_waiting(self) -> None:
        try:
            # What came while the last transaction was under way shares the next one.
            while batch := self._next_batch():
                await self._commit(batch)
        finally:
            self._work = None
            while self._waiting:
                _, answered = self._waiting.popleft()
                _tell(answered, StoreUnavailable("this process is ending; publish it again"))

    def _next_batch(self) -> list[tuple[Group, asyncio.Future[Created]]]:
        batch: list[tuple[Group, asyncio.Future[Created]]] = []
        count = size = 0
        while self._waiting:
            events, answered = self._waiting[0]
            if not answered.done():
                count += len(events)
                size += sum(len(event.data) for event in events)
                if batch and (count > BATCH or size > BATCH_BYTES):
                    break
                batch.append((events, answered))
            self._waiting.popleft()
        return batch

    async def _commit(self, batch: Sequence[tuple[Group, asyncio.Future[Created]]]) -> None:
        groups = [events for events, _ in batch]
        straight: Straight | None = None
        try:
            straight = await self._way.lend(sum(map(len, groups)))
            done = await self._store.ingest(groups, straight)
        except Exception as error:  # noqa: BLE001 - told to those who publish, each of whom answers for its own
            if straight is not None:
                self._way.failed()
            for _, answered in batch:
                _tell(answered, error)
            return
        except asyncio.CancelledError:
            unknown = StoreUnavailable("this process is ending, and nobody knows whether it was published")
            if straight is not None:
                self._way.failed()
            for _, answered in batch:
                _tell(answered, unknown)
            raise
        # Before the answers: what was claimed is on its way while they are written.
        try:
            self._way.committed(done)
        finally:
            for (_, answered), answer in zip(batch, done.answers, strict=True):
                _tell(answered, answer)


def _tell(answered: "asyncio.Future[Created]", answer: Created | Exception) -> None:
    if answered.done():
        # It gave up.
        return
    if isinstance(answer, Exception):
        answered.set_exception(answer)
    else:
        answered.set_result(answer)

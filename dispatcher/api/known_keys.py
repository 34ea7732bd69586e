"""Tenants' keys as this process knows them: read often enough that a revoked one is refused, used ones noted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger
from dispatcher.service import keys
from dispatcher.service.keys import Caller
from dispatcher.service.remembered import Remembered, Said
from dispatcher.store.deployment import Deployment

_log = logger(__name__)
_MOST = 4096
#: How many keys are looked up at once at most, so that connections are left for all else.
AT_ONCE = 8
#: And how many of those from where too many wrong ones came, beside them.
IN_LINE = 2
#: How long one waits for a place at most, in seconds.
TURN_S = 5.0


class KnownKeys:
    """Turns a key's digest into the caller that it stands for."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._remembered: Remembered[Caller] = Remembered(deployment.clock, self._look_up, most=_MOST)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._line = asyncio.Semaphore(IN_LINE)
        self._used: set[int] = set()
        self._noting: asyncio.Task[None] | None = None

    def at_hand(self, digest: str) -> Caller | None:
        """The caller, where that was read less than `keys.BELIEVED_S` ago."""
        return self._remembered.at_hand(digest)

    async def ask(self, digest: str, *, slowed: Callable[[], bool], gone: Callable[[], bool]) -> Caller | None:
        """The caller as the database knows it; null: there is no such key, or it ended, or who asked is `gone`.

        Those `slowed` wait for each other, so that however many they are, they keep few connections from the rest.
        Raises `StoreUnavailable`, also where it does not come to the look in time.
        """
        async with _turn(self._places):
            # Only now: who sends many at once is slowed as soon as the first of them were wrong.
            if not slowed():
                return self.at_hand(digest) or await self._remembered.ask(digest)
        async with _turn(self._line):
            if gone():
                # Else whoever sends one and leaves would keep the line longer than connections are allowed.
                return None
            return self.at_hand(digest) or await self._remembered.ask(digest)

    async def close(self) -> None:
        """Returns when what is being read and written is done."""
        await self._remembered.close()
        if self._noting is not None:
            await asyncio.wait({self._noting})

    async def _look_up(self, digest: str) -> Said[Caller] | None:
        found = await keys.look_up(self._deployment, digest)
        if found is None:
            return None
        if found.use_is_news:
            self._note(found.row_id)
        for_s = keys.BELIEVED_S if found.expires_in_s is None else min(keys.BELIEVED_S, found.expires_in_s)
        return Said(found.caller, for_s)

    def _note(self, row: int) -> None:
        self._used.add(row)
        if self._noting is None:
            self._noting = asyncio.get_running_loop().create_task(self._note_uses())

    async def _note_uses(self) -> None:
        try:
            while self._used:
                used, self._used = self._used, set()
                await keys.note_uses(self._deployment, used)
        except StoreUnavailable as error:
            # It is news the next time too.
            _log.debug("store.unavailable", stage="last use", error=str(error))
        finally:
            self._noting = None


@asynccontextmanager
async def _turn(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Has one of the places meanwhile. Raises `StoreUnavailable` when none comes free: the database may be away."""
    try:
        async with asyncio.timeout(TURN_S):
            await places.acquire()
    except TimeoutError:
        raise StoreUnavailable("the database did not answer in time which keys there are; try again") from None
    try:
        yield
    finally:
        places.release()

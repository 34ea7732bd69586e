"""What wakes a loop, and how anybody can tell that the loops have nothing left to do."""

import asyncio


class Pulse:
    """A loop's alarm: rung by whoever made work for it, or by time."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        #: Passes that were begun after the last ring and found nothing.
        self.idle_passes = 0
        self._passed = asyncio.Condition()
        self._waiting = 0

    def ring(self) -> None:
        """There may be work."""
        self._rung.set()

    def quiet(self) -> None:
        """A pass begins: what rang before it is heard."""
        self._rung.clear()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a pass that finds nothing."""
        return self._waiting > 0

    @property
    def rung(self) -> bool:
        """Whether somebody rang since the pass began."""
        return self._rung.is_set()

    async def wait(self, seconds: float) -> None:
        """Waits for a ring, `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return

    async def found_nothing(self) -> None:
        """A whole pass found nothing."""
        self.idle_passes += 1
        async with self._passed:
            self._passed.notify_all()

    async def next_idle_pass(self) -> None:
        """Rings, and waits for a pass that was begun after that and found nothing."""
        goal = self.idle_passes + 2
        self._waiting += 1
        try:
            while self.idle_passes < goal:
                self._rung.set()
                async with self._passed:
                    await self._passed.wait()
        finally:
            self._waiting -= 1

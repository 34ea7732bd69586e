"""Faults of dispatcher processes: killed at random moments and at named steps, told to end, paused."""

from itertools import cycle
from random import Random

from tests.chaos.faults import POSTGRESQL, Fault
from tests.chaos.scene import Scene

#: Where a dispatcher can be killed; `tests.chaos.doomed` says how.
STEPS = (
    "after-claim",
    "before-post",
    "after-post",
    "within-record",
    "after-record",
    "within-fan-out",
    "after-fan-out",
    "within-redelivery",
    "after-redelivery",
)


class Killed(Fault):
    """kill -9 at a random moment, and another one started at once."""

    name = "kill"

    async def strike(self, at: Scene, random: Random) -> None:
        await at.kill(random.choice(at.workers))
        await at.start()


class KilledBesideAnother(Killed):
    """The same while a second dispatcher works."""

    name = "kill-one-of-two"
    dialects = POSTGRESQL
    workers = 2


class KilledRestarted(Killed):
    """The same, and nothing more happens until the new one has taken over all that the old one had."""

    name = "kill-restarted"

    async def strike(self, at: Scene, random: Random) -> None:
        worker = random.choice(at.workers)
        await worker.up()
        await at.kill(worker)
        await at.start()
        await at.taken_over(worker)


class KilledUnreplaced(Killed):
    """The same beside another, and it is not replaced until that one has taken over all that it had."""

    name = "kill-unreplaced"
    dialects = POSTGRESQL
    workers = 2

    async def strike(self, at: Scene, random: Random) -> None:
        for worker in at.workers:
            await worker.up()
        worker = random.choice(at.workers)
        await at.kill(worker)
        await at.taken_over(worker)
        await at.start()


class KilledAt(Fault):
    """kill -9 by itself when it next passes a step, and another one started at once."""

    entry = "tests.chaos.doomed"

    def __init__(self, step: str) -> None:
        self.name = f"kill-{step}"
        self.environment = {"CHAOS_DOOM": step}

    async def strike(self, at: Scene, random: Random) -> None:
        worker = random.choice(at.workers)
        await worker.up()
        worker.arm()
        await at.dies(worker)
        await at.start()


class KilledAtEach(Fault):
    """The same at one step after the other."""

    name = "kill-at-each-step"
    entry = "tests.chaos.doomed"

    def __init__(self, *steps: str) -> None:
        self._steps = cycle(steps)
        self.environment = {"CHAOS_DOOM": next(self._steps)}

    async def strike(self, at: Scene, random: Random) -> None:
        (worker,) = at.workers
        await worker.up()
        worker.arm()
        await at.dies(worker)
        await at.start(CHAOS_DOOM=next(self._steps))


class KilledInReclaim(Fault):
    """kill -9 at a random moment, and again when the next one has read what that left."""

    name = "kill-within-reclaim"
    entry = "tests.chaos.doomed"
    environment = {"CHAOS_DOOM": "within-reclaim"}  # noqa: RUF012 - never changed

    async def strike(self, at: Scene, random: Random) -> None:
        if await at.kill(random.choice(at.workers)):
            await at.dies(await at.start(CHAOS_DOOM_AT="1"))
        await at.start()


class Terminated(Fault):
    """SIGTERM under load, and another one started at once; nothing is interrupted by that."""

    name = "sigterm"

    async def strike(self, at: Scene, random: Random) -> None:
        worker = random.choice(at.workers)
        await worker.up()
        assert await at.terminate(worker) == 0
        at.struck(interrupts=False)
        await at.start()


class Paused(Fault):
    """SIGSTOP until another dispatcher has taken over all that was in flight, then SIGCONT."""

    name = "pause"
    dialects = POSTGRESQL
    workers = 2

    async def strike(self, at: Scene, random: Random) -> None:
        for worker in at.workers:
            await worker.up()
        worker = random.choice(at.workers)
        await at.pause(worker)
        await at.taken_over(worker)
        worker.resume()


FAULTS: tuple[Fault, ...] = (
    Killed(),
    KilledBesideAnother(),
    KilledRestarted(),
    KilledUnreplaced(),
    *map(KilledAt, STEPS),
    KilledInReclaim(),
    Terminated(),
    Paused(),
)

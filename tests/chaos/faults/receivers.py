"""Faults of receivers: for a while every request is met with silence, resets, lies or errors."""

import asyncio
from random import Random

from tests.bad_receiver import Misbehaviour
from tests.chaos.faults import Fault
from tests.chaos.scene import FAILURES, Scene
from tests.chaos.witness import Answer, Arrival

#: Requests that are met with it, more than it takes for endpoints to be left alone for a while; or as many as come in
#: so many seconds, since ever fewer come to an endpoint that is left alone.
LASTS = 30
LASTS_S = 20.0


class ReceiverFails(Fault):
    """Both endpoints answer so, and nothing else; then it lasts until each of them has accepted something again."""

    def __init__(self, name: str, *answers: Answer) -> None:
        self.name = name
        self._answers = answers
        if Misbehaviour.HANG in answers:
            self.timeout_s = 2.0

    async def strike(self, at: Scene, random: Random) -> None:
        witness, before = at.witness, at.witness.answer
        left = LASTS
        over = asyncio.Event()
        well = set(at.paths.values())

        async def fail(arrival: Arrival) -> Answer:
            nonlocal left
            left -= 1
            if left <= 0:
                over.set()
            return random.choice(self._answers)

        async def recover(arrival: Arrival) -> Answer:
            answer = await before(arrival)
            if answer == 200:
                well.discard(arrival.path)
            return answer

        witness.answer = fail
        try:
            async with asyncio.timeout(LASTS_S):
                await over.wait()
        except TimeoutError:
            assert left < LASTS, "not one request came"
        finally:
            witness.answer = recover
        at.struck(interrupts=False)
        await witness.until(lambda: not well, "each endpoint accepts something again")
        witness.answer = before


FAULTS: tuple[Fault, ...] = (
    ReceiverFails("receiver-errors", *FAILURES),
    ReceiverFails("receiver-hangs", Misbehaviour.HANG),
)

"""Challenging: endpoints that have to prove that they want what is sent to them are asked, beside the duties."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from dispatcher.engine.challenge import challenge_all
from dispatcher.states import Reason
from dispatcher.store import verification
from dispatcher.store.deployment import Deployment

#: So many challenges wait for their answer at once: receivers that take their time hold no more connections than that.
CHALLENGED_AT_ONCE = 200


class Challenging:
    """Challenges endpoints whose turn it is: `beside` starts what the duties do not wait for, `disable` ends those that
    never answered.
    """

    def __init__(
        self,
        deployment: Deployment,
        work_made: Callable[[], None],
        *,
        beside: Callable[[Callable[[], Awaitable[None]]], None],
        disable: Callable[[int, Reason], Awaitable[None]],
    ) -> None:
        self._deployment = deployment
        self._database = deployment.database
        self._rate = deployment.settings.unverified_rate
        self._work_made = work_made
        self._beside = beside
        self._disable = disable
        #: Endpoints whose challenge has not been answered yet.
        self._challenged = 0

    async def challenge(self) -> None:
        """Lets endpoints prove that they want what is sent to them; callbacks that never did are disabled."""
        room = CHALLENGED_AT_ONCE - self._challenged
        if room <= 0:
            return
        async with self._database.begin() as connection:
            found = await verification.take_due(connection, self._database, self._rate, min(room, verification.AT_ONCE))
        for row in found.given_up:
            await self._disable(row, Reason.EXPIRED)
        if found.challenge:
            # The duties would wait for receivers.
            self._beside(partial(self._challenge, found.challenge))

    async def _challenge(self, rows: Sequence[int]) -> None:
        self._challenged += len(rows)
        try:
            if await challenge_all(self._deployment, rows):
                self._work_made()
        finally:
            self._challenged -= len(rows)

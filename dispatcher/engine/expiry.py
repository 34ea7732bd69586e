"""Expiry: callbacks and endpoints whose time has come are disabled, and what waits for them ends cancelled."""

from collections.abc import Callable
from datetime import datetime, timedelta

from dispatcher.engine.schedule import BATCH, STEPS
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.states import Reason
from dispatcher.store import endpoint_status, job_callbacks, transitions
from dispatcher.store.deployment import Deployment

log = logger("dispatcher.duties")

#: How long an expired callback can still be looked at.
CALLBACKS_KEPT = timedelta(days=1)
#: For how long after it was disabled an endpoint may get a delivery by a fan-out that saw it enabled, at the most.
LATELY = timedelta(minutes=10)


class Expiry:
    """Ends callbacks and endpoints, and what waits for them."""

    def __init__(self, deployment: Deployment, work_made: Callable[[], None]) -> None:
        self._clock = deployment.clock
        self._database = deployment.database
        self._callback_grace = deployment.settings.callback_grace
        self._work_made = work_made
        self._callbacks_cursor = 0
        self._disabled_since: datetime | None = None

    async def expire_callbacks(self) -> None:
        """Gives callbacks whose job has settled their `expires_at`, once nothing waits for them."""
        for _ in range(STEPS):
            async with self._database.begin() as connection:
                self._callbacks_cursor = await job_callbacks.expire_settled(
                    connection, self._database, self._callbacks_cursor, BATCH, self._callback_grace
                )
            if not self._callbacks_cursor:
                return

    async def expire_endpoints(self) -> None:
        """enabled | paused → disabled (`expired`) where `expires_at` has passed; callbacks are gone a day later."""
        async with self._database.read() as connection:
            rows = await endpoint_status.expired(connection, self._database, BATCH)
        for row in rows:
            await self.disable(row, Reason.EXPIRED)
        before = self._clock.now() - CALLBACKS_KEPT
        async with self._database.begin() as connection:
            await endpoint_status.forget_expired_callbacks(connection, self._database, before, BATCH)

    async def disable(self, endpoint_row: int, reason: Reason) -> None:
        """Disables an endpoint and cancels what waits for it."""
        async with self._database.begin() as connection:
            changed = await endpoint_status.disable(connection, self._database, endpoint_row, reason)
        if changed:
            log.warning("endpoint.disabled", endpoint_id=public_id(Kind.ENDPOINT, endpoint_row), reason=reason)
            # Others may be told of it.
            self._work_made()
        await self._cancel(endpoint_row, reason)

    async def cancel_waiting(self) -> None:
        """Cancels what waits for disabled or deleted endpoints and was left by a process that ended in the middle.

        The first time it looks at all that are disabled, later at those that were lately: the others are many.
        """
        now = self._clock.now()
        async with self._database.read() as connection:
            left = await endpoint_status.to_cancel(connection, self._database, self._disabled_since, BATCH)
        if len(left) < BATCH:
            self._disabled_since = now - LATELY
        for endpoint_row, reason in left:
            await self._cancel(endpoint_row, reason)

    async def _cancel(self, endpoint_row: int, reason: Reason) -> None:
        count = BATCH
        while count == BATCH:
            async with self._database.begin() as connection:
                count = await transitions.cancel_endpoint(connection, self._database, endpoint_row, reason, BATCH)

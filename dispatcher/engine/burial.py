"""Burial: deliveries that cannot be read are ended as `unreadable`, so that those beside them are sent."""

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher import metrics
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.states import DeliveryState, Reason
from dispatcher.store import unreadable
from dispatcher.store.database import Database

log = logger("dispatcher.burial")

#: Deliveries in one transaction.
BATCH = 500


class Burial:
    """Ends deliveries without an attempt; a dead letter says so, a counter and the log."""

    def __init__(self, database: Database, work_made: Callable[[], None]) -> None:
        self._database = database
        self._work_made = work_made

    async def of_homeless(self, endpoint_rows: Sequence[int]) -> int:
        """What waits for endpoints that have no row. Raises `StoreUnavailable`."""
        return await self._bury(
            lambda connection: unreadable.homeless(connection, self._database, endpoint_rows, BATCH),
            "its endpoint's row is gone, or is another tenant's",
        )

    async def of_unclaimable(self) -> int:
        """What makes a claim fail. Raises `StoreUnavailable`."""
        return await self._bury(
            lambda connection: unreadable.unclaimable(connection, self._database, BATCH),
            "its row or its endpoint's holds what never should be there",
        )

    async def of_unknown(self) -> int:
        """What is in a state that there is not. Raises `StoreUnavailable`."""
        return await self._bury(
            lambda connection: unreadable.of_unknown_state(connection, self._database, BATCH), "its state is unknown"
        )

    async def _bury(self, find: Callable[[AsyncConnection], Awaitable[Sequence[int]]], why: str) -> int:
        buried, found = 0, BATCH
        while found == BATCH:
            async with self._database.begin() as connection:
                rows = await find(connection)
                found = await unreadable.bury(connection, self._database, rows) if rows else 0
            for row in rows:
                log.error("delivery.unreadable", delivery_id=public_id(Kind.DELIVERY, row), error=why)
            metrics.unreadable.labels("delivery").inc(found)
            metrics.settled.labels(DeliveryState.DEAD, Reason.UNREADABLE).inc(found)
            buried += found
        if buried:
            self._work_made()
        return buried

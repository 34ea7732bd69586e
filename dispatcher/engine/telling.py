"""Telling: the service's own events, of deliveries that died, and heartbeats where nothing else is sent."""

from collections.abc import Callable

from dispatcher.engine.schedule import BATCH, STEPS
from dispatcher.store import heartbeats, own_events
from dispatcher.store.database import Database

#: Endpoints whose deaths are told of in one step.
TOLD_OF = 50


class Telling:
    """Makes the service's own events."""

    def __init__(self, database: Database, work_made: Callable[[], None]) -> None:
        self._database = database
        self._work_made = work_made

    async def tell_of_deaths(self) -> None:
        """Tells of deliveries that died."""
        for _ in range(STEPS):
            async with self._database.begin() as connection:
                told = await own_events.tell_of_deaths(connection, self._database, TOLD_OF)
            if told:
                self._work_made()
            if told < TOLD_OF:
                break

    async def send_heartbeats(self) -> None:
        """Sends the heartbeats that are due."""
        for _ in range(STEPS):
            async with self._database.begin() as connection:
                looked_at, made = await heartbeats.send_due(connection, self._database, BATCH)
            if made:
                self._work_made()
            if looked_at < BATCH:
                break

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

    async def send_own_events(self) -> None:
        """Tells of deliveries that died, and sends the heartbeats that are due."""
        database = self._database
        async with database.read() as connection:
            untold, beats = await own_events.untold(connection, database), await heartbeats.due(connection, database)
        for _ in range(STEPS if untold else 0):
            async with database.begin() as connection:
                told = await own_events.tell_of_deaths(connection, database, TOLD_OF)
            if told:
                self._work_made()
            if told < TOLD_OF:
                break
        for _ in range(STEPS if beats else 0):
            async with database.begin() as connection:
                looked_at, made = await heartbeats.send_due(connection, database, BATCH)
            if made:
                self._work_made()
            if looked_at < BATCH:
                break

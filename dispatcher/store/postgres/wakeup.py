"""NOTIFY as a hint: wakes the dispatcher between polls, and is subscribed again whenever its connection broke."""

import asyncio
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from dispatcher.store.database import Database
from dispatcher.store.postgres.connection import OUTAGES, driver_of

#: How often a silent connection is asked whether it lives, and how long to wait before another try, in seconds.
_ASK_EVERY_S = 15.0
_TRY_AGAIN_S = 1.0


async def listen(database: Database, wake: Callable[[], None]) -> None:
    """Calls `wake` for each notification, and once after each subscription; until it is cancelled."""
    while True:
        connection = None
        try:
            connection = await database.engine.connect()
            driver = await driver_of(connection)
            broken = asyncio.Event()
            driver.add_termination_listener(lambda _, broken=broken: broken.set())
            await driver.add_listener(database.tables.channel, lambda *_: wake())
            # What was committed before the subscription was not announced.
            wake()
            while not broken.is_set():
                try:
                    async with asyncio.timeout(_ASK_EVERY_S):
                        await broken.wait()
                except TimeoutError:
                    async with asyncio.timeout(_ASK_EVERY_S):
                        await driver.execute("SELECT 1")
        except (*OUTAGES, DBAPIError):
            await asyncio.sleep(_TRY_AGAIN_S)
        finally:
            if connection is not None:
                # A connection that listens must not go back to the pool.
                await connection.invalidate()
                await connection.close()

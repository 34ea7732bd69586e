"""NOTIFY as a hint: wakes a process between polls, and is subscribed again whenever its connection broke."""

import asyncio
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from dispatcher.store.database import Database
from dispatcher.store.postgres.connection import OUTAGES, driver_of

#: How often a silent connection is asked whether it lives, and how long to wait before another try, in seconds.
_ASK_EVERY_S = 15.0
_TRY_AGAIN_S = 1.0


async def listen(database: Database, channel: str, heard: Callable[[str], None]) -> None:
    """Calls `heard` with each notification's payload, and with `""` after each subscription; until it is cancelled."""
    while True:
        connection = None
        try:
            connection = await database.engine.connect()
            driver = await driver_of(connection)
            broken = asyncio.Event()
            driver.add_termination_listener(lambda _, broken=broken: broken.set())
            await driver.add_listener(channel, lambda _connection, _pid, _channel, payload: heard(payload))
            # What was committed before the subscription was not announced.
            heard("")
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

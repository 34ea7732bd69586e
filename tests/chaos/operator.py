"""An operator who redelivers in bulk while everything goes on, whatever it ended as."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from sqlalchemy import select

from dispatcher.errors import StoreUnavailable
from dispatcher.service import redeliveries
from tests.chaos.scene import Scene

#: Arrivals between two runs, and the most deliveries of one.
EVERY = 200
MOST = 30


@asynccontextmanager
async def operating(at: Scene, random: Random, *, disturbed: bool) -> AsyncIterator[None]:
    """Starts a run now and then meanwhile; where the database is `disturbed`, some fail to be started."""

    async def work() -> None:
        while True:
            await at.witness.more(EVERY)
            try:
                await _redeliver(at, random)
            except StoreUnavailable:
                if not disturbed:
                    raise

    task = asyncio.create_task(work())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _redeliver(at: Scene, random: Random) -> None:
    database, d = at.outpost.database, at.outpost.tables.deliveries.c
    async with database.begin() as connection:
        chosen: list[int] = []
        for states, most in ((("delivered", "dead"), MOST), (("superseded",), MOST // 4)):
            newest = select(d.row_id).where(d.state.in_(states)).order_by(d.row_id.desc()).limit(10 * most)
            rows = list((await connection.execute(newest)).scalars())
            chosen += random.sample(rows, min(len(rows), most))
        await redeliveries.start(
            connection, database, None, select(d.event_row, d.endpoint_row).where(d.row_id.in_(chosen)), None
        )

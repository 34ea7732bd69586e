"""What tests of the hot store do again and again: events in the queue fanned out, and deliveries claimed."""

from collections.abc import Sequence
from typing import Any

from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import FannedOut, HotStore
from tests.outpost import Outpost


async def queue(
    outpost: Outpost, store: HotStore, *types: str, job_id: str = "job_1", kind: str | None = None
) -> FannedOut:
    """Publishes events of a job in one transaction, and fans them out."""
    await outpost.publish(*types, job_id=job_id, kind=kind)
    return await store.fan_out(100)


async def claim(store: HotStore, limit: int = 100) -> Sequence[Claimed]:
    """What can be sent now, claimed."""
    return (await store.claim(limit)).deliveries


async def claim_one(store: HotStore) -> Claimed:
    """The only delivery that can be sent now, claimed."""
    (claimed,) = await claim(store)
    return claimed


async def verified(outpost: Outpost, url: str = "http://127.0.0.1:8000/", **fields: Any) -> int:
    """An endpoint at a destination that has answered 2xx."""
    endpoint = await outpost.endpoint(url, **fields)
    destinations = outpost.tables.destinations
    async with outpost.database.begin() as connection:
        await connection.execute(destinations.update().values(verified_at=outpost.clock.now()))
    return endpoint.row

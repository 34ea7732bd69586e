"""Whether anything delivers just now: the dispatchers whose lease has not ended."""

from sqlalchemy import func, select

from dispatcher.store.deployment import Deployment


async def dispatchers_alive(deployment: Deployment) -> int:
    """How many dispatchers hold a lease. Raises `StoreUnavailable`."""
    database = deployment.database
    dispatchers = database.tables.dispatchers
    alive = select(func.count()).select_from(dispatchers).where(dispatchers.c.leased_until > database.now())
    async with database.read() as connection:
        return (await connection.execute(alive)).scalar_one()

"""*Now* as the deployment's database says, for what is computed from it before it is stored."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.store.database import Database


async def moment_now(connection: AsyncConnection, database: Database) -> datetime:
    """The clock's literal, or the database's own time."""
    moment: datetime = (await connection.execute(select(database.now()))).scalar_one()
    return moment

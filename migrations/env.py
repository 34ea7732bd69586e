"""Runs the migrations on the connection that `dispatcher.store.migrate` opened, or on one of our own for `alembic`."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from dispatcher.clock import SystemClock
from dispatcher.settings import load
from dispatcher.store.database import open_database
from dispatcher.store.migrate import guard
from dispatcher.store.tables import Tables


def migrate(connection: Connection, declared: Tables) -> None:
    guard(connection, declared)
    context.configure(
        connection=connection,
        target_metadata=declared.metadata,
        version_table=declared.version_table,
        version_table_schema=declared.schema,
        include_schemas=declared.schema is not None,
        compare_server_default=True,
        tables=declared,
    )
    with context.begin_transaction():
        context.run_migrations()


async def from_the_command_line() -> None:
    database = open_database(load(), SystemClock())
    try:
        async with database.begin() as connection:
            await connection.run_sync(migrate, database.tables)
    finally:
        await database.close()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given, context.config.attributes["tables"])
else:
    asyncio.run(from_the_command_line())

"""The schema's life: up to the newest version, checked before work starts, and never over tables that aren't ours."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from dispatcher.errors import SchemaError
from dispatcher.store.database import Database
from dispatcher.store.partitions import create_partitions
from dispatcher.store.tables import Tables

#: How long a migration waits for a table that somebody else has locked.
LOCK_TIMEOUT = "5s"


def scripts() -> Path:
    """Where the migrations are: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _config(**attributes: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.attributes.update(attributes)
    return config


def guard(connection: Connection, tables: Tables) -> None:
    """Refuses a database where a table of our name isn't ours. Raises `SchemaError`; changes nothing."""
    inspector = inspect(connection)
    present = set(inspector.get_table_names(schema=tables.schema))
    if tables.version_table in present:
        return
    foreign = sorted(present & {table.name for table in tables.metadata.tables.values()})
    if foreign:
        raise SchemaError(
            f"the database has tables of these names already, and they are not the dispatcher's: {', '.join(foreign)};"
            " nothing was changed. Set DISPATCHER_SCHEMA (PostgreSQL) or DISPATCHER_TABLE_PREFIX and try again"
        )


async def upgrade(database: Database, revision: str = "head") -> None:
    """Brings the schema to `revision`, in one transaction. Raises `SchemaError`, `StoreUnavailable`."""

    def run(connection: Connection) -> None:
        if database.dialect == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            # Two migrations at once: the second waits here and then finds nothing to do.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('dispatcher migrate'))"))
            if database.tables.schema:
                connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{database.tables.schema}"'))
        guard(connection, database.tables)
        config = _config(connection=connection, tables=database.tables)
        if revision.startswith("-") or revision == "base":
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
        if database.dialect == "postgresql" and revision == "head":
            create_partitions(connection, database.tables, database.clock.now().date())

    async with database.begin() as connection:
        await connection.run_sync(run)


async def pending(database: Database) -> list[str]:
    """The migrations that were not run yet, oldest first, as `0002 what it does`. Raises `SchemaError`."""
    known = ScriptDirectory(str(scripts()))
    async with database.read() as connection:
        await connection.run_sync(guard, database.tables)
        current = await connection.run_sync(_current, database.tables)
    todo: list[str] = []
    for script in known.walk_revisions():
        if script.revision == current:
            break
        todo.append(f"{script.revision} {script.doc}")
    else:
        if current is not None:
            # A revision we do not know is a newer release's; its migrations are safe beside this one.
            return []
    return todo[::-1]


async def check(database: Database) -> None:
    """Raises `SchemaError` where the schema is missing, older than this code, or not ours."""
    todo = await pending(database)
    if todo:
        raise SchemaError(
            f"the database's schema is missing or old ({len(todo)} migrations to run); run: dispatcher migrate"
        )


def _current(connection: Connection, tables: Tables) -> str | None:
    context = MigrationContext.configure(
        connection, opts={"version_table": tables.version_table, "version_table_schema": tables.schema}
    )
    return context.get_current_revision()

"""The schema's life: up to the newest version, checked before work starts, and never over tables that aren't ours.

Alembic, ten megabytes, is loaded where there is something to migrate.
"""

import re
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Text, inspect, select, table, text
from sqlalchemy import column as sql_column
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dispatcher.errors import SchemaError, StoreUnavailable
from dispatcher.store.database import Database
from dispatcher.store.partitions import create_partitions
from dispatcher.store.tables import Tables

if TYPE_CHECKING:
    from alembic.config import Config

#: How long a migration waits for a table that somebody else has locked.
LOCK_TIMEOUT = "5s"
_REVISION = re.compile(r'^revision = "(\w+)"$', re.MULTILINE)
_FOLLOWS = re.compile(r'^down_revision = "(\w+)"$', re.MULTILINE)
#: How often a migration is tried that meets others at work.
TRIES = 5


def scripts() -> Path:
    """Where the migrations are: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _config(**attributes: Any) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.attributes.update(attributes)
    return config


def _command(name: str, revision: str, **attributes: Any) -> None:
    from alembic import command

    getattr(command, name)(_config(**attributes), revision)


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
    """Brings the schema to `revision`, in one transaction. Raises `SchemaError`, `StoreUnavailable`.

    Where it meets the statements of dispatchers at work, it is tried again: what was not committed changed nothing.
    """

    def run(connection: Connection) -> None:
        if database.dialect == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            # Two migrations at once: the second waits here and then finds nothing to do.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('dispatcher migrate'))"))
            if database.tables.schema:
                connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{database.tables.schema}"'))
        guard(connection, database.tables)
        if revision == "head" and not _todo(connection, database.tables):
            pass
        elif revision.startswith("-") or revision == "base":
            _command("downgrade", revision, connection=connection, tables=database.tables)
        else:
            _command("upgrade", revision, connection=connection, tables=database.tables)
        if database.dialect == "postgresql" and revision == "head":
            create_partitions(connection, database.tables, database.clock.now().date())

    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_met_somebody),
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    ):
        with attempt:
            async with database.begin(limited=False) as connection:
                await connection.run_sync(run)


def _met_somebody(error: BaseException) -> bool:
    """Whether a lock was not to be had: a deadlock, or the lock timeout."""
    cause = getattr(error.__cause__, "orig", None)
    return isinstance(error, StoreUnavailable) and getattr(cause, "sqlstate", None) in ("40P01", "55P03")


async def pending(database: Database) -> list[str]:
    """The migrations that were not run yet, oldest first, as `0002 what it does`. Raises `SchemaError`."""

    def run(connection: Connection) -> list[str]:
        guard(connection, database.tables)
        return _todo(connection, database.tables)

    async with database.read() as connection:
        return await connection.run_sync(run)


def _todo(connection: Connection, tables: Tables) -> list[str]:
    current = _current(connection, tables)
    if current is not None and current == _newest():
        return []
    from alembic.script import ScriptDirectory

    known = list(ScriptDirectory(str(scripts())).walk_revisions())
    if current is not None and current not in {script.revision for script in known}:
        # A newer release's; its migrations are safe beside this one, unless they say that they are not.
        oldest = connection.execute(select(tables.compatibility.c.oldest_code)).scalar_one()
        if oldest not in {script.revision for script in known}:
            raise SchemaError(
                f"the database's schema is of a newer release, and this one does not work on it: it lacks migration"
                f" {oldest}; install the newer release"
            )
        return []
    todo = takewhile(lambda script: script.revision != current, known)
    return [f"{script.revision} {script.doc}" for script in todo][::-1]


async def check(database: Database) -> None:
    """Raises `SchemaError` where the schema is missing, older than this code, too new for it, or not ours."""
    todo = await pending(database)
    if todo:
        raise SchemaError(
            f"the database's schema is missing or old ({len(todo)} migrations to run); run: dispatcher migrate"
        )


def _current(connection: Connection, tables: Tables) -> str | None:
    if not inspect(connection).has_table(tables.version_table, schema=tables.schema):
        return None
    versions = table(tables.version_table, sql_column("version_num", Text), schema=tables.schema)
    current: str | None = connection.scalar(select(versions.c.version_num))
    return current


def _newest() -> str | None:
    """The revision that no other one follows, as the files say; none where they say no single one."""
    texts = [script.read_text() for script in (scripts() / "versions").glob("*.py")]
    revisions = {revision for said in texts for revision in _REVISION.findall(said)}
    followed = {revision for said in texts for revision in _FOLLOWS.findall(said)}
    newest = revisions - followed
    return newest.pop() if len(newest) == 1 else None

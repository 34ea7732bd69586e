"""Migrations: up, down and up again; what they make is what is declared; nothing of anybody else's is touched."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from dispatcher.clock import SystemClock
from dispatcher.errors import SchemaError
from dispatcher.settings import load
from dispatcher.store import migrate
from dispatcher.store.database import Database, open_database
from dispatcher.store.tables import tables
from tests.chaos.newer_release import newer_release
from tests.outpost import Outpost

LONGEST_PREFIX = "p" * 29


@asynccontextmanager
async def _database(url: str, **given: Any) -> AsyncIterator[Database]:
    opened = open_database(load(database_url=url, **given), SystemClock())
    try:
        yield opened
    finally:
        await opened.close()


async def _tables(database: Database, schema: str | None = None) -> set[str]:
    async with database.read() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names(schema=schema)))


async def _schema_text(database: Database) -> list[str]:
    """What the database says of its tables, indexes, checks, triggers and functions, in a form that can be compared."""
    in_public = "= 'public'::regnamespace ORDER BY 1"
    statements = {
        "sqlite": ("SELECT coalesce(sql, name) FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name",),
        "postgresql": (
            (
                "SELECT table_name || column_name || data_type || is_nullable || coalesce(column_default, '')"
                " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1"
            ),
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
            (
                "SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint"
                f" WHERE connamespace {in_public}"
            ),
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
            f"SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace {in_public}",
        ),
    }[database.dialect]
    async with database.read() as connection:
        return [str(row[0]) for sql in statements for row in await connection.execute(text(sql))]


async def test_up_down_and_up_again_gives_the_same_schema(empty_database_url: str) -> None:
    async with _database(empty_database_url) as database:
        await migrate.upgrade(database)
        first = await _schema_text(database)
        await migrate.upgrade(database, "base")
        assert await _tables(database) <= {"dispatcher_version"}
        left = [line for line in await _schema_text(database) if "dispatcher_version" not in line]
        assert left == []
        await migrate.upgrade(database)
        assert await _schema_text(database) == first
        await migrate.check(database)


async def test_migrating_twice_changes_nothing(database_url: str) -> None:
    async with _database(database_url) as database:
        before = await _schema_text(database)
        await migrate.upgrade(database)
        assert await _schema_text(database) == before


@pytest.mark.parametrize("prefix", ["", "outbox_", LONGEST_PREFIX])
async def test_the_migrated_schema_is_the_declared_one(empty_database_url: str, prefix: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_server_default": False,
                "version_table": database.tables.version_table,
                "include_name": lambda name, kind, parents: kind != "table" or "attempts_" not in (name or ""),
            },
        )
        return list(compare_metadata(context, database.tables.metadata))

    async with _database(empty_database_url, table_prefix=prefix) as database:
        await migrate.upgrade(database)
        async with database.read() as connection:
            assert await connection.run_sync(differences) == []


async def test_columns_checks_and_defaults_are_migrated_as_declared(empty_database_url: str) -> None:
    # Autogenerate compares neither checks nor our defaults: make both and compare what the database says.
    async with _database(empty_database_url) as database:
        async with database.begin() as connection:
            await connection.run_sync(database.tables.metadata.create_all)
        declared = await _comparable(database)
        async with database.begin() as connection:
            await connection.run_sync(database.tables.metadata.drop_all)
        await migrate.upgrade(database)
        assert await _comparable(database) == declared


async def _comparable(database: Database) -> list[str]:
    names = {table.name for table in database.tables.metadata.tables.values()}
    kept = []
    for line in await _schema_text(database):
        if re.search(r"dispatcher_version|attempts_(default|\d{8})|TRIGGER|FUNCTION", line):
            continue
        if line.startswith("CREATE TABLE"):
            assert any(f'{name} ("' in line or f"{name} (" in line for name in names), line
            body = line[line.index("(") + 1 : line.rindex(")")]
            parts = re.split(r",\s*\n", body)
            kept.append(line.split("(")[0] + " | ".join(sorted(re.sub(r"\s+", " ", part).strip() for part in parts)))
        else:
            kept.append(re.sub(r"\s+", " ", line))
    return sorted(kept)


def test_the_newest_migration_is_known_without_alembic(tmp_path: Path) -> None:
    assert migrate._newest() == ScriptDirectory(str(migrate.scripts())).get_current_head()
    with newer_release(tmp_path):
        assert migrate._newest() == ScriptDirectory(str(migrate.scripts())).get_current_head() == "0002"


def test_every_declared_table_compiles_on_both_databases() -> None:
    for dialect in (postgresql.dialect(), sqlite.dialect()):  # type: ignore[no-untyped-call]
        for table in tables("outbox", LONGEST_PREFIX).metadata.sorted_tables:
            assert str(CreateTable(table).compile(dialect=dialect))


async def test_a_foreign_table_of_one_of_our_names_is_refused_and_nothing_is_changed(empty_database_url: str) -> None:
    async with _database(empty_database_url) as database:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE events (mine INTEGER)"))
            await connection.execute(text("INSERT INTO events VALUES (42)"))
        before = await _schema_text(database)
        with pytest.raises(SchemaError, match=r"events.*DISPATCHER_TABLE_PREFIX"):
            await migrate.upgrade(database)
        with pytest.raises(SchemaError, match="events"):
            await migrate.check(database)
        assert await _schema_text(database) == before
        async with database.read() as connection:
            assert (await connection.execute(text("SELECT mine FROM events"))).scalar_one() == 42


async def test_a_producers_own_alembic_stays_as_it_is(empty_database_url: str) -> None:
    async with _database(empty_database_url) as database:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            await connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        await migrate.upgrade(database)
        async with database.read() as connection:
            rows = (await connection.execute(text("SELECT version_num FROM alembic_version"))).all()
            ours = (await connection.execute(text("SELECT version_num FROM dispatcher_version"))).all()
        assert [row[0] for row in rows] == ["theirs"]
        assert len(ours) == 1


async def test_a_prefix_lives_beside_tables_of_the_same_names(empty_database_url: str) -> None:
    async with _database(empty_database_url, table_prefix="outbox_") as database:
        async with database.begin() as connection:
            await connection.execute(text("CREATE TABLE events (mine INTEGER)"))
        await migrate.upgrade(database)
        assert {"events", "outbox_events", "outbox_dispatcher_version"} <= await _tables(database)


async def test_a_schema_of_its_own_is_made(empty_postgres_url: str) -> None:
    async with _database(empty_postgres_url, schema="outbox") as database:
        await migrate.upgrade(database)
        await migrate.check(database)
        assert {"events", "dispatcher_version"} <= await _tables(database, "outbox")
        assert await _tables(database) == set()
        await migrate.upgrade(database, "base")
        assert await _tables(database, "outbox") == {"dispatcher_version"}


async def test_an_empty_database_is_told_what_to_run(empty_database_url: str) -> None:
    async with _database(empty_database_url) as database:
        with pytest.raises(SchemaError, match="dispatcher migrate"):
            await migrate.check(database)
        assert await migrate.pending(database)


async def test_a_newer_releases_schema_is_compatible(database_url: str) -> None:
    async with _database(database_url) as database:
        async with database.begin() as connection:
            await connection.execute(text("UPDATE dispatcher_version SET version_num = '9999'"))
        await migrate.check(database)
        assert await migrate.pending(database) == []


async def test_a_newer_releases_schema_is_left_as_it_is(database_url: str, tmp_path: Path) -> None:
    async with _database(database_url) as database:
        with newer_release(tmp_path):
            assert await migrate.pending(database) == ["0002 Something more."]
            await migrate.upgrade(database)
            assert await migrate.pending(database) == []
        before = await _schema_text(database)
        assert await migrate.pending(database) == []
        await migrate.check(database)
        # As a dispatcher on SQLite does when it starts.
        await migrate.upgrade(database)
        assert await _schema_text(database) == before


async def test_a_schema_that_this_release_does_not_work_on_says_so(database_url: str, tmp_path: Path) -> None:
    async with _database(database_url) as database:
        with newer_release(tmp_path, compatible=False):
            await migrate.upgrade(database)
            await migrate.check(database)
        before = await _schema_text(database)
        for ask in (migrate.check, migrate.pending, migrate.upgrade):
            with pytest.raises(SchemaError, match="it lacks migration 0002; install the newer release"):
                await ask(database)
        assert await _schema_text(database) == before


async def test_a_migration_that_meets_others_at_work_is_tried_again(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrate, "TRIES", 100)
    outpost = Outpost(postgres_url, SystemClock())
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'endpoints'::regclass"
    async with outpost.database.engine.connect() as session:
        await session.execute(text("SELECT FROM endpoints"))
        with newer_release(tmp_path):
            upgrading = asyncio.ensure_future(migrate.upgrade(outpost.database))
            await outpost.sees(waiting)
            await outpost.sees(f"SELECT WHERE NOT EXISTS ({waiting})")
            assert not upgrading.done()
            await session.rollback()
            await upgrading
            assert await migrate.pending(outpost.database) == []
    await outpost.close()


async def test_two_migrations_at_once_end_as_one(empty_database_url: str) -> None:
    async with _database(empty_database_url) as one, _database(empty_database_url) as other:
        await asyncio.gather(migrate.upgrade(one), migrate.upgrade(other))
        await migrate.check(one)
        assert {"events", "deliveries"} <= await _tables(one)

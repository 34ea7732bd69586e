"""What keeps a command from starting is told in one line that says what to do, and nothing is changed."""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.cli.conftest import Cli
from tests.outpost import SECRET_KEY

OTHER_KEY = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
#: Each kind of command: those that stay, the one that changes the schema, and one that comes and goes.
SERVING = [("serve", "--port", "0"), ("work", "--until-idle")]
COMMANDS = [*SERVING, ("migrate",), ("endpoints", "list")]


def refused(cli: Cli, command: tuple[str, ...], *named: str, code: int = 1) -> None:
    outcome = cli(*command)
    assert (outcome.code, outcome.stdout) == (code, ""), (command, outcome)
    [line] = outcome.stderr.splitlines()
    assert line.startswith("error: ")
    for word in named:
        assert word in line, line


def sqlite_dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


def postgres_dump(url: str) -> list[tuple[object, ...]]:
    """Every relation, and the rows of ours that a start could change."""
    server = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(server) as connection:
        found: list[tuple[object, ...]] = connection.execute(
            "SELECT n.nspname, c.relname, c.relkind, c.relnatts FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
            " AND n.nspname NOT LIKE 'pg_temp%' AND n.nspname NOT LIKE 'pg_toast_temp%' ORDER BY 1, 2"
        ).fetchall()
        for table in ("events", "endpoints", "dispatchers", "duties", "dispatcher_version"):
            if any(row[:2] == ("public", table) for row in found):
                found += connection.execute(f"SELECT '{table}', * FROM {table}").fetchall()
        return found


@pytest.fixture
def on_postgres(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Cli]:
    """The commands on a database, with a key."""

    def use(url: str) -> Cli:
        monkeypatch.setenv("DISPATCHER_DATABASE_URL", url)
        monkeypatch.setenv("DISPATCHER_SECRET_KEY", SECRET_KEY)
        return bare_cli

    return use


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_setting_that_is_wrong(
    bare_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DISPATCHER_LEASE", "soon")
    refused(bare_cli, command, "DISPATCHER_LEASE", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", SERVING, ids=lambda command: command[0])
def test_a_file_of_authorities_that_holds_none(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "authorities.pem").write_text("none")
    monkeypatch.setenv("DISPATCHER_CA_FILE", "authorities.pem")
    refused(cli, command, "DISPATCHER_CA_FILE: authorities.pem", code=2)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_file_whose_tables_are_somebody_else_s(bare_cli: Cli, sqlite_other: Path, command: tuple[str, ...]) -> None:
    before = sqlite_dump(sqlite_other)
    refused(bare_cli, command, "DISPATCHER_TABLE_PREFIX")
    assert sqlite_dump(sqlite_other) == before


@pytest.fixture
def sqlite_other(tmp_path: Path) -> Path:
    file = tmp_path / "dispatcher.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE events (mine INTEGER)")
        connection.execute("INSERT INTO events VALUES (42)")
        connection.commit()
    return file


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_file_that_is_no_database(bare_cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    file = tmp_path / "dispatcher.db"
    file.write_bytes(b"a letter to grandmother, and a long one at that, which nobody wants to lose " * 100)
    before = file.read_bytes()
    refused(bare_cli, command, "DISPATCHER_DATABASE_URL")
    assert file.read_bytes() == before


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_directory_in_the_file_s_place(bare_cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "dispatcher.db").mkdir()
    refused(bare_cli, command, "DISPATCHER_DATABASE_URL")


@pytest.fixture
def unwritable(tmp_path: Path, sqlite_url: str) -> Iterator[Path]:
    """A migrated database that this process may only read."""
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    file = tmp_path / "dispatcher.db"
    file.chmod(stat.S_IRUSR)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield file
    tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("command", SERVING, ids=lambda command: command[0])
def test_a_file_that_may_only_be_read(bare_cli: Cli, unwritable: Path, command: tuple[str, ...]) -> None:
    before = unwritable.read_bytes()
    refused(bare_cli, command)
    assert unwritable.read_bytes() == before


@pytest.mark.parametrize("command", SERVING, ids=lambda command: command[0])
def test_a_key_that_is_lost(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert cli("endpoints", "create", "https://example.com/hook").code == 0
    before = sqlite_dump(tmp_path / "dispatcher.db")
    key = tmp_path / "dispatcher.db.key"
    key.rename(tmp_path / "elsewhere")
    refused(cli, command, "DISPATCHER_SECRET_KEY")
    assert not key.exists()
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", OTHER_KEY)
    refused(cli, command, "DISPATCHER_SECRET_KEY")
    assert sqlite_dump(tmp_path / "dispatcher.db") == before


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_database_whose_tables_are_somebody_else_s(
    on_postgres: Callable[[str], Cli], empty_postgres_url: str, command: tuple[str, ...]
) -> None:
    server = make_url(empty_postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE TABLE events (mine INTEGER)")
    before = postgres_dump(empty_postgres_url)
    refused(on_postgres(empty_postgres_url), command, "DISPATCHER_SCHEMA")
    assert postgres_dump(empty_postgres_url) == before


def test_a_schema_that_is_old(on_postgres: Callable[[str], Cli], empty_postgres_url: str) -> None:
    before = postgres_dump(empty_postgres_url)
    for command in COMMANDS:
        if command != ("migrate",):
            refused(on_postgres(empty_postgres_url), command, "dispatcher migrate")
    assert postgres_dump(empty_postgres_url) == before


def test_a_server_that_is_not_there_or_lets_nobody_in(
    on_postgres: Callable[[str], Cli], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.database.OUTAGE_PATIENCE_S", 0.2)
    url = make_url(postgres_url)
    nowhere = url.set(port=1).render_as_string(hide_password=False)
    stranger = url.set(password="wr0ng-p4ssword").render_as_string(hide_password=False)
    unknown = url.set(database="nobodys").render_as_string(hide_password=False)
    for command in COMMANDS:
        refused(on_postgres(nowhere), command, "database")
        refused(on_postgres(stranger), command, "DISPATCHER_DATABASE_URL")
        refused(on_postgres(unknown), command, "DISPATCHER_DATABASE_URL")
        assert "wr0ng-p4ssword" not in on_postgres(stranger)(*command).stderr


def test_a_role_that_may_not(on_postgres: Callable[[str], Cli], postgres_url: str, empty_postgres_url: str) -> None:
    for url, commands in ((empty_postgres_url, [("migrate",)]), (postgres_url, [*SERVING, ("endpoints", "list")])):
        server = make_url(url).set(drivername="postgresql")
        with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS nobody_much")
            connection.execute("CREATE ROLE nobody_much LOGIN PASSWORD 'nobody'")
        before = postgres_dump(url)
        try:
            as_nobody = make_url(url).set(username="nobody_much", password="nobody")
            for command in commands:
                refused(on_postgres(as_nobody.render_as_string(hide_password=False)), command)
            assert postgres_dump(url) == before
        finally:
            with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
                connection.execute("DROP ROLE nobody_much")

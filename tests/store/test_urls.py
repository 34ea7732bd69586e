"""Database URLs as people write them, with the drivers and arguments that they become."""

from pathlib import Path

import pytest

from dispatcher.errors import ConfigurationError
from dispatcher.store.urls import parse_database_url


@pytest.mark.parametrize("text", ["sqlite:///a.db", "sqlite+aiosqlite:///a.db", "sqlite+pysqlite:///a.db"])
def test_every_driver_of_sqlite_becomes_ours(text: str) -> None:
    parsed = parse_database_url(text)
    assert (parsed.url.drivername, parsed.dialect, parsed.file) == ("sqlite+aiosqlite", "sqlite", Path("a.db"))


@pytest.mark.parametrize("driver", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"])
def test_every_driver_of_postgresql_becomes_ours_and_the_password_is_not_shown(driver: str) -> None:
    parsed = parse_database_url(f"{driver}://me:s3cret@db:6000/app")
    assert (parsed.url.drivername, parsed.url.host, parsed.url.port, parsed.url.database) == (
        "postgresql+asyncpg",
        "db",
        6000,
        "app",
    )
    assert parsed.file is None
    assert "s3cret" not in parsed.shown


def test_a_password_among_the_parameters_is_not_shown_either() -> None:
    parsed = parse_database_url("postgresql://me@db/app?password=s3cret&port=6000")
    assert parsed.url.query["password"] == "s3cret"
    assert parsed.shown == "postgresql+asyncpg://me@db/app?password=***&port=6000"


def test_several_hosts_are_tried_until_one_can_write() -> None:
    parsed = parse_database_url("postgresql://me:pw@one,two:6000/app?target_session_attrs=read-write")
    assert dict(parsed.url.query) == {"host": ("one:5432", "two:6000")}
    assert parsed.several_hosts
    assert not parse_database_url("postgresql://one/app").several_hosts
    assert (parsed.url.username, parsed.url.password, parsed.url.database) == ("me", "pw", "app")


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("sqlite:///a.db", []),
        ("postgresql://me:pw@DB.example:6000/app", [("db.example", 6000)]),
        ("postgresql://db/app", [("db", 5432)]),
        ("postgresql://one,two:6000/app", [("one", 5432), ("two", 6000)]),
        ("postgresql:///app?host=/var/run/postgresql", []),
        ("postgresql:///app", []),
        ("postgresql://[::1]:6000/app", [("::1", 6000)]),
        ("postgresql://[::1],[fd00::2]:6000/app", [("::1", 5432), ("fd00::2", 6000)]),
        ("postgresql:///app?host=db&port=6000", [("db", 6000)]),
        ("postgresql:///app?host=db:6000", [("db", 6000)]),
        ("postgresql:///app?host=one:6000&host=two", [("one", 6000), ("two", 5432)]),
    ],
)
def test_the_servers_that_it_names_are_known(text: str, servers: list[tuple[str, int]]) -> None:
    assert parse_database_url(text).servers == servers


def test_an_application_name_is_told_to_the_server() -> None:
    parsed = parse_database_url("postgresql://db/app?application_name=outbox")
    assert parsed.connect_args["server_settings"] == {"application_name": "outbox"}
    assert not parsed.url.query


def test_sslmode_is_understood() -> None:
    parsed = parse_database_url("postgresql://db/app?sslmode=require")
    assert parsed.connect_args["ssl"] == "require"
    assert "sslmode" not in parsed.url.query


@pytest.mark.parametrize(
    "text",
    ["", "dispatcher.db", "mysql://db/app", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory", "a b"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="DISPATCHER_DATABASE_URL"):
        parse_database_url(text)


def test_a_wrong_url_with_a_password_does_not_show_it() -> None:
    for text in ("postgres//me:s3cret@db/app", "mysql://me:s3cret@db/app", "postgresql://me:s3cret@db:port/app"):
        with pytest.raises(ConfigurationError) as caught:
            parse_database_url(text)
        assert "s3cret" not in str(caught.value)

"""What tests stand on: databases of both kinds, real receivers, and an environment that is nobody's."""

import asyncio
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.database import DirectoryBasedExampleDatabase
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from dispatcher.clock import SystemClock
from dispatcher.outbox.callbacks import producer_keyring
from dispatcher.outbox.publish import producer_settings
from dispatcher.settings import Settings
from dispatcher.store.database import open_database
from dispatcher.store.migrate import upgrade
from tests import fork_server
from tests.bad_receiver import BadReceiver
from tests.clock import FakeClock
from tests.outpost import SECRET_KEY, Outpost
from tests.postgres_server import OwnPostgres, own_postgres
from tests.receiver import Receiver

# A shared machine's pauses are no failures; found examples stay in the checkout, not in a test's directory.
hypothesis_settings.register_profile(
    "suite",
    deadline=None,
    print_blob=True,
    database=DirectoryBasedExampleDatabase(Path(__file__).parent.parent / ".hypothesis" / "examples"),
)
hypothesis_settings.load_profile("suite")


#: Directories of tests that take seconds each.
_LONG = {"chaos", "demo", "docs", "examples", "fuzz"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first, so that none of them is all that is left to wait for at the end."""
    items.sort(key=lambda item: _LONG.isdisjoint(item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def _nobodys_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the developer's reaches a test, neither by environment nor by `.env`."""
    with pytest.MonkeyPatch.context() as patch:
        # Hundreds of processes are started: each of them would compile the whole package anew.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        for name in [name for name in os.environ if name.startswith("DISPATCHER_")]:
            patch.delenv(name)
        patch.chdir(tmp_path_factory.mktemp("nowhere"))
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A script that runs the tests in the background has it ignored, and so would each process that they start.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


@pytest.fixture(scope="session", autouse=True)
def _fork_server_ends() -> Iterator[None]:
    yield
    fork_server.end()


@pytest.fixture(autouse=True)
def _own_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """`postgresql://…` of a server where databases can be made: TEST_DATABASE_URL's, or the tests' own."""
    named = os.environ.get("TEST_DATABASE_URL")
    if named:
        yield _text(make_url(named).set(drivername="postgresql"))
        return
    with own_postgres(durable=False) as server:
        yield server.url


@pytest.fixture
def stoppable_postgres() -> Iterator[OwnPostgres]:
    """A server for one test, which may stop and start it."""
    with own_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_owner(postgres_server: str) -> Iterator[psycopg.Connection]:
    """The connection that makes and drops each test's database."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str, postgres_owner: psycopg.Connection) -> Iterator[str]:
    """The name of a migrated database that each test's is copied from."""
    with _new_database(postgres_owner) as name:
        _migrate(_asyncpg(postgres_server, name))
        yield name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file that each test's is copied from."""
    file = tmp_path_factory.mktemp("template") / "dispatcher.db"
    _migrate(f"sqlite+aiosqlite:///{file}")
    return file


@pytest.fixture
def postgres_url(postgres_server: str, postgres_owner: psycopg.Connection, postgres_template: str) -> Iterator[str]:
    """A migrated PostgreSQL database for one test, through asyncpg."""
    with _new_database(postgres_owner, postgres_template) as name:
        yield _asyncpg(postgres_server, name)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database for one test."""
    file = shutil.copy(sqlite_template, tmp_path / "dispatcher.db")
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database; the test runs on each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def empty_postgres_url(postgres_server: str, postgres_owner: psycopg.Connection) -> Iterator[str]:
    """A PostgreSQL database without any table."""
    with _new_database(postgres_owner) as name:
        yield _asyncpg(postgres_server, name)


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """A SQLite database whose file does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path}/dispatcher.db"


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """A database without any table; the test runs on each kind."""
    return str(request.getfixturevalue(f"empty_{request.param}_url"))


@contextmanager
def _new_database(owner: psycopg.Connection, template: str = "template0") -> Iterator[str]:
    # Random, since several runs may share TEST_DATABASE_URL's server.
    name = f"dispatcher_test_{secrets.token_hex(6)}"
    owner.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield name
    finally:
        owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _migrate(url: str) -> None:
    async def run() -> None:
        database = open_database(Settings(database_url=url), SystemClock())
        try:
            await upgrade(database)
        finally:
            await database.close()

    # In a thread, since pytest-asyncio's loop belongs to this one.
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, run()).result()


def _asyncpg(server: str, database: str) -> str:
    return _text(make_url(server).set(drivername="postgresql+asyncpg", database=database))


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A real server that records what it is sent and answers as told."""
    async with Receiver() as running:
        yield running


@pytest.fixture
async def bad_receiver() -> AsyncIterator[BadReceiver]:
    """A real server that behaves as badly as the path of the URL says."""
    async with BadReceiver() as running:
        yield running


@pytest.fixture
def producer_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What a producer's process has in its environment to register callbacks; read anew by each test."""
    for name, value in {
        "DISPATCHER_SECRET_KEY": SECRET_KEY,
        "DISPATCHER_ALLOW_HTTP": "true",
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
    }.items():
        monkeypatch.setenv(name, value)
    producer_settings.cache_clear()
    producer_keyring.cache_clear()
    yield monkeypatch
    producer_settings.cache_clear()
    producer_keyring.cache_clear()


@pytest.fixture
async def outpost(database_url: str, clock: FakeClock) -> AsyncIterator[Outpost]:
    """A deployment whose receivers are on loopback and whose time is the test's; the test runs on each database."""
    opened = Outpost(database_url, clock)
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_outpost(sqlite_url: str, clock: FakeClock) -> AsyncIterator[Outpost]:
    opened = Outpost(sqlite_url, clock)
    yield opened
    await opened.close()


@pytest.fixture
async def postgres_outpost(postgres_url: str, clock: FakeClock) -> AsyncIterator[Outpost]:
    opened = Outpost(postgres_url, clock)
    yield opened
    await opened.close()

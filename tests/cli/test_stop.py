"""SIGTERM in every phase: the process ends by itself, with exit code 0, and nothing is worse for it."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from aiohttp import web
from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url

from dispatcher.clock import SystemClock
from dispatcher.states import DeliveryState
from dispatcher.store import migrate
from tests.cli.conftest import Process, Started
from tests.cli.gate import Gate
from tests.outpost import SECRET_KEY, Outpost
from tests.programs import running_python
from tests.receiver import Received, Receiver

SETTINGS = {
    "secret_key": SECRET_KEY,
    "allow_http": "true",
    "allow_networks": "127.0.0.0/8",
    "port": "0",
    "log_format": "json",
    "shutdown_grace": "500ms",
    "poll_interval": "100ms",
}

#: What is claimed as it is asked to stop is given back, in time.
PATIENT = {**SETTINGS, "shutdown_grace": "20s"}


async def stopped(process: Process, *signals: signal.Signals) -> None:
    """Ends by itself when it is asked to."""
    for number in signals or (signal.SIGTERM,):
        process.process.send_signal(number)
    assert await process.end() == 0, process.lines
    assert not [line for line in process.lines if line.startswith("Traceback")]


#: How long two starts of a process may take on a machine that has much else to do, in seconds.
MIGRATION_PATIENCE_S = 60.0
#: SIGTERM before this statement of the migration; it has more.
IN_A_MIGRATION = {"CHAOS_DOOM": "within-migration", "CHAOS_DOOM_AT": "20", "CHAOS_DOOM_SIGNAL": "SIGTERM"}


@asynccontextmanager
async def gated(url: str) -> AsyncIterator[tuple[Gate, str]]:
    """A gate before the server of a database, and the URL that leads through it."""
    server = make_url(url)
    assert server.host
    async with Gate.before(server.host, server.port or 5432) as gate:
        yield gate, server.set(port=gate.port).render_as_string(hide_password=False)


@asynccontextmanager
async def hanging(receiver: Receiver, path: str) -> AsyncIterator[asyncio.Event]:
    """A path that answers only when the event is set."""
    answering = asyncio.Event()

    async def answer(_: Received) -> web.StreamResponse:
        await answering.wait()
        return web.Response()

    receiver.answers(path, answer)
    yield answering
    answering.set()


@pytest.mark.parametrize(
    ("command", "away"), [("serve", Gate.close), ("work", Gate.swallow)], ids=["serve-refuses", "work-swallows"]
)
async def test_while_the_database_is_away_and_a_post_hangs(
    started: Started, postgres_url: str, receiver: Receiver, command: str, away: object
) -> None:
    assert callable(away)
    outpost = Outpost(postgres_url, SystemClock())
    await outpost.endpoint(receiver.url("/hook"))
    async with (
        hanging(receiver, "/hook"),
        gated(postgres_url) as (gate, url),
        started(command, database_url=url, **SETTINGS) as process,
    ):
        await process.line("dispatcher.started")
        await outpost.publish()
        await receiver.wait_for(1)
        away(gate)
        await stopped(process)
        # What it could not record is reclaimed when the lease has ended.
        assert (await outpost.delivery()).state == DeliveryState.SENDING
    await outpost.close()


@pytest.mark.parametrize("arguments", [("work",), ("work", "--processes", "2"), ("serve",)], ids=" ".join)
async def test_while_it_starts_and_the_database_says_nothing(
    started: Started, postgres_url: str, arguments: tuple[str, ...]
) -> None:
    async with gated(postgres_url) as (gate, url):
        gate.swallow()
        async with started(*arguments, database_url=url, **SETTINGS) as process:
            async with asyncio.timeout(30):
                await gate.tried.wait()
            await stopped(process)


async def test_while_somebody_else_has_locked_the_file(
    started: Started, sqlite_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    outpost = Outpost(sqlite_url, SystemClock())
    await outpost.endpoint(receiver.url("/hook"))
    async with hanging(receiver, "/hook"), started("work", database_url=sqlite_url, **SETTINGS) as process:
        await process.line("dispatcher.started")
        await outpost.publish()
        await receiver.wait_for(1)
        with closing(sqlite3.connect(tmp_path / "dispatcher.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await stopped(process)
            other.execute("ROLLBACK")
    assert (await outpost.delivery()).state == DeliveryState.SENDING
    await outpost.close()


async def test_while_it_waits_to_migrate_a_file_that_somebody_else_has_locked(
    started: Started, empty_sqlite_url: str, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "dispatcher.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        async with started("work", database_url=empty_sqlite_url, log_level="debug", **SETTINGS) as process:
            await process.line("dispatcher.starting")
            await stopped(process)
        other.execute("ROLLBACK")
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


@pytest.mark.timeout(180)
async def test_in_the_middle_of_a_migration_which_changes_nothing_and_the_next_one_completes(
    empty_database_url: str,
) -> None:
    environment = {"DISPATCHER_DATABASE_URL": empty_database_url}
    async with running_python("-m", "tests.chaos.doomed", "migrate", **environment, **IN_A_MIGRATION) as first:
        assert await first.done(MIGRATION_PATIENCE_S) == -signal.SIGTERM, first.lines
    assert await table_names(empty_database_url) == []
    async with running_python("-m", "dispatcher", "migrate", **environment) as second:
        assert await second.done(MIGRATION_PATIENCE_S) == 0, second.lines
        assert second.said("applied: ")
    outpost = Outpost(empty_database_url, SystemClock())
    await outpost.publish()
    assert await outpost.count("events") == 1
    await outpost.close()


@pytest.mark.timeout(180)
async def test_in_the_middle_of_the_migration_of_a_dispatchers_start_which_is_done_whole_or_not_at_all(
    empty_sqlite_url: str,
) -> None:
    settings = {f"DISPATCHER_{name.upper()}": value for name, value in SETTINGS.items()}
    environment = {**settings, "DISPATCHER_DATABASE_URL": empty_sqlite_url}
    async with running_python("-m", "tests.chaos.doomed", "work", **environment, **IN_A_MIGRATION) as first:
        assert await first.done(MIGRATION_PATIENCE_S) == 0, first.lines
    outpost = Outpost(empty_sqlite_url, SystemClock())
    assert len(await table_names(empty_sqlite_url)) in (0, len(outpost.tables.metadata.tables) + 1)
    await migrate.upgrade(outpost.database)
    await outpost.publish()
    assert await outpost.count("events") == 1
    await outpost.close()


async def table_names(url: str) -> list[str]:
    outpost = Outpost(url, SystemClock())
    async with outpost.database.read() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await outpost.close()
    return names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_asked_twice_and_the_second_interrupt_waits_for_no_post(
    started: Started, database_url: str, receiver: Receiver, number: signal.Signals
) -> None:
    outpost = Outpost(database_url, SystemClock())
    await outpost.endpoint(receiver.url("/hook"))
    patient = {**SETTINGS, "shutdown_grace": "1h"}
    async with (
        hanging(receiver, "/hook") as answering,
        started("work", database_url=database_url, **patient) as process,
    ):
        await process.line("dispatcher.started")
        await outpost.publish()
        await receiver.wait_for(1)
        process.process.send_signal(number)
        await process.line("dispatcher.stopping")
        process.process.send_signal(number)
        if number is signal.SIGTERM:
            answering.set()
        assert await process.end() == 0
    [attempt] = await outpost.attempts()
    delivery = await outpost.delivery()
    if number is signal.SIGTERM:
        assert (attempt.status, attempt.error, delivery.state) == (200, None, DeliveryState.DELIVERED)
    else:
        assert (attempt.error, delivery.state, delivery.failures) == ("interrupted", DeliveryState.PENDING, 0)
    await outpost.close()


async def test_while_a_fan_out_of_many_deliveries_runs_in_several_processes(
    started: Started, postgres_url: str, receiver: Receiver
) -> None:
    await many_to_fan_out(postgres_url, receiver)
    async with started("work", "--processes", "3", database_url=postgres_url, **PATIENT) as process:
        await receiver.wait_for(1)
        await stopped(process, signal.SIGTERM, signal.SIGTERM)
    await nothing_lost(postgres_url)


async def test_while_a_fan_out_of_many_deliveries_runs_on_sqlite(
    started: Started, sqlite_url: str, receiver: Receiver
) -> None:
    await many_to_fan_out(sqlite_url, receiver)
    async with started("work", database_url=sqlite_url, **PATIENT) as process:
        await receiver.wait_for(1)
        await stopped(process, signal.SIGTERM, signal.SIGTERM)
    await nothing_lost(sqlite_url)


EVENTS, ENDPOINTS = 100, 100


async def many_to_fan_out(url: str, receiver: Receiver) -> None:
    """As many deliveries as events times endpoints."""
    outpost = Outpost(url, SystemClock())
    for number in range(ENDPOINTS):
        await outpost.endpoint(receiver.url(f"/{number}"), ordered=False)
    await outpost.publish(*["job.step"] * EVENTS)
    await outpost.close()


async def nothing_lost(url: str) -> None:
    """Each event is in the queue, or has all of its deliveries; none is in flight; each attempt has an outcome."""
    outpost = Outpost(url, SystemClock())
    async with outpost.database.read() as connection:
        counted = text("SELECT count(*), sum(attempts), sum(CASE WHEN state = 'sending' THEN 1 ELSE 0 END)")
        made, begun, sending = (await connection.execute(text(f"{counted.text} FROM deliveries"))).one()
    assert made == (EVENTS - await outpost.count("fanout_queue")) * ENDPOINTS
    assert (sending, begun) == (0, await outpost.count("attempts"))
    await outpost.close()

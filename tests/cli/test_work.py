"""`dispatcher work`: one process or several, their pages, and an end when nothing is due."""

import json
import os
import re
import signal
import subprocess
import sys

import aiohttp
import pytest

from tests.cli.conftest import Cli, Process, Started

SECRET_KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="


async def page(process: Process, path: str) -> tuple[int, str]:
    """A page of the port that it says it has."""
    found = re.search(r"http://[^ ]+", await process.line("Health and metrics on"))
    assert found
    async with aiohttp.ClientSession(found[0]) as session:
        answered = await session.get(path)
        return answered.status, await answered.text()


async def pid_of(process: Process, count: int) -> int:
    """The pid of the `count`th child that was started."""
    return int(json.loads(await process.line("fleet.process_started", count))["pid"])


def test_sqlite_takes_one_process(cli: Cli) -> None:
    outcome = cli("work", "--processes", "2")
    assert outcome.code == 2
    assert "PostgreSQL" in outcome.stderr


def test_until_idle_ends_at_once_when_nothing_is_due(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_LOG_LEVEL", "error")
    outcome = cli("work", "--until-idle")
    assert outcome.code == 0
    assert outcome.stdout == ""


def test_a_worker_with_pages_loads_neither_what_migrates_nor_the_api(database_url: str) -> None:
    """Alembic takes ten megabytes of each process, the API's models three and a sixth of a second at start."""
    unneeded = ("alembic", "mako", "dispatcher.api.problems", "dispatcher.service.models")
    code = (
        "import sys; from dispatcher.cli.main import run; code = run(['work', '--until-idle', '--port', '0']);"
        f" print(code, [name for name in {unneeded} if name in sys.modules], sep='; ')"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(sys.path),
        "DISPATCHER_DATABASE_URL": database_url,
        "DISPATCHER_SECRET_KEY": SECRET_KEY,
        "DISPATCHER_LOG_LEVEL": "error",
    }
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "0; []", ended.stderr


async def test_one_process_shows_its_health_and_metrics(started: Started, sqlite_url: str) -> None:
    async with started("work", "--port", "0", database_url=sqlite_url, log_format="json") as process:
        assert (await page(process, "/healthz"))[0] == 200
        status, ready = await page(process, "/readyz")
        assert (status, json.loads(ready)["ready"]) == (200, True)
        assert "dispatcher_in_flight" in (await page(process, "/metrics"))[1]
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_several_processes_are_watched_started_again_and_stopped_together(
    started: Started, postgres_url: str
) -> None:
    settings = {"database_url": postgres_url, "secret_key": SECRET_KEY, "log_format": "json"}
    async with started("work", "--processes", "2", "--port", "0", **settings) as process:
        await process.line('"dispatcher.started"', 2)
        victim = await pid_of(process, 1)
        os.kill(victim, signal.SIGKILL)
        died = json.loads(await process.line("fleet.process_died"))
        assert (died["pid"], died["code"]) == (victim, -signal.SIGKILL)
        await pid_of(process, 3)
        await process.line('"dispatcher.started"', 3)
        status, metrics = await page(process, "/metrics")
        assert status == 200
        assert "dispatcher_in_flight" in metrics
        assert (await page(process, "/readyz"))[0] == 200
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0
        await process.line('"dispatcher.stopped"', 2)


async def test_children_stop_when_their_parent_is_killed(started: Started, postgres_url: str) -> None:
    settings = {"database_url": postgres_url, "secret_key": SECRET_KEY, "log_format": "json"}
    async with started("work", "--processes", "2", **settings) as process:
        await process.line('"dispatcher.started"', 2)
        process.process.kill()
        # The pipe of their output is theirs too: it ends when the last of them has.
        assert await process.end() == -signal.SIGKILL
        await process.line('"dispatcher.stopped"', 2)


async def test_several_processes_end_when_nothing_is_due(started: Started, postgres_url: str) -> None:
    settings = {"database_url": postgres_url, "secret_key": SECRET_KEY, "log_format": "json"}
    async with started("work", "--processes", "2", "--until-idle", **settings) as process:
        assert await process.end() == 0

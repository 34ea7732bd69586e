"""A process that needs more sockets than hosts allow by default asks for them."""

import asyncio
import os
import resource
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator

import pytest

from dispatcher.cli import open_files
from tests.cli.conftest import Process


@pytest.fixture
def few_files() -> Iterator[int]:
    """A soft limit below what is wanted, for this process and those that it starts; gives the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_soft_limit_is_raised_as_far_as_needed_and_no_further(few_files: int) -> None:
    open_files.allow(100)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1000, few_files)
    open_files.allow(1000)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1600, few_files)


@pytest.mark.parametrize(("command", "wanted"), [("serve", 1100 + 300 + 600), ("work", 900 + 600)])
async def test_a_dispatcher_has_room_for_its_connections(
    sqlite_url: str, few_files: int, command: str, wanted: int
) -> None:
    environment = {
        "DISPATCHER_DATABASE_URL": sqlite_url,
        "DISPATCHER_PORT": "0",
        "DISPATCHER_LOG_FORMAT": "json",
        "DISPATCHER_MAX_CONNECTIONS": "1100",
        "DISPATCHER_MAX_IN_FLIGHT": "300" if command == "serve" else "900",
    }
    # Not forked: it has this process's limits.
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dispatcher", command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}, stdout=PIPE, stderr=STDOUT,
        )
    )  # fmt: skip
    try:
        await process.line("dispatcher.started")
        assert resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE) == (wanted, few_files)
    finally:
        process.process.kill()
        await process.end()

"""The fork server: what it starts is a process as any other."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests import fork_client
from tests.fork_server import ForkedProcess, address, end, fork

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "OF_ITS_OWN": "so it is"}


async def said(process: ForkedProcess) -> str:
    assert process.stdout is not None
    return (await process.stdout.read()).decode()


async def test_it_has_an_environment_a_directory_arguments_and_imports_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'found'")
    program = tmp_path / "program.py"
    program.write_text(
        "import beside, os, sys\nprint(dict(os.environ), os.getcwd(), sys.argv, beside.NAME, os.getpid())"
    )
    process = await fork(program, "one", environment=ENVIRONMENT)
    assert await said(process) == f"{ENVIRONMENT} {tmp_path} {[str(program), 'one']} found {process.pid}\n"
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit()", 0, ""),
        ("raise SystemExit('too bad')", 1, "too bad\n"),
        ("import atexit; atexit.register(print, 'bye'); print('hello')", 0, "hello\nbye\n"),
        ("import sys; print(repr(sys.stdin.read()))", 0, "''\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
    ],
)
async def test_it_ends_as_python_ends(code: str, ends: int, says: str) -> None:
    process = await fork("-c", code, environment=ENVIRONMENT)
    assert await said(process) == says
    assert await process.wait() == process.returncode == ends


async def test_an_error_is_told_with_its_traceback() -> None:
    process = await fork("-c", "1 / 0", environment=ENVIRONMENT)
    shown = await said(process)
    assert shown.startswith("Traceback")
    assert shown.endswith("ZeroDivisionError: division by zero\n")
    assert await process.wait() == 1


async def test_it_is_interrupted_stopped_and_killed_by_signals() -> None:
    waits = """
import signal
try:
    print("waits")
    signal.pause()
except KeyboardInterrupt:
    print("asked")
signal.pause()
"""
    process = await fork("-c", waits, environment=ENVIRONMENT)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"waits\n"
    await process.stop()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert await process.stdout.readline() == b"asked\n"
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    process.kill()


async def test_a_program_that_is_no_python_gets_one_by_the_client(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdin.read(), os.environ['OF_ITS_OWN'], os.getcwd()); sys.exit(7)"
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", fork_client.__file__, address(), "-c", code),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
    )
    shown, _ = await client.communicate(b"piped")
    assert shown.decode() == f"piped so it is {tmp_path}\n"
    assert client.returncode == 7


async def test_what_still_runs_when_the_server_ends_is_killed() -> None:
    process = await fork("-c", "import signal; print('waits'); signal.pause()", environment=ENVIRONMENT)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"waits\n"
    end()
    assert await process.stdout.read() == b""
    with pytest.raises(RuntimeError, match="fork server has ended"):
        await process.wait()

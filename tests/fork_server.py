"""Python processes that need not import everything first: forked from one, `python -m tests.fork_server`, that has.

What `dispatcher` imports takes a second or two of a core, and the tests start hundreds of processes. A forked one has a
pid, an environment, a directory, standard streams and an end of its own, as any other; only its imports are behind it.
What is about the start itself, or about what is imported, starts `sys.executable` instead.
"""

import asyncio
import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from tests.fork_client import HEADER, ask

_ROOT = Path(__file__).resolve().parent.parent
#: What processes under test import sooner or later.
_IMPORTED = (
    "dispatcher.cli.main", "dispatcher.cli.serve", "dispatcher.cli.work", "dispatcher.cli.session",
    "dispatcher.cli.schema", "dispatcher.cli.findings", "dispatcher.cli.redelivery", "dispatcher.cli.settings_page",
    "dispatcher.outbox.callbacks", "dispatcher.outbox.job_links", "dispatcher.outbox.publish",
    "dispatcher.rules.verifying", "alembic.command", "uvloop", "asyncpg", "psycopg",
    "sqlalchemy.dialects.sqlite.aiosqlite", "fastapi", "uvicorn",
)  # fmt: skip


class ForkedProcess:
    """A forked process, to be used like one of asyncio's; `stdout` is read where no other was given."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: asyncio.StreamReader | None = None
        self._stopped = asyncio.Event()
        self._writer = writer
        self._watching = asyncio.ensure_future(self._watch(reader))

    async def _watch(self, reader: asyncio.StreamReader) -> int:
        async for line in reader:
            if line == b"stopped\n":
                self._stopped.set()
            else:
                self.returncode = int(line)
        self._writer.close()
        if self.returncode is None:
            raise RuntimeError("the fork server has ended")
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Does nothing to a process that has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGSTOP; it stands still when this returns."""
        self._stopped.clear()
        self.send_signal(signal.SIGSTOP)
        await self._stopped.wait()

    async def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        return await asyncio.shield(self._watching)


async def fork(
    *arguments: str | Path, environment: Mapping[str, str], stdout: int | None = None, stdin: int | None = None
) -> ForkedProcess:
    """Runs `python *arguments` (`-m module …`, `-c code …` or `file …`) in this process's directory.

    Both its outputs are read from its `stdout`. `stdout`, `stdin`: descriptors instead of that and of nothing.
    """
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX)
    theirs = []
    ours = None
    try:
        if stdout is None:
            ours, stdout = os.pipe()
            theirs.append(stdout)
        if stdin is None:
            stdin = os.open(os.devnull, os.O_RDONLY)
            theirs.append(stdin)
        connection.connect(address())
        ask(connection, [str(argument) for argument in arguments], environment, (stdin, stdout, stdout))
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    process = ForkedProcess(int(await reader.readline()), reader, writer)
    if ours is not None:
        process.stdout = asyncio.StreamReader(limit=2**24)
        protocol = asyncio.StreamReaderProtocol(process.stdout)
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(ours, "rb"))
    return process


_servers: list[tuple["subprocess.Popen[bytes]", str]] = []


def address() -> str:
    """Where this process's fork server listens, which is started when the first one asks."""
    if not _servers:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server"],
            cwd=_ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A Ctrl-C is for the tests.
            start_new_session=True,
        )
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        if not address:
            raise RuntimeError("the tests' fork server did not start")
        _servers.append((process, address))
    return _servers[0][1]


def end() -> None:
    """Ends this process's fork server, if it has one."""
    while _servers:
        process, _ = _servers.pop()
        with process:
            pass


class _Asked:
    """What a client wants: a process."""

    def __init__(self, connection: socket.socket) -> None:
        header, self.streams, _, _ = socket.recv_fds(connection, HEADER, 3)
        if len(header) < HEADER:
            raise ConnectionError("a client has left")
        missing = int.from_bytes(header, "big")
        parts = []
        while missing:
            part = connection.recv(missing)
            if not part:
                raise ConnectionError("a client has left")
            parts.append(part)
            missing -= len(part)
        self.arguments, self.environment, self.directory = json.loads(b"".join(parts))

    def close(self) -> None:
        for descriptor in self.streams:
            os.close(descriptor)

    def become(self) -> None:
        """Makes this process the one that was asked for."""
        for number, descriptor in enumerate(self.streams):
            os.dup2(descriptor, number)
        self.close()
        os.environ.clear()
        os.environ.update(self.environment)
        time.tzset()
        os.chdir(self.directory)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
        path = list(filter(None, self.environment.get("PYTHONPATH", "").split(os.pathsep)))
        sys.path[:] = [*path, *(one for one in sys.path if one not in path)]

    def run(self) -> NoReturn:
        """As `python *arguments`, to its end, and without a second of cleaning up what is gone anyway."""
        code = 0
        try:
            self._run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except Exception:  # noqa: BLE001 - told as Python tells of it
            code = 1
            sys.excepthook(*sys.exc_info())
        # As multiprocessing ends what it has forked.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _run(self) -> None:
        if self.arguments[0] == "-m":
            sys.argv[:] = self.arguments[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(self.arguments[1], run_name="__main__", alter_sys=True)
        elif self.arguments[0] == "-c":
            sys.argv[:] = ["-c", *self.arguments[2:]]
            sys.path.insert(0, "")
            exec(self.arguments[1], {"__name__": "__main__"})
        else:
            sys.argv[:] = self.arguments
            sys.path.insert(0, str(Path(self.arguments[0]).parent))
            runpy.run_path(self.arguments[0], run_name="__main__")


class _Server:
    """Forks for whoever connects, and tells them how it ended."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}
        self._bell, bell = socket.socketpair()
        bell.setblocking(False)
        self._bell.setblocking(False)
        self._kept = bell
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> _Asked | None:
        """Returns in each forked process, with what it is for; in the server when its standard input ends."""
        listener, bell, end = self._listener.fileno(), self._bell.fileno(), 0
        while True:
            ready, _, _ = select.select([listener, bell, end], [], [])
            if bell in ready:
                with suppress(BlockingIOError):
                    self._bell.recv(4096)
                self._reap()
            if listener in ready:
                connection, _ = self._listener.accept()
                try:
                    asked = _Asked(connection)
                except ConnectionError:
                    connection.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    self._leave(connection)
                    return asked
                asked.close()
                self._clients[pid] = connection
                self._tell(connection, pid)
            if end in ready and not os.read(end, 1):
                # The tests are over, or were killed: then nobody else ends what they had started.
                for pid in self._clients:
                    os.kill(pid, signal.SIGKILL)
                return None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._tell(self._clients[pid], "stopped")
            else:
                client = self._clients.pop(pid)
                self._tell(client, os.waitstatus_to_exitcode(status))
                client.close()

    @staticmethod
    def _tell(client: socket.socket, what: object) -> None:
        # A client may be gone: a killed test.
        with suppress(OSError):
            client.sendall(f"{what}\n".encode())

    def _leave(self, connection: socket.socket) -> None:
        """Closes in a forked process what is the server's."""
        signal.set_wakeup_fd(-1)
        for one in (self._listener, self._bell, self._kept, connection, *self._clients.values()):
            one.close()


def _serve() -> _Asked | None:
    directory = tempfile.mkdtemp(prefix="dispatcher-forks-")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{directory}/socket")
    listener.listen(64)
    for name in _IMPORTED:
        import_module(name)
    # What all have in common stays in memory once.
    gc.collect()
    gc.freeze()
    print(f"{directory}/socket", flush=True)
    asked = _Server(listener).serve()
    if asked is None:
        shutil.rmtree(directory)
    return asked


if __name__ == "__main__":
    wanted = _serve()
    if wanted is not None:
        wanted.become()
        wanted.run()

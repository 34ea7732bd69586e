"""The demo's processes: each a Python of its own, found by the URL it prints, and ended whatever happens."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dispatcher.demo.screen import CheckFailed

_URL = re.compile(r"Serving on (http://\S+)")
_END_PATIENCE_S = 5.0
_LOOK_EVERY_S = 0.02

_Handler = Callable[[int, FrameType | None], None] | signal.Handlers


@dataclass(frozen=True, slots=True)
class Server:
    """A running server process."""

    name: str
    pid: int
    url: str


@contextmanager
def server(
    name: str, *arguments: str, environment: Mapping[str, str], directory: Path, patience_s: float
) -> Iterator[Server]:
    """Runs `python arguments…` in `directory` meanwhile. Raises `CheckFailed` when it does not serve in time."""
    log = directory / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches the demo alone, which then ends its processes in order.
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, *arguments],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(name, process.pid, _url(name, process, log, patience_s))
    finally:
        with interruptions_ignored():
            _end(process)


def _url(name: str, process: "subprocess.Popen[bytes]", log: Path, patience_s: float) -> str:
    deadline = time.monotonic() + patience_s
    while True:
        ended = process.poll() is not None
        said = log.read_text(errors="replace")
        found = _URL.search(said)
        if found and not ended:
            return found[1]
        if ended or time.monotonic() > deadline:
            raise CheckFailed(f"{name} starts", f"it serves within {patience_s:g} s", said.strip()[-2000:] or "nothing")
        time.sleep(_LOOK_EVERY_S)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Lets SIGTERM and a closed terminal unwind what is inside, as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handled(leave, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def interruptions_ignored() -> Iterator[None]:
    """Lets what is inside come to its end: a second Ctrl-C must not keep the first one from cleaning up."""
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def _handled(handler: _Handler, *numbers: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        # Signals belong to the main thread; its owner ends us in another way.
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)

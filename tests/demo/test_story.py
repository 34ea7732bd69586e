"""The demo as people start it: shows the whole story, fails when a part of it does not happen, leaves nothing."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Long enough for the slowest machine; the demo itself takes seconds.
_PATIENCE_S = 50


def _environment(directory: Path) -> dict[str, str]:
    temporary = directory / "temporary"
    temporary.mkdir()
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1", "TMPDIR": str(temporary)}


@contextmanager
def _demo(directory: Path, *arguments: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, *(arguments or ("-m", "dispatcher", "demo"))],
        env=_environment(directory) | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _pids(shown: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pid (\d+)", shown)]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _assert_nothing_is_left(directory: Path, shown: str) -> None:
    assert len(_pids(shown)) == 3
    assert [pid for pid in _pids(shown) if _lives(pid)] == []
    assert list((directory / "temporary").iterdir()) == []


@dataclass(frozen=True, slots=True)
class Played:
    """A demo that has ended."""

    directory: Path
    code: int
    shown: str


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The demo, started by somebody who has settings of their own."""
    directory = tmp_path_factory.mktemp("demo")
    settings = {"DISPATCHER_DATABASE_URL": f"sqlite:///{directory}/own.db", "DISPATCHER_RETRY_SCHEDULE": "1h"}
    with _demo(directory, **settings) as process:
        shown, _ = process.communicate(timeout=_PATIENCE_S)
    return Played(directory, process.returncode, shown)


def test_the_demo_shows_the_whole_story(played: Played) -> None:
    shown = played.shown
    assert played.code == 0, shown
    steps = re.findall(r"^(\d) (.*)$", shown, re.MULTILINE)
    assert [int(number) for number, _ in steps] == [1, 2, 3, 4, 5, 6, 7]
    for line in (
        r"← 202  \{\"job_id\": \"job_\w+\", \"status\": \"queued\"\}",
        r"job\.started +evt_\w+ +sequence 1  attempt 1  signature ok  answered 500",
        r"job\.started +evt_\w+ +sequence 1  attempt 2  signature ok  answered 200",
        r"\$ dispatcher dead-letters list",
        r"dl_\w+ +exhausted +3 +500 +job\.completed +job_\w+",
        r"\$ dispatcher dead-letters redeliver --all --yes",
        r"job\.completed +evt_\w+ +sequence 4  attempt 4  replay  signature ok  answered 200",
        r"← 409",
        r"20 requests in all, 4 of them answered 500\.",
        r"All of this happened: \d+ checks held",
    ):
        assert re.search(line, shown), f"{line} is not in:\n{shown}"
    assert "✗" not in shown


def test_a_piped_demo_is_plain_text(played: Played) -> None:
    assert "\x1b" not in played.shown


def test_the_demo_leaves_no_process_and_no_file(played: Played) -> None:
    _assert_nothing_is_left(played.directory, played.shown)


def test_no_setting_of_the_user_reaches_the_demo(played: Played) -> None:
    assert played.code == 0
    assert not (played.directory / "own.db").exists()


def test_the_demo_fails_and_says_what_it_saw_when_a_retry_does_not_come(tmp_path: Path) -> None:
    program = "from dispatcher.demo.story import run; raise SystemExit(run(retry_schedule='1h', patience_s=5))"
    with _demo(tmp_path, "-c", program) as process:
        shown, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 1
    assert "✗ the receiver gets 5 requests at /hooks/second" in shown
    assert "expected: 5 within 5 s" in shown
    assert "seen:     1" in shown
    assert "All of this happened" not in shown
    _assert_nothing_is_left(tmp_path, shown)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_ends_its_processes_and_removes_its_files(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with _demo(tmp_path) as process:
        assert process.stdout is not None
        shown = ""
        while "signature ok" not in shown:
            line = process.stdout.readline()
            assert line, f"the demo ended:\n{shown}"
            shown += line
        process.send_signal(number)
        said, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == code, said
    assert "Traceback" not in said
    _assert_nothing_is_left(tmp_path, shown)

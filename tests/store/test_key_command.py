"""The key ring from a command: run without a shell, within a time, and never repeated in an error."""

import base64
import shlex
import signal
import subprocess
import sys
from typing import Any

import pytest

from dispatcher import redaction
from dispatcher.errors import ConfigurationError, InvalidSettings
from dispatcher.settings import load
from dispatcher.store import key_command
from dispatcher.store.deployment import open_deployment
from dispatcher.store.key_command import keys_of

ONE, TWO = b"1" * 32, b"2" * 32
TEXT = f"{base64.b64encode(ONE).decode()}\n{base64.b64encode(TWO).decode()}\n"
#: What ends by a signal only, and by one of its own where nobody sends one.
STAYS = "import signal; signal.alarm(60); signal.pause()"


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def test_what_it_prints_is_the_ring_by_lines_or_commas() -> None:
    assert keys_of(python(f"print({TEXT!r})")) == (ONE, TWO)
    assert keys_of(python(f"print({TEXT.strip().replace(chr(10), ', ')!r})")) == (ONE, TWO)


def test_a_deployment_seals_with_its_first_key(sqlite_url: str) -> None:
    settings = load(database_url=sqlite_url, secret_key_command=python(f"print({TEXT!r})"))
    assert open_deployment(settings).keyring.keys == (ONE, TWO)
    assert TEXT.split()[0] not in repr(settings)


def test_its_keys_are_kept_out_of_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_own", set())
    keys_of(python(f"print({TEXT!r})"))
    assert redaction.redact(f"with {TEXT}") == "with ***\n***\n"


def test_no_shell_reads_it(capfd: pytest.CaptureFixture[str]) -> None:
    shown = python(f"import sys; sys.stderr.write(repr(sys.argv[1:])); print({TEXT!r})")
    assert keys_of(f"{shown} '$HOME' ';' echo '|' cat") == (ONE, TWO)
    assert capfd.readouterr().err == "['$HOME', ';', 'echo', '|', 'cat']"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "names no command"),
        ("'unfinished", "quote it"),
        ("/nowhere/vault read", "cannot be run .*No such file.*no shell"),
        (python("raise SystemExit(3)"), "exit code 3"),
        (python("print('SECRET-but-no-key')"), "is not base64 of 32 bytes"),
        (python("pass"), "holds no key"),
        (python("import sys; sys.stdout.buffer.write(bytes([255]))"), "no text"),
        (python("print('SECRET' * 10000)"), "over 8192 bytes"),
    ],
)
def test_what_goes_wrong_is_said_with_what_to_do_and_without_what_it_printed(command: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"DISPATCHER_SECRET_KEY_COMMAND.*{words}") as refused:
        keys_of(command)
    assert "SECRET" not in str(refused.value).replace("DISPATCHER_SECRET_KEY", "")


def test_one_that_prints_without_end_is_read_no_further_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its time is not what ends it.
    monkeypatch.setattr(key_command, "LIMIT_S", 1000.0)
    began: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            began.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    endless = python(
        "import signal, sys; signal.signal(signal.SIGPIPE, signal.SIG_IGN)\n"
        "while True:\n try: sys.stdout.write('x' * 999)\n except OSError: pass"
    )
    with pytest.raises(ConfigurationError, match="over 8192 bytes"):
        keys_of(endless)
    [ended] = began
    assert ended.returncode == -signal.SIGKILL


def test_one_that_says_nothing_more_and_goes_on_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_command, "LIMIT_S", 0.5)
    with pytest.raises(ConfigurationError, match=r"did not end within 0\.5 s"):
        keys_of(
            python(f"import os, signal; os.write(1, {TEXT!r}.encode()); os.close(1); signal.alarm(60); signal.pause()")
        )


def test_it_is_ended_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_command, "LIMIT_S", 0.05)
    with pytest.raises(ConfigurationError, match=r"did not end within 0\.05 s"):
        keys_of(python(STAYS))


def test_it_stands_in_for_the_keys_and_not_beside_them() -> None:
    with pytest.raises(InvalidSettings, match=r"^DISPATCHER_SECRET_KEY and DISPATCHER_SECRET_KEY_COMMAND are both set"):
        load(secret_key=TEXT.split()[0], secret_key_command="true")

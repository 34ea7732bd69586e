"""The command as a whole: help with examples everywhere, exit codes, errors of one line, a quick start."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from dispatcher.cli.failures import exit_code_of
from dispatcher.cli.main import app
from dispatcher.errors import AlreadyRunning, InvalidField
from tests.cli.conftest import Cli


def commands(command: Any = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command, by the words that call it."""
    command = command or get_command(app)
    found = {path: command}
    for name, child in getattr(command, "commands", {}).items():
        found |= commands(child, (*path, name))
    return found


COMMANDS = commands()
LEAVES = {path: command for path, command in COMMANDS.items() if not hasattr(command, "commands")}
EXAMPLES = [
    line
    for command in COMMANDS.values()
    for line in (command.epilog or "").replace("\\[", "[").split("\n\n")
    if "dispatcher " in line
]


def test_the_contract_s_commands_are_all_there() -> None:
    expected = {
        "demo", "serve", "work", "migrate", "settings", "doctor",
        *(f"endpoints {verb}" for verb in (
            "create", "list", "show", "update", "enable", "disable", "pause", "resume", "rotate-secret", "test",
            "delete", "recover",
        )),
        *(f"events {verb}" for verb in ("publish", "list", "show")),
        *(f"deliveries {verb}" for verb in ("list", "show", "redeliver", "cancel")),
        *(f"dead-letters {verb}" for verb in ("list", "show", "redeliver", "discard")),
        *(f"keys {verb}" for verb in ("create", "list", "revoke")),
    }  # fmt: skip
    assert expected <= {" ".join(path) for path in LEAVES}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(bare_cli: Cli, path: tuple[str, ...]) -> None:
    outcome = bare_cli(*path, "--help")
    assert outcome.code == 0
    assert "Example" in outcome.stdout
    assert any(f"dispatcher {' '.join(path)}" in line for line in LEAVES[path].epilog.split("\n\n"))
    assert LEAVES[path].help


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_understood(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(example[example.index("dispatcher ") :])[1:]
    monkeypatch.chdir(tmp_path)
    for word in words:
        if word.startswith("@"):
            Path(word[1:]).write_text("what the file holds")
    command = get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    with command.make_context("example", words) as context:
        assert context.params is not None


def test_every_command_that_prints_has_json() -> None:
    silent = {("demo",), ("serve",), ("work",)}
    for path, command in LEAVES.items():
        options = {name for parameter in command.params for name in parameter.opts}
        assert ("--json" in options) is (path not in silent), path


def test_the_version_is_printed(bare_cli: Cli) -> None:
    outcome = bare_cli("--version")
    assert outcome.code == 0
    assert outcome.stdout.startswith("dispatcher ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("no-such-command",), "no-such-command"),
        (("endpoints", "list", "--no-such-option"), "--no-such-option"),
        (("endpoints", "list", "--limit", "0"), "--limit"),
        (("endpoints", "list", "--status", "happy"), "--status"),
        (("events", "publish"), "TYPE"),
        (("events", "publish", "job.done"), "--data"),
        (("dead-letters", "list", "--since", "yesterday"), "--since"),
        (("endpoints", "create", "https://example.com/h", "--retry-schedule", "soon"), "--retry-schedule"),
        (("endpoints", "create", "https://example.com/h", "--max-in-flight", "1.5"), "--max-in-flight"),
        (("endpoints", "create", "https://example.com/h", "--headers", "no colon"), "--headers"),
        (("endpoints", "create", "https://example.com/h", "--metadata", "novalue"), "--metadata"),
        (("endpoints", "update", "ep_0123456789abc"), "--timeout-s"),
        (("endpoints", "recover", "ep_0123456789abc"), "--since"),
        (("keys", "create"), "--tenant"),
    ],
)
def test_wrong_use_is_one_line_that_names_it_and_code_2(bare_cli: Cli, arguments: tuple[str, ...], named: str) -> None:
    outcome = bare_cli(*arguments)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert len(outcome.stderr.splitlines()) == 1
    assert outcome.stderr.startswith("error: ")
    assert named in outcome.stderr
    assert "--help" in outcome.stderr


def test_a_group_alone_prints_its_help_and_is_wrong_use(bare_cli: Cli) -> None:
    outcome = bare_cli("endpoints")
    assert outcome.code == 2
    assert "rotate-secret" in outcome.stdout
    assert outcome.stderr == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidField("url", "is no URL"), 2),
        (AlreadyRunning("pid 7"), 1),
        (FileNotFoundError(2, "No such file or directory", "x.key"), 1),
        (KeyboardInterrupt(), 130),
        (typer.Exit(3), 3),
    ],
)
def test_what_is_expected_to_go_wrong_ends_without_a_traceback(error: BaseException, code: int) -> None:
    def fail() -> None:
        raise error

    if isinstance(error, typer.Exit):
        with pytest.raises(typer.Exit):
            exit_code_of(fail)
    else:
        assert exit_code_of(fail) == code


def test_bad_settings_are_told_at_once_in_one_line(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_PORT", "99999")
    monkeypatch.setenv("DISPATCHER_LEASE", "soon")
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "mysql://me@localhost/db")
    outcome = bare_cli("events", "list")
    assert outcome.code == 2
    for name in ("DISPATCHER_PORT", "DISPATCHER_LEASE", "DISPATCHER_DATABASE_URL"):
        assert name in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "work"])
def test_wrong_endpoint_defaults_keep_a_dispatcher_from_starting(
    bare_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("DISPATCHER_ENDPOINT_DEFAULTS", '{"profile": "yaml", "colour": "red"}')
    outcome = bare_cli(command)
    assert outcome.code == 2
    assert "profile" in outcome.stderr
    assert "colour" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_in_a_directory_that_is_not_there_is_refused(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "sqlite:///nowhere/dispatcher.db")
    outcome = bare_cli("events", "list")
    assert outcome.code == 1
    assert "there is no directory" in outcome.stderr


def test_help_needs_none_of_the_heavy_packages() -> None:
    heavy = ("sqlalchemy", "pydantic", "aiohttp", "alembic", "cryptography", "structlog", "prometheus_client")
    code = f"import sys, dispatcher.cli.main; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "[]"


def test_a_terminal_that_knows_only_ascii_gets_a_table_all_the_same(sqlite_url: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "DISPATCHER_DATABASE_URL": sqlite_url}
    for arguments in (("endpoints", "create", "https://example.com/hook"), ("endpoints", "list")):
        ended = subprocess.run(
            [sys.executable, "-m", "dispatcher", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
        assert "https://example.com/hook" in ended.stdout

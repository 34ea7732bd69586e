"""`dispatcher migrate`: looked at without a trace, run, and asked for where a schema is old."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_looking_at_a_missing_database_is_code_1_and_makes_no_file(bare_cli: Cli, tmp_path: Path) -> None:
    outcome = bare_cli("migrate", "--check")
    assert outcome.code == 1
    assert "dispatcher migrate" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_pending_is_named_then_run_once(
    bare_cli: Cli, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", empty_database_url)
    (tmp_path / "dispatcher.db").touch()
    look = bare_cli("migrate", "--check", "--json")
    assert look.code == 1
    assert look.json["pending"][0].startswith("0001")
    assert bare_cli("migrate", "--json").json["applied"] == look.json["pending"]
    again = bare_cli("migrate", "--check")
    assert again.code == 0
    assert again.stdout == "The schema is up to date.\n"


def test_on_postgresql_an_old_schema_is_refused_and_the_command_named(
    bare_cli: Cli, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", empty_postgres_url)
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")
    for command in (("events", "list"), ("serve", "--port", "0"), ("work",), ("work", "--processes", "2")):
        outcome = bare_cli(*command)
        assert outcome.code == 1, command
        assert "dispatcher migrate" in outcome.stderr


def test_a_file_that_is_no_database_is_told_without_a_traceback(bare_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "dispatcher.db").write_text("no database at all, just some text that is long enough to be one" * 20)
    outcome = bare_cli("events", "list")
    assert outcome.code == 1
    assert len(outcome.stderr.splitlines()) == 1
    assert "not a database" in outcome.stderr

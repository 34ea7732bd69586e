"""`dispatcher dead-letters`: the admin's script, on deliveries that a real dispatcher has given up."""

import io
import shutil
import sys
from pathlib import Path

import pytest

from dispatcher.cli.main import run
from tests.cli.conftest import Cli
from tests.process import process_as_before

#: Nobody listens there.
REFUSING = "http://127.0.0.1:1024/hook"


@pytest.fixture(scope="module")
def given_up(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose database has an endpoint with three dead letters, two of them of job_1."""
    directory = tmp_path_factory.mktemp("given_up")
    shutil.copy(sqlite_template, directory / "dispatcher.db")
    with pytest.MonkeyPatch.context() as patch, process_as_before():
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        patch.setenv("DISPATCHER_DATABASE_URL", f"sqlite:///{directory}/dispatcher.db")
        patch.setenv("DISPATCHER_ALLOW_HTTP", "true")
        patch.setenv("DISPATCHER_ALLOW_NETWORKS", "127.0.0.0/8")
        assert run(["endpoints", "create", REFUSING, "--retry-schedule", "", "--no-ordered"]) == 0
        for job_id in ("job_1", "job_1", "job_2"):
            assert run(["events", "publish", "job.completed", "--job-id", job_id, "--data", "{}"]) == 0
        assert run(["work", "--until-idle"]) == 0
    return directory


@pytest.fixture
def endpoint_id(cli: Cli, given_up: Path, tmp_path: Path) -> str:
    """The endpoint, on a copy of that database."""
    shutil.copytree(given_up, tmp_path, dirs_exist_ok=True)
    return str(cli("endpoints", "list", "--json").json["data"][0]["id"])


def letters(cli: Cli, *filters: str) -> list[str]:
    return [letter["id"] for letter in cli("dead-letters", "list", "--json", *filters).json["data"]]


def test_they_are_listed_and_filtered(cli: Cli, endpoint_id: str) -> None:
    assert len(letters(cli)) == 3
    assert len(letters(cli, "--job-id", "job_1")) == 2
    assert len(letters(cli, "--endpoint-id", endpoint_id, "--reason", "exhausted", "--type", "job.completed")) == 3
    assert letters(cli, "--reason", "gone") == []
    assert letters(cli, "--until", "1h") == []
    table = cli("dead-letters", "list").stdout
    assert all(letter in table.split() for letter in letters(cli))


def test_one_is_shown(cli: Cli, endpoint_id: str) -> None:
    first = letters(cli)[0]
    shown = cli("dead-letters", "show", first, "--json").json
    assert shown["endpoint_id"] == endpoint_id
    assert shown["last_error"] == "connection_refused"
    assert "connection_refused" in cli("dead-letters", "show", first).stdout


def test_a_dry_run_counts_and_changes_nothing(cli: Cli, endpoint_id: str) -> None:
    outcome = cli("dead-letters", "redeliver", "--endpoint-id", endpoint_id, "--since", "2h", "--dry-run", "--json")
    assert outcome.code == 0
    assert outcome.json == {"id": None, "matched": 3, "dry_run": True}
    assert len(letters(cli, "--no-redelivered")) == 3
    counted = cli("dead-letters", "redeliver", "--endpoint-id", endpoint_id, "--since", "2h", "--dry-run")
    assert counted.stdout == "3 would be redelivered.\n"


def test_redelivering_everything_makes_a_run_that_a_dispatcher_works_off(cli: Cli, endpoint_id: str) -> None:
    outcome = cli("dead-letters", "redeliver", "--all", "--yes", "--rate-per-s", "50")
    assert outcome.code == 0
    assert "3 are redelivered by run rdl_" in outcome.stdout
    assert "No dispatcher is running" in outcome.stderr
    run_id = outcome.stdout.split()[-1].rstrip(".")
    run = cli("dead-letters", "redelivery", run_id, "--json").json
    assert (run["state"], run["matched"], run["rate_per_s"]) == ("running", 3, 50.0)


def test_a_run_can_be_cancelled(cli: Cli, endpoint_id: str) -> None:
    run_id = cli("dead-letters", "redeliver", "--all", "--yes", "--json").json["id"]
    assert cli("dead-letters", "cancel-redelivery", run_id, "--json").json["state"] == "cancelled"


def test_named_ones_are_redelivered_without_a_question(cli: Cli, endpoint_id: str) -> None:
    chosen = letters(cli)[:2]
    assert cli("dead-letters", "redeliver", *chosen, "--dry-run", "--json").json["matched"] == 2
    assert cli("dead-letters", "redeliver", "--ids", chosen[0], "--ids", chosen[1], "--json").json["matched"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("redeliver", "--all"),
        ("redeliver", "--reason", "exhausted"),
        ("discard", "--all"),
        ("discard", "dl_0000000000001"),
    ],
)
def test_bulk_wants_yes_where_nobody_can_be_asked(cli: Cli, endpoint_id: str, arguments: tuple[str, ...]) -> None:
    outcome = cli("dead-letters", *arguments)
    assert outcome.code == 2
    assert "--yes" in outcome.stderr
    assert len(letters(cli, "--no-redelivered")) == 3


@pytest.mark.parametrize("verb", ["redeliver", "discard"])
def test_without_a_filter_all_must_be_said(cli: Cli, verb: str) -> None:
    outcome = cli("dead-letters", verb, "--yes")
    assert outcome.code == 2
    assert "all" in outcome.stderr


def test_discarded_ones_are_gone(cli: Cli, endpoint_id: str) -> None:
    assert cli("dead-letters", "discard", "--job-id", "job_1", "--dry-run", "--json").json["matched"] == 2
    assert len(letters(cli)) == 3
    assert cli("dead-letters", "discard", "--job-id", "job_1", "--yes").stdout == "2 are discarded.\n"
    assert len(letters(cli)) == 1


def test_a_terminal_is_asked_with_the_count_and_no_means_nothing(
    cli: Cli, endpoint_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.cli.confirmation.on_a_terminal", lambda: True)
    outcome = cli("dead-letters", "discard", "--all", stdin=b"n\n")
    assert outcome.code == 1
    assert "Discard 3 dead letters for good?" in outcome.stderr
    assert len(letters(cli)) == 3
    assert cli("dead-letters", "discard", "--all", stdin=b"y\n").code == 0
    assert letters(cli) == []


def test_deliveries_are_shown_redelivered_and_cancelled(cli: Cli, endpoint_id: str) -> None:
    dead = cli("deliveries", "list", "--state", "dead", "--endpoint-id", endpoint_id, "--json").json["data"]
    assert len(dead) == 3
    delivery_id = dead[0]["id"]
    shown = cli("deliveries", "show", delivery_id)
    assert "connection_refused" in shown.stdout
    assert cli("deliveries", "show", delivery_id, "--json").json["attempt_log"][0]["number"] == 1
    assert cli("deliveries", "redeliver", delivery_id, "--json").json["state"] == "pending"
    cancelled = cli("deliveries", "cancel", delivery_id, "--json").json
    assert (cancelled["state"], cancelled["reason"]) == ("cancelled", "operator")
    again = cli("deliveries", "cancel", delivery_id)
    assert again.code == 1
    assert len(again.stderr.splitlines()) == 1

"""`dispatcher doctor`: all well is code 0; what is wrong is named, with what to do."""

import pytest

from tests.cli.conftest import Cli


def test_a_working_deployment_is_code_0(cli: Cli) -> None:
    cli("endpoints", "create", "https://example.com/hook")
    outcome = cli("doctor", "--json")
    assert all(finding["ok"] for finding in outcome.json), outcome.json
    assert outcome.code == 0
    assert "FAILED" not in cli("doctor").stdout


def test_a_key_that_does_not_fit_is_found_and_code_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("endpoints", "create", "https://example.com/hook")
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")
    outcome = cli("doctor", "--json")
    assert outcome.code == 1
    wrong = [finding for finding in outcome.json if not finding["ok"]]
    assert wrong
    assert all(finding["remedy"] for finding in wrong)
    assert "FAILED" in cli("doctor").stdout


def test_settings_that_cannot_be_read_are_a_finding(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_PORT", "many")
    outcome = bare_cli("doctor", "--json")
    assert outcome.code == 1
    assert [finding["check"] for finding in outcome.json] == ["settings"]
    assert "DISPATCHER_PORT" in outcome.json[0]["detail"]

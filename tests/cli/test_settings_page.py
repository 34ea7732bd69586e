"""`dispatcher settings`: all of them, with help, and no secret."""

import json

import pytest

from dispatcher.settings import Settings, environment_name
from tests.cli.conftest import Cli


def test_every_setting_is_printed_with_default_unit_and_help(bare_cli: Cli) -> None:
    rows = {row["name"]: row for row in bare_cli("settings", "--json").json}
    assert rows.keys() == {environment_name(name) for name in Settings.model_fields}
    assert rows["DISPATCHER_LEASE"]["default"] == "10s"
    assert rows["DISPATCHER_LEASE"]["unit"] == "duration"
    assert rows["DISPATCHER_MAX_PAYLOAD"]["default"] == "256KiB"
    assert rows["DISPATCHER_RETRY_SCHEDULE"]["default"] == "5s,5m,30m,2h,5h,10h,14h,20h,24h"
    assert all(row["help"] and row["unit"] for row in rows.values())
    numbers = {
        environment_name(name) for name, field in Settings.model_fields.items() if field.annotation in (int, float)
    }
    assert not {name for name in numbers if rows[name]["unit"] == "text"}
    table = bare_cli("settings").stdout
    assert all(name in table for name in rows)


def test_no_secret_is_printed(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_ADMIN_KEY", "hidden-admin-key")
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "postgresql://me:hidden-word@localhost/db")
    monkeypatch.setenv("DISPATCHER_ENDPOINT_DEFAULTS", json.dumps({"headers": {"X-Key": "hidden-value"}}))
    for arguments in ((), ("--json",), ("--markdown",)):
        said = bare_cli("settings", *arguments).stdout
        assert "hidden" not in said
        assert "QUFB" not in said


def test_wrong_settings_do_not_keep_the_list_from_being_printed(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_PORT", "many")
    outcome = bare_cli("settings")
    assert outcome.code == 2
    assert "DISPATCHER_LEASE" in outcome.stdout
    assert "DISPATCHER_PORT" in outcome.stderr


def test_the_documentation_s_page_has_a_row_for_each(bare_cli: Cli) -> None:
    page = bare_cli("settings", "--markdown").stdout
    assert page.startswith("# Settings")
    for name in Settings.model_fields:
        assert page.count(f"| `{environment_name(name)}` |") == 1

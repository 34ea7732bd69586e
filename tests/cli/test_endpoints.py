"""`dispatcher endpoints`: the contract's line, a whole life, and what never shows."""

import json
from pathlib import Path

import pytest

from dispatcher.states import Profile
from tests.cli.conftest import Cli
from tests.transport.certificates import Authority

URL = "https://example.com/hook"


def made(cli: Cli, *arguments: str) -> str:
    outcome = cli("endpoints", "create", URL, "--json", *arguments)
    assert outcome.code == 0, outcome.stderr
    return str(outcome.json["id"])


def test_the_contract_s_line_works_as_written(bare_cli: Cli) -> None:
    outcome = bare_cli(
        *("endpoints", "create", "https://example.com/hook"),
        *("--event-types", "job.*", "--secret", "s3cret-text", "--json"),
    )
    assert outcome.code == 0
    endpoint = outcome.json
    assert endpoint["id"].startswith("ep_")
    assert endpoint["url"] == URL
    assert endpoint["event_types"] == ["job.*"]
    assert endpoint["secret"] == "s3cret-text"
    assert endpoint["tenant"] == "default"


def test_a_first_command_says_that_it_makes_a_database(bare_cli: Cli) -> None:
    assert "Making a new database" in bare_cli("endpoints", "list").stderr
    assert "Making" not in bare_cli("endpoints", "list").stderr


@pytest.mark.parametrize("profile", Profile)
def test_every_profile_can_be_chosen(cli: Cli, profile: Profile) -> None:
    assert cli("endpoints", "create", URL, "--json", "--profile", profile).json["profile"] == profile


def test_every_field_has_an_option_of_its_name(cli: Cli) -> None:
    endpoint = cli(
        *("endpoints", "create", URL, "--json", "--tenant", "acme", "--description", "a note"),
        *("--event-types", "job.completed", "--event-types", "step.*", "--profile", "flat", "--no-ordered"),
        *("--order-hold-s", "null", "--progress-interval-s", "2.5", "--heartbeat-s", "60"),
        *("--signatures", "v1", "--signatures", "v1a"),
        *("--signature-header", "X-Agent-Signature", "--signature-prefix", "sha256="),
        *("--headers", "X-Team: ai", "--headers", "X-Colon: a:b", "--rate-limit", "2.5", "--max-in-flight", "7"),
        *("--retry-schedule", "5s,5m,2h", "--timeout-s", "3", "--metadata", "a=1", "--metadata", "b=x=y"),
    ).json
    expected = {
        "tenant": "acme",
        "description": "a note",
        "event_types": ["job.completed", "step.*"],
        "profile": "flat",
        "ordered": False,
        "order_hold_s": None,
        "progress_interval_s": 2.5,
        "heartbeat_s": 60.0,
        "signatures": ["v1", "v1a"],
        "signature_header": "X-Agent-Signature",
        "signature_prefix": "sha256=",
        "headers": {"X-Team": "***", "X-Colon": "***"},
        "rate_limit": 2.5,
        "max_in_flight": 7,
        "retry_schedule": [5.0, 300.0, 7200.0],
        "timeout_s": 3.0,
        "metadata": {"a": "1", "b": "x=y"},
    }
    assert {name: endpoint[name] for name in expected} == expected


def test_an_update_changes_what_is_given_and_null_takes_away(cli: Cli) -> None:
    endpoint_id = made(cli, "--timeout-s", "3", "--retry-schedule", "", "--description", "a note")
    assert cli("endpoints", "show", endpoint_id, "--json").json["retry_schedule"] == []
    changed = cli(
        *("endpoints", "update", endpoint_id, "--json"),
        *("--timeout-s", "null", "--retry-schedule", "null", "--event-types", "a.b"),
    ).json
    assert changed["timeout_s"] is None
    assert changed["retry_schedule"] is None
    assert changed["event_types"] == ["a.b"]
    assert changed["description"] == "a note"


def test_a_life_from_pause_to_deletion(cli: Cli) -> None:
    endpoint_id = made(cli)
    for verb, status in (("pause", "paused"), ("resume", "enabled"), ("disable", "disabled"), ("enable", "enabled")):
        assert cli("endpoints", verb, endpoint_id, "--json").json["status"] == status
    assert cli("endpoints", "delete", endpoint_id, "--yes").code == 0
    gone = cli("endpoints", "show", endpoint_id)
    assert gone.code == 1
    assert endpoint_id in gone.stderr


def test_a_made_secret_is_shown_once_with_a_hint(cli: Cli) -> None:
    outcome = cli("endpoints", "create", URL)
    secret = next(line for line in outcome.stdout.splitlines() if line.startswith("secret: ")).split()[1]
    assert secret.startswith("whsec_")
    assert "not shown again" in outcome.stderr
    for words in (("list",), ("list", "--json")):
        assert secret not in cli("endpoints", *words).stdout


def test_a_rotated_secret_is_shown(cli: Cli) -> None:
    endpoint_id = made(cli)
    rotated = cli("endpoints", "rotate-secret", endpoint_id, "--secret", "n3w-s3cret", "--overlap-s", "0", "--json")
    assert rotated.json["secret"] == "n3w-s3cret"


def test_what_has_names_is_shown_with_them(cli: Cli) -> None:
    endpoint_id = made(cli, "--metadata", "team=billing", "--headers", "X-Team: ai")
    shown = cli("endpoints", "show", endpoint_id).stdout
    assert "team=billing" in shown
    assert "X-Team=***" in shown


def test_a_tenants_texts_do_nothing_to_the_operators_terminal(cli: Cli) -> None:
    endpoint_id = made(cli, "--description", "a\x1b]0;owned\x07\u202eb", "--metadata", "team=\x1b[2J")
    for words in (("show", endpoint_id), ("list",)):
        shown = cli("endpoints", *words).stdout
        assert endpoint_id in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "a�]0;owned��b" in cli("endpoints", "show", endpoint_id).stdout


def test_a_table_shows_ids_whole(cli: Cli) -> None:
    endpoint_id = made(cli, "--event-types", "a.very.long.type.of.an.event", "--event-types", "another.one.of.them")
    assert endpoint_id in cli("endpoints", "list").stdout.split()


def test_a_list_goes_on_at_its_cursor(cli: Cli) -> None:
    ids = [made(cli) for _ in range(3)]
    first = cli("endpoints", "list", "--limit", "2", "--json").json
    rest = cli("endpoints", "list", "--limit", "2", "--cursor", first["next_cursor"], "--json").json
    assert [endpoint["id"] for endpoint in first["data"] + rest["data"]] == ids[::-1]
    assert first["next_cursor"] in cli("endpoints", "list", "--limit", "2").stderr


def test_tenants_are_kept_apart_on_request(cli: Cli) -> None:
    made(cli, "--tenant", "acme")
    mine = made(cli, "--tenant", "mine")
    assert [endpoint["id"] for endpoint in cli("endpoints", "list", "--tenant", "mine", "--json").json["data"]] == [
        mine
    ]
    assert len(cli("endpoints", "list", "--json").json["data"]) == 2
    assert cli("endpoints", "show", mine, "--tenant", "acme").code == 1


def test_a_job_s_callback_is_registered_once(cli: Cli) -> None:
    first = cli("endpoints", "create", URL, "--job-id", "job_1", "--json").json
    again = cli("endpoints", "create", URL, "--job-id", "job_1", "--json").json
    assert first["job_id"] == "job_1"
    assert (again["id"], again["secret"]) == (first["id"], first["secret"])


def test_the_same_idempotency_key_is_the_same_endpoint(cli: Cli) -> None:
    assert made(cli, "--idempotency-key", "k1") == made(cli, "--idempotency-key", "k1")
    other = cli("endpoints", "create", "https://example.com/other", "--idempotency-key", "k1")
    assert other.code == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("http://example.com/hook",), "url"),
        (("ftp://example.com/hook",), "url"),
        ((URL, "--secret", "short"), "secret"),
        ((URL, "--event-types", "not a type"), "event_types"),
        ((URL, "--headers", "Host: example.org"), "headers"),
        ((URL, "--timeout-s", "0"), "timeout_s"),
        ((URL, "--rate-limit", "nan"), "rate_limit"),
    ],
)
def test_a_wrong_field_is_named_and_code_2(cli: Cli, arguments: tuple[str, ...], field: str) -> None:
    outcome = cli("endpoints", "create", *arguments)
    assert outcome.code == 2
    assert field in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert cli("endpoints", "list", "--json").json["data"] == []


@pytest.mark.parametrize(
    "arguments", [("endpoints", "delete", "{id}"), ("endpoints", "recover", "{id}", "--since", "2h")]
)
def test_what_destroys_or_sends_much_wants_yes_where_nobody_can_be_asked(cli: Cli, arguments: tuple[str, ...]) -> None:
    endpoint_id = made(cli)
    outcome = cli(*(argument.format(id=endpoint_id) for argument in arguments))
    assert outcome.code == 2
    assert "--yes" in outcome.stderr
    assert cli("endpoints", "show", endpoint_id).code == 0


def test_recover_starts_a_run(cli: Cli) -> None:
    endpoint_id = made(cli)
    run = cli("endpoints", "recover", endpoint_id, "--since", "2h", "--yes", "--json").json
    assert run["id"].startswith("rdl_")
    assert run["matched"] == 0


def test_a_test_event_that_is_not_taken_is_told_and_code_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint_id = made(cli)
    # Refused by the guard or unknown to the resolver: either way it arrives nowhere.
    cli("endpoints", "update", endpoint_id, "--url", "https://nobody.invalid/hook")
    outcome = cli("endpoints", "test", endpoint_id, "--json")
    assert outcome.code == 1
    assert outcome.json["delivered"] is False
    assert outcome.json["error"] in ("dns", "blocked", "connect_timeout", "timeout")


def test_credentials_come_from_files_and_are_never_printed(cli: Cli, tmp_path: Path) -> None:
    certificate, key = Authority.make(tmp_path / "authority").client("us")
    oauth2 = {"token_url": "https://auth.example.com/token", "client_id": "c", "client_secret": "s3cret-of-ours"}
    for name, content in (("client.pem", certificate), ("key.pem", key), ("oauth2.json", json.dumps(oauth2))):
        (tmp_path / name).write_text(content)
    files = ("--client-certificate", "@client.pem", "--client-key", "@key.pem", "--oauth2", "@oauth2.json")
    endpoint_id = made(cli, *files)
    for words in (("show", endpoint_id), ("show", endpoint_id, "--json"), ("list", "--json")):
        shown = cli("endpoints", *words).stdout
        assert "CN=us" in shown
        assert "https://auth.example.com/token" in shown
        assert "s3cret-of-ours" not in shown
        assert key.splitlines()[1] not in shown
    gone = cli("endpoints", "update", endpoint_id, "--client-certificate", "null", "--oauth2", "null", "--json").json
    assert (gone["client_certificate"], gone["oauth2"]) == (None, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--client-key", "@nowhere.pem"), ("--oauth2", "s3cret-of-ours"), ("--oauth2", '["s3cret-of-ours"]')],
)
def test_credentials_that_cannot_be_read_are_wrong_use(cli: Cli, option: str, value: str) -> None:
    outcome = cli("endpoints", "create", URL, option, value)
    assert outcome.code == 2
    assert option in outcome.stderr
    assert "s3cret-of-ours" not in outcome.stderr


def test_a_challenge_that_is_not_repeated_is_told_and_code_1(cli: Cli) -> None:
    endpoint_id = made(cli)
    cli("endpoints", "update", endpoint_id, "--url", "https://nobody.invalid/hook")
    outcome = cli("endpoints", "verify", endpoint_id, "--json")
    assert outcome.code == 1
    assert (outcome.json["verified"], outcome.json["verified_at"], outcome.json["status"]) == (False, None, None)


def test_an_endpoint_that_must_prove_it_is_paused_and_says_what_to_do(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "challenge" not in cli("endpoints", "create", URL).stderr
    monkeypatch.setenv("DISPATCHER_VERIFY_ENDPOINTS", "true")
    told = cli("endpoints", "create", URL)
    assert "dispatcher endpoints verify ep_" in told.stderr
    endpoint_id = made(cli)
    shown = cli("endpoints", "show", endpoint_id, "--json").json
    assert (shown["status"], shown["verified_at"]) == ("paused", None)
    outcome = cli("endpoints", "resume", endpoint_id)
    assert outcome.code == 1
    assert "endpoints verify" in outcome.stderr

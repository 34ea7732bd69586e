"""`dispatcher tenants`: the secret of all that have none of their own, and what a tenant may use."""

from tests.cli.conftest import Cli

URL = "https://example.com/hook"


def test_what_is_made_without_a_secret_signs_with_the_tenants(cli: Cli) -> None:
    made = cli("tenants", "set-secret", "acme", "--secret", "s3cret-text", "--json")
    assert made.json == {"tenant": "acme", "secret": "s3cret-text"}
    assert cli("endpoints", "create", URL, "--tenant", "acme", "--json").json["secret"] == "s3cret-text"
    assert cli("jobs", "callback", "job_1", URL, "--tenant", "acme", "--json").json["secret"] == "s3cret-text"
    assert cli("endpoints", "create", URL, "--json").json["secret"] != "s3cret-text"


def test_one_is_made_and_people_are_told_to_keep_it(cli: Cli) -> None:
    outcome = cli("tenants", "set-secret", "acme", "--overlap-s", "0")
    assert outcome.code == 0
    assert "secret: whsec_" in outcome.stdout
    assert "not shown again" in outcome.stderr


def test_a_secret_that_is_too_short_is_code_2(cli: Cli) -> None:
    outcome = cli("tenants", "set-secret", "acme", "--secret", "short")
    assert outcome.code == 2
    assert "secret" in outcome.stderr


def test_a_quota_is_set_field_by_field_and_taken_back(cli: Cli) -> None:
    assert cli("tenants", "show", "acme", "--json").json["own"] == []
    cli("tenants", "set-quota", "acme", "--max-endpoints", "100", "--events-per-s", "2.5")
    shown = cli("tenants", "set-quota", "acme", "--max-payload", "64KiB", "--max-endpoints", "null", "--json").json
    assert (shown["max_endpoints"], shown["events_per_s"], shown["max_payload"]) == (None, 2.5, 65536)
    assert shown["own"] == ["events_per_s", "max_payload"]
    assert "events_per_s" in cli("tenants", "show", "acme").stdout


def test_a_quota_that_is_none_is_code_2(cli: Cli) -> None:
    for wrong in (
        ("--max-payload", "much"),
        ("--events-per-s", "0"),
        ("--max-endpoints", "-1"),
        ("--verify-endpoints", "yes"),
    ):
        assert cli("tenants", "set-quota", "acme", *wrong).code == 2


def test_a_tenant_must_prove_its_endpoints_or_not_or_as_the_settings_say(cli: Cli) -> None:
    for given, holds, status in (("true", True, "paused"), ("false", False, "enabled"), ("null", False, "enabled")):
        shown = cli("tenants", "set-quota", "acme", "--verify-endpoints", given, "--json").json
        assert shown["verify_endpoints"] is holds
        assert cli("endpoints", "create", URL, "--tenant", "acme", "--json").json["status"] == status
    assert cli("tenants", "show", "acme", "--json").json["own"] == []

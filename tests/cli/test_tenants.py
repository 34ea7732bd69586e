"""`dispatcher tenants set-secret`: the secret of all that have none of their own."""

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

"""`dispatcher keys`: made, listed without the key, revoked."""

from tests.cli.conftest import Cli


def test_a_key_is_shown_once(cli: Cli) -> None:
    made = cli("keys", "create", "--tenant", "acme", "--json").json
    assert made["key"].startswith("whk_")
    assert made["tenant"] == "acme"
    listed = cli("keys", "list", "--json")
    assert [key["id"] for key in listed.json["data"]] == [made["id"]]
    assert made["key"] not in listed.stdout
    assert made["key"] not in cli("keys", "list").stdout


def test_people_are_told_to_keep_it(cli: Cli) -> None:
    outcome = cli("keys", "create", "--tenant", "acme")
    assert "key: whk_" in outcome.stdout
    assert "not shown again" in outcome.stderr


def test_a_revoked_key_says_since_when(cli: Cli) -> None:
    key_id = cli("keys", "create", "--tenant", "acme", "--json").json["id"]
    assert cli("keys", "revoke", key_id).code == 0
    assert cli("keys", "list", "--json").json["data"][0]["revoked_at"] is not None


def test_an_unknown_key_is_code_1(cli: Cli) -> None:
    outcome = cli("keys", "revoke", "key_0000000000001")
    assert outcome.code == 1
    assert "key" in outcome.stderr

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


def test_a_key_may_do_what_it_is_made_for_and_says_so_in_the_list(cli: Cli) -> None:
    made = cli("keys", "create", "--tenant", "acme", "--scopes", "publish", "--scopes", "read", "--json").json
    assert made["scopes"] == ["publish", "read"]
    of_none = cli("keys", "create", "--scopes", "admin", "--expires-in-s", "3600", "--json").json
    assert (of_none["tenant"], of_none["scopes"]) == (None, ["admin"])
    assert of_none["expires_at"] > of_none["created_at"]
    listed = cli("keys", "list").stdout
    for shown in ("publish, read", "(every tenant)", "LAST USED", "EXPIRES"):
        assert shown in listed


def test_a_key_of_no_tenant_names_its_scopes(cli: Cli) -> None:
    for wrong in (
        (),
        ("--tenant", "acme", "--scopes", "admin"),
        ("--tenant", "acme", "--scopes", "root"),
        ("--tenant", "acme", "--expires-at", "2020-01-01T00:00:00Z"),
        ("--tenant", "acme", "--expires-at", "tomorrow"),
    ):
        outcome = cli("keys", "create", *wrong)
        assert outcome.code == 2, wrong
        assert outcome.stderr.startswith("error:")


def test_a_scope_that_there_is_not_is_told_those_that_there_are(cli: Cli) -> None:
    outcome = cli("keys", "create", "--tenant", "acme", "--scopes", "publish,read")
    assert outcome.code == 2
    assert "'--scopes': 'publish,read' is not one of 'publish'" in outcome.stderr

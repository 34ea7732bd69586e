"""`dispatcher endpoints rotate-secret --stage`, `activate-secret`, `public-keys`, and `keys rotate-encryption`."""

import base64

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def endpoint_id(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DISPATCHER_ALLOW_HTTP", "true")
    outcome = cli("endpoints", "create", "https://example.com/hook", "--json")
    assert outcome.code == 0, outcome.stderr
    return str(outcome.json["id"])


def test_a_secret_is_staged_and_what_comes_next_is_said(cli: Cli, endpoint_id: str) -> None:
    assert cli("endpoints", "activate-secret", endpoint_id).code == 1
    outcome = cli("endpoints", "rotate-secret", endpoint_id, "--stage")
    assert "secret: whsec_" in outcome.stdout
    assert f"dispatcher endpoints activate-secret {endpoint_id}" in outcome.stderr
    assert cli("endpoints", "show", endpoint_id, "--json").json["secret_staged_at"]
    activated = cli("endpoints", "activate-secret", endpoint_id, "--force", "--json")
    assert (activated.code, activated.json["secret_staged_at"]) == (0, None)
    assert "secret" not in activated.json


def test_a_secret_whose_key_is_lost_is_replaced_only_without_overlap(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", old)
    endpoint_id = cli("endpoints", "create", "https://example.com/hook", "--json").json["id"]
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", new)
    for more in ((), ("--stage",)):
        refused = cli("endpoints", "rotate-secret", endpoint_id, *more)
        assert (refused.code, refused.stdout) == (1, "")
        assert "DISPATCHER_SECRET_KEY, or rotate with `overlap_s` 0 to do without the old secret" in refused.stderr
    assert "secret: whsec_" in cli("endpoints", "rotate-secret", endpoint_id, "--overlap-s", "0").stdout


def test_public_keys_are_listed_once_v1a_is_chosen(cli: Cli, endpoint_id: str) -> None:
    outcome = cli("endpoints", "public-keys", endpoint_id)
    assert f"endpoints update {endpoint_id} --signatures v1 --signatures v1a" in outcome.stderr
    assert cli("endpoints", "update", endpoint_id, "--signatures", "v1a").code == 2
    assert cli("endpoints", "update", endpoint_id, "--signatures", "v1", "--signatures", "v1a").code == 0
    [key] = cli("endpoints", "public-keys", endpoint_id, "--json").json["data"]
    assert key["public_key"].startswith("whpk_")
    assert key["public_key"] in cli("endpoints", "public-keys", endpoint_id).stdout


def test_what_is_encrypted_follows_a_new_key_and_the_old_one_can_go(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", old)
    for _ in range(2):
        assert cli("endpoints", "create", "https://example.com/hook").code == 0
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", f"{new},{old}")
    done = cli("keys", "rotate-encryption", "--json")
    assert done.code == 0
    assert (done.json["total"], done.json["rewrapped"], done.json["remaining"]) == (4, 4, 0)
    again = cli("keys", "rotate-encryption")
    assert "Older keys can be taken out" in again.stderr
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", new)
    assert "opens what is stored" in cli("doctor").stdout
    monkeypatch.setenv("DISPATCHER_SECRET_KEY", base64.b64encode(b"x" * 32).decode())
    lost = cli("keys", "rotate-encryption")
    assert lost.code == 1
    assert "4 values are under keys that are not in DISPATCHER_SECRET_KEY" in lost.stderr

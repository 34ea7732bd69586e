"""The signature vectors of the documentation: this code's signer and verifier, and a library that nobody here wrote."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook, WebhookVerificationError

from dispatcher.errors import VerificationError
from dispatcher.rules.key_pairs import PUBLIC_PREFIX, PublicKey, SigningKeys, seed_of
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import signature_header
from dispatcher.rules.verifying import verify
from tests.docs.pages import ROOT

VECTORS: list[dict[str, Any]] = json.loads((ROOT / "docs" / "signature-vectors.json").read_text())
SYMMETRIC = [vector for vector in VECTORS if vector["secret"].startswith("whsec_")]


def named(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=lambda vector: vector["name"])


def sent_at(vector: dict[str, Any]) -> int:
    return int(vector["headers"]["webhook-timestamp"])


@named(VECTORS)
def test_our_verifier_says_what_the_vector_says(vector: dict[str, Any]) -> None:
    body, headers, secret = vector["body"].encode(), vector["headers"], vector["secret"]
    if vector["verifies"]:
        verify(body, headers, secret, now=sent_at(vector))
    else:
        with pytest.raises(VerificationError, match=f"^{vector['error']}: "):
            verify(body, headers, secret, now=sent_at(vector))


@named([vector for vector in VECTORS if vector["verifies"]])
def test_our_signer_makes_the_vectors_token(vector: dict[str, Any]) -> None:
    private_keys, keys = [], []
    if "private_key" in vector:
        seed = seed_of(vector["private_key"])
        assert SigningKeys(Secret("unused"), seed).public_key.text == vector["secret"]
        private_keys = [Ed25519PrivateKey.from_private_bytes(seed)]
    else:
        keys = [Secret.parse(vector["secret"]).key]
    headers, body = vector["headers"], vector["body"].encode()
    made = signature_header(keys, headers["webhook-id"], sent_at(vector), body, private_keys)
    assert made in headers["webhook-signature"].split()


@named(SYMMETRIC)
def test_the_published_library_says_the_same(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = Webhook(vector["secret"])
    # It tolerates five minutes from now on; what is compared here is its signature.
    moment = datetime.fromtimestamp(sent_at(vector), UTC)
    monkeypatch.setattr(webhook, "_Webhook__verify_timestamp", lambda header: moment)
    if vector["verifies"]:
        assert webhook.verify(vector["body"], vector["headers"]) == json.loads(vector["body"])
    else:
        with pytest.raises(WebhookVerificationError):
            webhook.verify(vector["body"], vector["headers"])


def test_the_vectors_cover_both_versions_and_both_verdicts() -> None:
    assert {(v["secret"].startswith(PUBLIC_PREFIX), v["verifies"]) for v in VECTORS} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }


@pytest.mark.parametrize(
    "public_key",
    ["whpk_", "whpk_AAAA", "whpk_-_-_", "whpk_" + "A" * 43, "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4"],
)
def test_a_public_key_that_is_none_is_named(public_key: str) -> None:
    with pytest.raises(VerificationError, match=r"^secret: .*whpk_"):
        verify(b"{}", VECTORS[1]["headers"], public_key)


def test_32_bytes_that_are_no_point_of_the_curve_verify_nothing() -> None:
    nowhere = PublicKey(b"\xff" * 32)
    assert not nowhere.verifies(b"\x00" * 64, b"")
    with pytest.raises(VerificationError, match="no signature matches"):
        verify(VECTORS[1]["body"], VECTORS[1]["headers"], nowhere.text, now=sent_at(VECTORS[1]))


@pytest.mark.parametrize("token", ["v1a,", "v1a,AAAA", "v1a,\udcffü", "v1a,%%%"])
def test_a_token_that_is_no_signature_verifies_nothing(token: str) -> None:
    headers = {**VECTORS[1]["headers"], "webhook-signature": token}
    with pytest.raises(VerificationError, match="no signature matches"):
        verify(VECTORS[1]["body"], headers, VECTORS[1]["secret"], now=sent_at(VECTORS[1]))


def test_a_public_key_without_a_v1a_token_is_told_so_and_beside_a_secret_either_will_do() -> None:
    v1, v1a = VECTORS[0], VECTORS[1]
    with pytest.raises(VerificationError, match="has no v1a token"):
        verify(v1["body"], v1["headers"], v1a["secret"], now=sent_at(v1))
    for vector in (v1, v1a):
        verify(vector["body"], vector["headers"], [v1["secret"], v1a["secret"]], now=sent_at(vector))


def test_a_public_key_does_not_verify_a_header_of_your_own() -> None:
    with pytest.raises(VerificationError, match=r"^secret: X-Sig is an HMAC"):
        verify(b"{}", {"X-Sig": "00"}, VECTORS[1]["secret"], header="X-Sig")


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    # Appendix A.3 of RFC 8037.
    published = PublicKey(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
    assert published.jwk_x == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert published.thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_what_is_beside_a_secret_is_never_derived_from_it_and_reads_back() -> None:
    secret = Secret("s3cret-text")
    one, other = SigningKeys.beside(secret), SigningKeys.beside(secret)
    assert one.seed != other.seed
    assert SigningKeys.read(one.text) == one
    assert "s3cret" not in repr(one)

"""The receiver's verifier: accepts what we send, refuses everything else, and says what is wrong."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from dispatcher.errors import VerificationError
from dispatcher.rules.key_pairs import PublicKey, SigningKeys
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import legacy_signature, signature_header, signed_bytes
from dispatcher.rules.verifying import MOST_TOKENS, verify
from dispatcher.store.signing_secrets import MOST_SIGNING

SECRET = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
TEXT = Secret("s3cret-text")
NOW = 1_700_000_000
BODY = b'{"type":"job.completed","data":{"n":1.10,"\xc3\xbc":[1,2]}}'


def signed(body: bytes = BODY, *secrets: Secret, at: int = NOW) -> dict[str, str]:
    return {
        "Webhook-Id": "evt_1",
        "Webhook-Timestamp": str(at),
        "Webhook-Signature": signature_header([secret.key for secret in secrets or (SECRET,)], "evt_1", at, body),
    }


@given(st.binary(max_size=200), st.sampled_from([SECRET, TEXT]))
def test_what_we_sign_verifies(body: bytes, secret: Secret) -> None:
    verify(body, signed(body, secret), secret.text, now=NOW)


def test_the_published_vector_verifies() -> None:
    verify(
        '{"test": 2432232314}',
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        SECRET.text,
        now=1614265330,
    )


@pytest.mark.parametrize("convert", [dict, CIMultiDict, lambda h: {n.upper(): v for n, v in h.items()}])
def test_header_names_are_found_in_any_case(convert: Any) -> None:
    verify(BODY, convert(signed()), SECRET.text, now=NOW)


def test_several_secrets_and_several_tokens_and_unknown_versions_are_fine() -> None:
    headers = signed(BODY, TEXT, SECRET)
    headers["Webhook-Signature"] = f"v1a,AAAA v2,zzz junk {headers['Webhook-Signature']}"

    verify(BODY, headers, SECRET.text, now=NOW)
    verify(BODY, signed(BODY, TEXT), [SECRET.text, TEXT.text], now=NOW)


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_header_is_named(name: str, value: str | None) -> None:
    headers = signed()
    del headers[name]
    if value is not None:
        headers[name] = value

    with pytest.raises(VerificationError, match=f"^{name.lower()}: .*missing"):
        verify(BODY, headers, SECRET.text, now=NOW)


@pytest.mark.parametrize("skew_s", [-300, 0, 300])
def test_a_timestamp_within_the_tolerance_passes(skew_s: int) -> None:
    verify(BODY, signed(at=NOW + skew_s), SECRET.text, now=NOW)


@pytest.mark.parametrize(("skew_s", "side"), [(-301, "too old"), (301, "too new"), (-(10**9), "too old")])
def test_a_timestamp_outside_it_names_the_clock(skew_s: int, side: str) -> None:
    with pytest.raises(VerificationError, match=rf"^webhook-timestamp: .*{side}.*clock"):
        verify(BODY, signed(at=NOW + skew_s), SECRET.text, now=NOW)


def test_the_tolerance_and_the_present_are_the_receivers_choice() -> None:
    verify(BODY, signed(at=NOW - 900), SECRET.text, now=NOW, tolerance_s=1000)
    with pytest.raises(VerificationError, match="too old"):
        verify(BODY, signed(at=NOW), SECRET.text)


@pytest.mark.parametrize("text", ["soon", "1e9", "-5", "1700000000.5", "٣", "9" * 20, " 1700000000"])
def test_a_timestamp_that_is_no_integer_is_named(text: str) -> None:
    with pytest.raises(VerificationError, match=r"^webhook-timestamp: is no integer"):
        verify(BODY, {**signed(), "Webhook-Timestamp": text}, SECRET.text, now=NOW)


def test_of_a_header_full_of_tokens_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = SigningKeys.beside(SECRET)
    looked_at: list[bytes] = []
    checks = PublicKey.verifies

    def counting(key: PublicKey, signature: bytes, content: bytes) -> bool:
        looked_at.append(signature)
        return checks(key, signature, content)

    monkeypatch.setattr(PublicKey, "verifies", counting)
    headers, wrong = signed(b"no JSON"), "v1a," + base64.b64encode(bytes(64)).decode()
    right = f"v1a,{base64.b64encode(keys.private_key.sign(signed_bytes('evt_1', NOW, b'no JSON'))).decode()}"
    headers["Webhook-Signature"] = " ".join([wrong] * 11_000)
    assert len(headers["Webhook-Signature"]) > 1_000_000
    with pytest.raises(VerificationError, match="no signature matches"):
        verify(b"no JSON", headers, keys.public_key.text, now=NOW)
    assert len(looked_at) == MOST_TOKENS
    for before, holds in ((MOST_TOKENS - 1, True), (MOST_TOKENS, False)):
        headers["Webhook-Signature"] = " ".join([*[wrong] * before, right, wrong])
        assert _holds(b"no JSON", headers, keys.public_key.text) is holds
        headers["Webhook-Signature"] = " ".join([*["v1,AAAA"] * before, signed(b"no JSON")["Webhook-Signature"]])
        assert _holds(b"no JSON", headers, SECRET.text) is holds
    # Whatever we sign is looked at.
    assert 2 * MOST_SIGNING <= MOST_TOKENS


def _holds(body: bytes, headers: Mapping[str, str], secret: str) -> bool:
    try:
        verify(body, headers, secret, now=NOW)
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize("value", ["v1a,AAAA", "g0hM9SsE", "V1,AAAA", ","])
def test_a_signature_without_a_v1_token_is_named(value: str) -> None:
    with pytest.raises(VerificationError, match=r"^webhook-signature: has no v1 token"):
        verify(BODY, {**signed(), "Webhook-Signature": value}, SECRET.text, now=NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"Webhook-Id": "evt_2"},
        {"Webhook-Timestamp": str(NOW + 1)},
        {"Webhook-Signature": "v1,AAAA"},
        {"Webhook-Signature": "v1,"},
        {"Webhook-Signature": "v1,\udcff\u2028ü"},
    ],
)
def test_anything_changed_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(VerificationError, match=r"^webhook-signature: no signature matches.*raw body"):
        verify(BODY, {**signed(), **changed}, SECRET.text, now=NOW)


def test_a_wrong_secret_and_a_changed_body_are_refused() -> None:
    with pytest.raises(VerificationError, match="secret"):
        verify(BODY, signed(), Secret.generate().text, now=NOW)
    with pytest.raises(VerificationError, match="secret"):
        verify(BODY.replace(b"1.10", b"1.11"), signed(), SECRET.text, now=NOW)


def test_a_body_that_was_written_anew_is_recognised_and_still_refused() -> None:
    original = b'{"n":1,"t":"\xc3\xbc"}'
    for rewritten in (json.dumps(json.loads(original)), json.dumps(json.loads(original), indent=2)):
        with pytest.raises(VerificationError, match="written anew on its way"):
            verify(rewritten, signed(original), SECRET.text, now=NOW)


@pytest.mark.parametrize("body", [{"a": 1}, None, 5, "half \ud800"])
def test_a_body_that_is_not_raw_is_named(body: Any) -> None:
    with pytest.raises(VerificationError, match=r"^body: "):
        verify(body, signed(), SECRET.text, now=NOW)


@pytest.mark.parametrize("secret", ["", [], None, "short", "whsec_bad"])
def test_an_unset_or_unreadable_secret_never_verifies_anything(secret: Any) -> None:
    with pytest.raises(VerificationError, match=r"^secret: "):
        verify(BODY, signed(BODY, Secret("")), secret, now=NOW)


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
@given(value=st.text(max_size=20))
def test_no_header_makes_it_raise_anything_else(name: str, value: str) -> None:
    headers = signed()
    if headers[name] == value:
        return
    with pytest.raises(VerificationError):
        verify(BODY, {**headers, name: value}, SECRET.text, now=NOW)


@pytest.mark.parametrize("prefix", ["", "sha256="])
@pytest.mark.parametrize("secret", [TEXT, SECRET])
def test_the_legacy_header_verifies_with_and_without_its_prefix(prefix: str, secret: Secret) -> None:
    headers = {"x-agent-signature": legacy_signature(secret.text_key, BODY, prefix)}

    verify(BODY, headers, secret.text, header="X-Agent-Signature")


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "missing"),
        ({"X-Agent-Signature": "sha256="}, "no signature matches"),
        ({"X-Agent-Signature": "0" * 64}, "no signature matches"),
        ({"X-Agent-Signature": "\udcffü"}, "no signature matches"),
        (signed(BODY, TEXT), "missing"),
    ],
)
def test_a_wrong_legacy_header_is_refused_by_name(headers: Mapping[str, str], words: str) -> None:
    with pytest.raises(VerificationError, match=f"^X-Agent-Signature: .*{words}"):
        verify(BODY, headers, TEXT.text, header="X-Agent-Signature")

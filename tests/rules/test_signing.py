"""Signatures, against the published vector and three published libraries that nobody here wrote."""

import hashlib
import hmac
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from standardwebhooks import Webhook, WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook

from dispatcher.rules.json_text import encode
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import legacy_signature, signature_header

VECTOR = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
OTHER = Secret.generate()
BODIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.just("\u2028"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
).map(lambda value: encode(value).encode())


def headers(body: bytes, *secrets: Secret, timestamp: int | None = None) -> dict[str, str]:
    sent_at = int(time.time()) if timestamp is None else timestamp
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(sent_at),
        "webhook-signature": signature_header([secret.key for secret in secrets], "msg_1", sent_at, body),
    }


def test_the_published_vector() -> None:
    assert (
        signature_header([VECTOR.key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@given(body=BODIES)
def test_any_body_verifies_with_the_published_libraries(body: bytes) -> None:
    sent = headers(body, VECTOR)

    Webhook(VECTOR.text).verify(body, sent)
    SvixWebhook(VECTOR.text).verify(body, sent)


def test_it_verifies_with_openais_verifier() -> None:
    body = b'{"type":"job.completed","data":{"n":1.10,"t":"\xe2\x80\xa8"}}'
    webhooks = OpenAI(api_key="x", webhook_secret=VECTOR.text).webhooks

    webhooks.verify_signature(body, headers(body, VECTOR))


def test_the_libraries_refuse_another_key_another_body_and_an_old_timestamp() -> None:
    body = b'{"a":1}'

    for bad_body, sent in [
        (body, headers(body, OTHER)),
        (body + b" ", headers(body, VECTOR)),
        (body, headers(body, VECTOR, timestamp=int(time.time()) - 301)),
    ]:
        with pytest.raises(WebhookVerificationError):
            Webhook(VECTOR.text).verify(bad_body, sent)


def test_there_is_one_token_per_key_newest_first_joined_by_one_space() -> None:
    newest, old = Secret.generate(), Secret.generate()

    both = signature_header([newest.key, old.key], "msg_1", 1, b"{}")

    assert re.fullmatch(r"v1,[A-Za-z0-9+/]{43}= v1,[A-Za-z0-9+/]{43}=", both)
    assert both.split(" ") == [signature_header([key], "msg_1", 1, b"{}") for key in (newest.key, old.key)]
    assert re.fullmatch(r"v1,[A-Za-z0-9+/]{43}=", signature_header([newest.key], "msg_1", 1, b"{}"))


def test_during_a_rotation_either_secret_verifies() -> None:
    sent = headers(b"{}", OTHER, VECTOR)

    Webhook(VECTOR.text).verify(b"{}", sent)
    Webhook(OTHER.text).verify(b"{}", sent)


@pytest.mark.parametrize("prefix", ["", "sha256="])
@pytest.mark.parametrize("text", ["agentx-secret-23-chars-", VECTOR.text])
def test_the_legacy_value_is_lower_case_hex_keyed_with_the_whole_text(text: str, prefix: str) -> None:
    body = '{"t":"ü"}'.encode()

    value = legacy_signature(Secret(text).text_key, body, prefix)

    assert value == prefix + hmac.new(text.encode(), body, hashlib.sha256).hexdigest()
    assert value.removeprefix(prefix) == value.removeprefix(prefix).lower()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_digest_is_the_standard_librarys_whatever_the_keys_length(key: bytes, body: bytes) -> None:
    assert legacy_signature(key, body, "") == hmac.digest(key, body, "sha256").hex()
    assert legacy_signature(key, body + b".", "") == hmac.digest(key, body + b".", "sha256").hex()

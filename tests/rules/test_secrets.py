"""Secrets: both readings of a text, what is accepted, and that nothing shows them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from dispatcher.errors import InvalidField
from dispatcher.rules.secrets import Secret


def whsec(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def test_a_generated_secret_is_32_random_bytes_in_padded_base64() -> None:
    secret, other = Secret.generate(), Secret.generate()

    assert secret.text.startswith("whsec_")
    assert len(secret.key) == 32
    assert secret.key != other.key
    assert whsec(secret.key) == secret.text
    assert Secret.parse(secret.text) == secret


@given(st.binary(min_size=24, max_size=64))
def test_a_whsec_secret_has_the_key_that_the_published_library_reads(key: bytes) -> None:
    secret = Secret.parse(whsec(key))

    assert secret.key == key
    assert secret.text_key == secret.text.encode()
    assert Webhook(secret.text)._whsecret == key


@pytest.mark.parametrize(
    "text", ["s3cret-text", "exactly8", "x" * 256, "pass phrase with spaces", "schlüssel", "whse_c1234"]
)
def test_any_other_text_is_its_own_key(text: str) -> None:
    secret = Secret.parse(text)

    assert secret.text == text
    assert secret.key == secret.text_key == text.encode()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "8 to 256"),
        ("short12", "8 to 256"),
        ("x" * 257, "8 to 256"),
        (" leading-space", "white space"),
        ("trailing-newline\n", "white space"),
        ("with\x00null-byte", "control"),
        ("with\ttabulator", "control"),
        ("half\ud800character", "control"),
        ("whsec_", "0 bytes"),
        (whsec(b"x" * 23), "23 bytes"),
        (whsec(b"x" * 65), "65 bytes"),
        (whsec(b"x" * 32).rstrip("="), "base64"),
        ("whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), "base64"),
        (whsec(b"x" * 32) + "\n", "base64"),
        ("whsec_not base64 at all!", "base64"),
        ("whsec_ünïcödé", "base64"),
        ("whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=", "ed25519"),
        ("whpk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=", "ed25519"),
    ],
)
def test_a_bad_secret_is_refused_with_the_remedy_and_without_being_repeated(text: str, remedy: str) -> None:
    with pytest.raises(InvalidField, match=remedy) as refused:
        Secret.parse(text)
    assert refused.value.field == "secret"
    assert len(text) < 8 or text not in str(refused.value)


def test_a_secret_never_shows_itself() -> None:
    secret = Secret.parse("s3cret-text")

    assert "s3cret" not in repr(secret)
    assert "s3cret" not in str(secret)
    assert "s3cret" not in f"{[secret]}"

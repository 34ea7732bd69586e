"""Signing secrets: the text a receiver pastes, and the two readings of it that receivers have."""

import base64
import secrets
import unicodedata
from dataclasses import dataclass

from dispatcher.errors import InvalidField

SYMMETRIC_PREFIX = "whsec_"

_ASYMMETRIC_PREFIXES = ("whsk_", "whpk_")
_FEWEST_BYTES, _MOST_BYTES = 24, 64
_FEWEST_CHARACTERS, _MOST_CHARACTERS = 8, 256
_UNPASTEABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A signing secret; its text is what a receiver pastes, and never shows in a representation."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Secret":
        """The secret that a caller gave. Raises `InvalidField`, whose message never repeats it."""
        if text.startswith(_ASYMMETRIC_PREFIXES):
            raise InvalidField(
                "secret",
                "whsk_ and whpk_ are ed25519 keys, and an endpoint whose `signatures` have v1a makes its own;"
                " give whsec_… or text",
            )
        if text.startswith(SYMMETRIC_PREFIX):
            _check_symmetric(text.removeprefix(SYMMETRIC_PREFIX))
        else:
            _check_text(text)
        return cls(text)

    @classmethod
    def generate(cls) -> "Secret":
        """A fresh secret of 32 random bytes, as `whsec_…`."""
        return cls(SYMMETRIC_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())

    @property
    def key(self) -> bytes:
        """The HMAC key of Standard Webhooks: the bytes behind `whsec_`, or the UTF-8 bytes of any other text."""
        if self.text.startswith(SYMMETRIC_PREFIX):
            return base64.b64decode(self.text.removeprefix(SYMMETRIC_PREFIX), validate=True)
        return self.text.encode()

    @property
    def text_key(self) -> bytes:
        """The HMAC key of hand-written receivers: the UTF-8 bytes of the whole text."""
        return self.text.encode()

    def __repr__(self) -> str:
        return "Secret(***)"


def _check_symmetric(encoded: str) -> None:
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise InvalidField(
            "secret",
            "what follows whsec_ is not standard base64: A–Z a–z 0–9 + / (not - _), padded with = to a multiple of 4;"
            " for a secret that is plain text choose one that does not begin with whsec_",
        ) from None
    if not _FEWEST_BYTES <= len(key) <= _MOST_BYTES:
        raise InvalidField(
            "secret",
            f"whsec_ is followed by {len(key)} bytes, and must be by {_FEWEST_BYTES} to {_MOST_BYTES};"
            " make one with: echo whsec_$(openssl rand -base64 32)",
        )


def _check_text(text: str) -> None:
    if not _FEWEST_CHARACTERS <= len(text) <= _MOST_CHARACTERS:
        raise InvalidField(
            "secret",
            f"has {len(text)} characters, and must have {_FEWEST_CHARACTERS} to {_MOST_CHARACTERS}"
            " (or be whsec_ and base64; leave it out to get one made)",
        )
    if text != text.strip():
        raise InvalidField("secret", "begins or ends with white space, which gets lost in pasting; remove it")
    if any(unicodedata.category(character) in _UNPASTEABLE for character in text):
        raise InvalidField("secret", "contains a control character or half a character; use printable characters")

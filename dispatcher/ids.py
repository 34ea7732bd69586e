"""Opaque public ids: a prefix that says what the thing is, and a scrambled row number.

Only events carry their id as text, since producers and receivers choose and keep it; everything else
has an integer key, and its public id is that integer under a fixed bijection, so hot indexes stay narrow.
"""

import hashlib
import re
import secrets
from enum import StrEnum

from dispatcher.errors import NotFound

EVENT_ID = re.compile(r"^[A-Za-z0-9_-]{1,128}\Z")

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_DIGITS = {character: value for value, character in enumerate(_ALPHABET)}
_LENGTH = 13
_MASK = (1 << 64) - 1
_FACTOR = 0x9E3779B97F4A7C15
#: Two digits at once: ids are on every line of the log.
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_INVERSE = pow(_FACTOR, -1, 1 << 64)


class Kind(StrEnum):
    """The things whose public id is a scrambled row number."""

    ENDPOINT = "ep"
    DELIVERY = "dlv"
    ATTEMPT = "att"
    DEAD_LETTER = "dl"
    REDELIVERY = "rdl"
    KEY = "key"


def public_id(kind: Kind, row_id: int) -> str:
    """The public id of a row."""
    scrambled = ((row_id ^ (row_id >> 32)) * _FACTOR) & _MASK
    return (
        f"{kind}_{_ALPHABET[scrambled >> 60]}{_PAIRS[scrambled >> 50 & 1023]}{_PAIRS[scrambled >> 40 & 1023]}"
        f"{_PAIRS[scrambled >> 30 & 1023]}{_PAIRS[scrambled >> 20 & 1023]}{_PAIRS[scrambled >> 10 & 1023]}"
        f"{_PAIRS[scrambled & 1023]}"
    )


def row_id(kind: Kind, identifier: str) -> int:
    """The row number behind a public id. Raises `NotFound` for what cannot be one."""
    prefix, _, digits = identifier.partition("_")
    if prefix != kind.value or len(digits) != _LENGTH or any(digit not in _DIGITS for digit in digits):
        raise NotFound(f"no such id: {identifier[:80]!r}; ids of this kind look like {kind.value}_…")
    scrambled = 0
    for digit in digits:
        scrambled = (scrambled << 5) | _DIGITS[digit]
    number = (scrambled * _INVERSE) & _MASK
    number ^= number >> 32
    if scrambled > _MASK or number >= 1 << 63:
        raise NotFound(f"no such id: {identifier!r}")
    return number


def new_event_id() -> str:
    """A fresh event id: 128 random bits."""
    return f"evt_{secrets.token_hex(16)}"


def event_id_for_key(tenant: str, idempotency_key: str) -> str:
    """The event id that an idempotency key stands for: 128 bits of SHA-256 over tenant and key."""
    digest = hashlib.sha256(f"{len(tenant)}:{tenant}:{idempotency_key}".encode()).hexdigest()
    return f"evt_{digest[:32]}"

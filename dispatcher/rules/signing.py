"""Signatures: computed over exactly the bytes that are sent, for the second at which they are sent."""

import hashlib
from binascii import b2a_base64
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A receiver that only verifies loads no more than it needs.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Keys that are kept prepared.
_PREPARED = 4096
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def signature_header(
    keys: Sequence[bytes],
    message_id: str,
    timestamp: int,
    body: bytes,
    private_keys: Sequence["Ed25519PrivateKey"] = (),
) -> str:
    """The value of `webhook-signature`: one `v1` token per key, then one `v1a` token per private key.

    In the keys' order (newest first). `timestamp`: Unix seconds, as in `webhook-timestamp`.
    """
    signed = signed_bytes(message_id, timestamp, body)
    tokens = ["v1," + _in_base64(_hmac(key, signed)) for key in keys]
    if private_keys:
        tokens += ["v1a," + _in_base64(key.sign(signed)) for key in private_keys]
    return " ".join(tokens)


def signed_bytes(message_id: str, timestamp: int, body: bytes) -> bytes:
    """What is signed: id, timestamp and body, joined by dots."""
    return b"%b.%d.%b" % (message_id.encode(), timestamp, body)


def legacy_signature(text_key: bytes, body: bytes, prefix: str) -> str:
    """The value of an additional, older header: lower-case hex HMAC-SHA256 of the body alone, after the prefix."""
    return prefix + _hmac(text_key, body).hex()


def _hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104): `hmac.digest` looks the algorithm up and begins with the key each time, which costs more
    than a short message's hash.
    """
    inner, outer = _begun(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(maxsize=_PREPARED)
def _begun(key: bytes) -> "tuple[hashlib._Hash, hashlib._Hash]":
    """The two hashes of an HMAC, each begun with its block of the key."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))


def _in_base64(value: bytes) -> str:
    return b2a_base64(value, newline=False).decode()

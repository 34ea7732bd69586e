"""Signatures: computed over exactly the bytes that are sent, for the second at which they are sent."""

import base64
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A receiver that only verifies loads no more than it needs.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


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
    tokens = ["v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    if private_keys:
        tokens += ["v1a," + base64.b64encode(key.sign(signed)).decode() for key in private_keys]
    return " ".join(tokens)


def signed_bytes(message_id: str, timestamp: int, body: bytes) -> bytes:
    """What is signed: id, timestamp and body, joined by dots."""
    return b"%b.%d.%b" % (message_id.encode(), timestamp, body)


def legacy_signature(text_key: bytes, body: bytes, prefix: str) -> str:
    """The value of an additional, older header: lower-case hex HMAC-SHA256 of the body alone, after the prefix."""
    return prefix + hmac.digest(text_key, body, "sha256").hex()

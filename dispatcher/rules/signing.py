"""Signatures: computed over exactly the bytes that are sent, for the second at which they are sent."""

import base64
import hmac
from collections.abc import Sequence


def signature_header(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1` token per key, in the keys' order (newest first).

    `timestamp`: Unix seconds, as in `webhook-timestamp`.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)


def legacy_signature(text_key: bytes, body: bytes, prefix: str) -> str:
    """The value of an additional, older header: lower-case hex HMAC-SHA256 of the body alone, after the prefix."""
    return prefix + hmac.digest(text_key, body, "sha256").hex()

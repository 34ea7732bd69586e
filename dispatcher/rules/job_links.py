"""A job's link: a token that opens one job's events until it expires, for whoever was given it.

It says whose job it is and until when, and a MAC over that; nothing is stored. The MAC's key follows from a key of
the deployment's key ring, so that a link tells nothing about the key that encrypts secrets.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

import msgspec

from dispatcher.errors import InvalidField
from dispatcher.rules.derived_keys import derived_key

#: What every token begins with: it tells a link from an API key.
PREFIX = "job_"
#: How long a link holds when nobody says, and at most, in seconds.
DEFAULT_S = 3600.0
LONGEST_S = 7 * 86400.0
#: A tenant and a job id of the greatest length, and what surrounds them.
LONGEST_TOKEN = 4096

_MAC_BYTES = sha256().digest_size


@dataclass(frozen=True, slots=True)
class JobLink:
    """What a token that verifies says."""

    tenant: str
    job_id: str
    expires_at: datetime


class _Content(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    tenant: str
    job_id: str
    expires_s: int


def issue(keys: Sequence[bytes], tenant: str, job_id: str, expires_at: datetime) -> str:
    """A token for one job, signed with the first key; it holds until `expires_at`, to the second."""
    content = msgspec.json.encode(_Content(tenant, job_id, int(expires_at.timestamp())))
    return PREFIX + base64.urlsafe_b64encode(_mac(keys[0], content) + content).rstrip(b"=").decode()


def read(keys: Sequence[bytes], token: str) -> JobLink | None:
    """What the token says, if it was signed with any of the keys; null for anything else. Expiry is the caller's."""
    if not token.startswith(PREFIX) or len(token) > LONGEST_TOKEN:
        return None
    encoded = token.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    mac, content = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not any(hmac.compare_digest(_mac(key, content), mac) for key in keys):
        return None
    said = msgspec.json.decode(content, type=_Content)
    return JobLink(said.tenant, said.job_id, datetime.fromtimestamp(said.expires_s, UTC))


def check_expires_in(field: str, seconds: float) -> float:
    """The time that a link may hold. Raises `InvalidField`."""
    if not 1 <= seconds <= LONGEST_S:
        raise InvalidField(field, f"must be 1 second to {LONGEST_S / 86400:g} days; ask for a new link after that")
    return seconds


def path_of(job_id: str, token: str) -> str:
    """Where the link leads, below the address of the API."""
    return f"/v1/jobs/{quote(job_id, safe='')}/events?token={token}"


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(derived_key(key, "job link"), content, "sha256")

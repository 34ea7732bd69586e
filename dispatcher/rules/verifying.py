"""The receiver's side of a signature: verifies a webhook that came in, and says what is wrong when it does not hold.

What a receiver does next with an event of a job: apply it if its `sequence` is higher than the last it applied;
it has missed something if `x-job-previous` is higher than that.
"""

import base64
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dispatcher.errors import InvalidField, VerificationError
from dispatcher.rules.json_text import compact
from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import legacy_signature, signature_header, signed_bytes

if TYPE_CHECKING:
    from dispatcher.rules.key_pairs import PublicKey

#: So many tokens of a signature header are looked at: each may cost a check, and nobody knows yet who sent it. A sender
#: puts in two per secret that signs.
MOST_TOKENS = 64

_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_NO_MATCH = (
    "no signature matches; usual causes: another endpoint's or an old secret, or a body that was parsed and written"
    " anew (sign the raw body, not re-serialised JSON)"
)


def verify(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    header: str | None = None,
    tolerance_s: float = 300,
    now: float | None = None,
) -> None:
    """Returns if the webhook was signed with the secret (or one of several); raises `VerificationError` otherwise.

    A secret may also be an endpoint's public key, `whpk_…`, which verifies its `v1a` signatures. `body` is the raw body
    as received. Without `header`: Standard Webhooks, `tolerance_s` either side of `now` (Unix seconds, by default the
    present); of the tokens in `webhook-signature` the first 64 are looked at. With `header`, like
    `"X-Agent-Signature"`: the hex HMAC-SHA256 of the body in that header, with or without `sha256=`, keyed with the
    secret's text; it carries no time, so a recorded request passes again.

    A 2xx says "I have it": answer it once the event is stored. Events may come twice (same `webhook-id`) and, after a
    redelivery, late: apply an event if its `sequence` is higher than the last applied; you missed something if
    `x-job-previous` is, and read it with `GET /v1/jobs/{job_id}/events?after=` and the last applied.
    """
    if not isinstance(body, bytes | str):
        raise VerificationError(
            f"body: is a {type(body).__name__}; give the raw body as bytes, before any framework parses it"
        )
    try:
        raw = body.encode() if isinstance(body, str) else body
    except UnicodeEncodeError:
        raise VerificationError("body: is no valid text; give the raw body as bytes") from None
    known = _known(secret)
    received = {name.lower(): value for name, value in headers.items()}
    if header is not None:
        _verify_legacy(raw, received, known, header)
        return
    message_id = _needed(received, "webhook-id")
    if not message_id.isascii():
        raise VerificationError("webhook-id: is not ASCII, so this is no webhook of ours")
    timestamp = _timestamp(_needed(received, "webhook-timestamp"), tolerance_s, time.time() if now is None else now)
    signatures = _needed(received, "webhook-signature").split(maxsplit=MOST_TOKENS)[:MOST_TOKENS]
    tokens = [_ascii(token) for token in signatures if token.startswith("v1,") and known.secrets]
    signed = [_signature(token) for token in signatures if token.startswith("v1a,") and known.public_keys]
    if not tokens and not signed:
        version = "v1" if known.secrets else "v1a"
        raise VerificationError(f"webhook-signature: has no {version} token; expected `{version},` and base64")

    def holds(candidate: bytes) -> bool:
        keys = [secret.key for secret in known.secrets]
        expected = signature_header(keys, message_id, timestamp, candidate).encode().split()
        if _any_equal(expected, tokens):
            return True
        content = signed_bytes(message_id, timestamp, candidate)
        return any(key.verifies(signature, content) for key in known.public_keys for signature in signed)

    if not holds(raw):
        raise VerificationError(f"webhook-signature: {_why(raw, holds)}")


def _verify_legacy(raw: bytes, received: Mapping[str, str], known: "_Known", header: str) -> None:
    if not known.secrets:
        raise VerificationError(f"secret: {header} is an HMAC, which no public key verifies; give the secret")
    token = _needed(received, header.lower(), shown=header).strip().lower().removeprefix("sha256=")

    def holds(candidate: bytes) -> bool:
        return _any_equal(
            [legacy_signature(key.text_key, candidate, "").encode() for key in known.secrets], [_ascii(token)]
        )

    if not holds(raw):
        raise VerificationError(f"{header}: {_why(raw, holds)}")


@dataclass(frozen=True, slots=True, repr=False)
class _Known:
    secrets: tuple[Secret, ...]
    public_keys: tuple["PublicKey", ...]


def _known(secret: str | Sequence[str]) -> _Known:
    texts = (secret,) if isinstance(secret, str) else tuple(secret or ())
    if not texts:
        raise VerificationError("secret: none given; is its environment variable set?")
    public = [text for text in texts if text.startswith("whpk_")]
    try:
        return _Known(
            tuple(Secret.parse(text) for text in texts if text not in public),
            _public_keys(public) if public else (),
        )
    except InvalidField as error:
        raise VerificationError(f"secret: {error.detail}") from None


def _public_keys(texts: Sequence[str]) -> tuple["PublicKey", ...]:
    # Only here: most receivers have a secret, and need no more than the standard library.
    from dispatcher.rules.key_pairs import PublicKey

    return tuple(PublicKey.parse(text) for text in texts)


def _signature(token: str) -> bytes:
    try:
        return base64.b64decode(token.removeprefix("v1a,").encode("ascii", "replace"), validate=True)
    except ValueError:
        return b""


def _needed(received: Mapping[str, str], name: str, shown: str | None = None) -> str:
    value = received.get(name)
    if not value:
        raise VerificationError(
            f"{shown or name}: the header is missing; a proxy may drop it, or this is no webhook of ours"
        )
    return value


def _timestamp(text: str, tolerance_s: float, now: float) -> int:
    if not _TIMESTAMP.fullmatch(text):
        raise VerificationError("webhook-timestamp: is no integer of Unix seconds")
    timestamp = int(text)
    age_s = now - timestamp
    if abs(age_s) > tolerance_s:
        side = "old" if age_s > 0 else "new"
        raise VerificationError(
            f"webhook-timestamp: is {abs(age_s):.0f} s too {side} for a tolerance of {tolerance_s:g} s;"
            " usual causes: a clock that is wrong here (check NTP), or a request that was recorded and sent again"
        )
    return timestamp


def _ascii(token: str) -> bytes:
    # Servers hand over undecodable header bytes as lone surrogates, which a plain encode would refuse.
    return token.encode("ascii", "backslashreplace")


def _any_equal(expected: Sequence[bytes], tokens: Sequence[bytes]) -> bool:
    return any(hmac.compare_digest(one, other) for one in expected for other in tokens)


def _why(raw: bytes, holds: Callable[[bytes], bool]) -> str:
    try:
        as_sent = compact(raw).encode()
        rewritten = json.dumps(json.loads(raw), ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return _NO_MATCH
    if holds(as_sent) or holds(rewritten):
        return (
            "matches this JSON written compactly, not the body given: the body was parsed and written anew on its way"
            " here; verify the raw body, before any framework parses it"
        )
    return _NO_MATCH

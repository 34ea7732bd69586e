"""What is secret never reaches a text that people read: the one place that says what that is and what stands there.

Answers leave secrets out by their own shape, field by field. Texts that others wrote, such as an exception's, cannot:
they pass through `redact`, which takes out the settings' own secrets wherever they stand, and whatever looks like a
secret. It is the last line of defence, and no reason to put one into a text.
"""

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

#: What stands where a secret was.
REDACTED = "***"

_SENSITIVE = ("secret", "authorization", "signature", "password", "cookie", "api_key", "admin_key", "body", "token")

_SIGNATURE = re.compile(r"\b(v1a?,)[A-Za-z0-9+/]{40,}=*")
# None goes beyond a double quote or ends in an escape: what is redacted may be a line of JSON.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ in a URL
    (re.compile(r"(://[^\s/?#@:\"']*):[^\s/?#@\"']+@"), rf"\1:{REDACTED}@"),
    # ?name=value in a URL
    (re.compile(r"([?&][^\s=&#\"'<>]{1,100}=)[^\s&#\"'<>\\]+"), rf"\1{REDACTED}"),
    # signing secrets, private keys, API keys, links to jobs
    (re.compile(r"\b(whsec_|whsk_|whk_)[A-Za-z0-9+/_=-]{8,}"), rf"\1{REDACTED}"),
    (re.compile(r"\bjob_[A-Za-z0-9_-]{70,}"), f"job_{REDACTED}"),
    (_SIGNATURE, rf"\1{REDACTED}"),
    # credentials of an Authorization header
    (re.compile(r"\b(Bearer|Basic) [A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    # name=value, as DSNs and representations have it
    (
        re.compile(
            r"(?i)\b(\w*(?:password|passwd|secret|token|api_?key|authorization)\w*=)(?:'[^'\"\\]*'|[^\s,;&)\"'\\]+)"
        ),
        rf"\1{REDACTED}",
    ),
)
#: A value that could be a word of ours, like `dispatcher`, would take it out of every line.
_WORD = re.compile(r"[A-Za-z_.-]*")
_SHORTEST = 8

_own: set[str] = set()


def keep_out(secrets: Iterable[str | None]) -> None:
    """From now on `redact` takes these texts out of every text, as they are, percent-encoded and in JSON.

    Not those that are shorter than 8 characters or could be words: only their surroundings give them away.
    """
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST and not _WORD.fullmatch(secret):
            _own.update((secret, quote(secret, safe=""), json.dumps(secret, ensure_ascii=False)[1:-1]))


def redact(text: str) -> str:
    """The text with `***` for what is secret."""
    for secret in _own:
        if secret in text:
            text = text.replace(secret, REDACTED)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def without_echoes(text: str, secrets: Iterable[str]) -> str:
    """What a receiver answered, without these texts and without signatures: some answer with the request they got."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    return _SIGNATURE.sub(rf"\1{REDACTED}", text) if "v1" in text else text


@lru_cache(maxsize=1024)
def sensitive_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of these names of fields say that their value is secret."""
    # All fields of a line at once: few calls write many lines.
    return tuple(name for name in names if any(word in name.lower().replace("-", "_") for word in _SENSITIVE))

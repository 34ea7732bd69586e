"""What is secret never reaches a text that people read: the one place that says what that is and what stands there.

Answers leave secrets out by their own shape, field by field. Texts that others wrote, such as an exception's, cannot:
they pass through `redact`, which takes out the settings' own secrets wherever they stand, and whatever looks like a
secret. It is the last line of defence, and no reason to put one into a text.
"""

import html
import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import quote

#: What stands where a secret was.
REDACTED = "***"

_SENSITIVE = ("secret", "authorization", "signature", "password", "cookie", "api_key", "admin_key", "body", "token")

# Also as JSON and forms may write it.
_SIGNATURE = re.compile(r"\b(v1a?(?:,|%2[Cc]))(?:[A-Za-z0-9+/]|\\/|%2[BbFf]){40,}(?:=|%3[Dd])*")
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
            # Bounded, and without what stands before: a long word of such words would cost the square of its length.
            r"(?i)((?:password|passwd|secret|token|api_?key|authorization)\w{0,60}=)(?:'[^'\"\\]*'|[^\s,;&)\"'\\]+)"
        ),
        rf"\1{REDACTED}",
    ),
)
#: A value that could be a word of ours, like `dispatcher`, would take it out of every line.
_WORD = re.compile(r"[A-Za-z_.-]*")
_SHORTEST = 8

#: A KiB of UTF-8 has at least so many characters: what is shorter was not cut.
_SHORTEST_CUT = 256
#: So little of a secret tells nothing.
_FEWEST_SHOWN = 4

_own: set[str] = set()


def keep_out(secrets: Iterable[str | None]) -> None:
    """From now on `redact` takes these texts out of every text, as they are, percent-encoded and in JSON.

    Not those that are shorter than 8 characters or could be words: only their surroundings give them away.
    """
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST and not _WORD.fullmatch(secret):
            _own.update((secret, _percent_encoded(secret), json.dumps(secret, ensure_ascii=False)[1:-1]))


def redact(text: str) -> str:
    """The text with `***` for what is secret."""
    # The longest first: one may be a part of another.
    for secret in sorted(_own, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, REDACTED)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def echoes(secret: str) -> set[str]:
    """How an answer may write a part of the request that it repeats: as it is, in JSON, HTML, or percent-encoded."""
    in_json = json.dumps(secret)[1:-1]
    return {secret, in_json, in_json.replace("/", "\\/"), html.escape(secret), _percent_encoded(secret)}


def without_echoes(text: str, secrets: Sequence[str]) -> str:
    """What a receiver answered, without these texts and without signatures: some answer with the request they got.

    Nor with the beginning of one at its end, where the answer may have been cut.
    """
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    if len(text) >= _SHORTEST_CUT:
        text = _without_beginning(text, secrets)
    return _SIGNATURE.sub(rf"\1{REDACTED}", text) if "v1" in text else text


def _without_beginning(text: str, secrets: Sequence[str]) -> str:
    # What was cut within a letter ends with a stand-in for it.
    whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
    cut_from = len(whole)
    for secret in secrets:
        start = whole.find(secret[:_FEWEST_SHOWN], max(0, len(whole) - len(secret) + 1))
        while start >= 0 and not secret.startswith(whole[start:]):
            start = whole.find(secret[:_FEWEST_SHOWN], start + 1)
        if start >= 0:
            cut_from = min(cut_from, start)
    return text if cut_from == len(whole) else whole[:cut_from] + REDACTED


def _percent_encoded(secret: str) -> str:
    # What the environment holds need not be UTF-8.
    return quote(secret, safe="", errors="replace")


@lru_cache(maxsize=1024)
def sensitive_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of these names of fields say that their value is secret."""
    # All fields of a line at once: few calls write many lines.
    return tuple(name for name in names if any(word in name.lower().replace("-", "_") for word in _SENSITIVE))

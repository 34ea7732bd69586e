"""Event types, the patterns that endpoints subscribe with, and which matches which."""

import re

from dispatcher.errors import InvalidField

LONGEST = 255

#: Types of this prefix are published by the dispatcher itself.
RESERVED_PREFIX = "webhook."

# `\Z`, since `$` also matches before a trailing newline.
TYPE = re.compile(r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z")
PATTERN = re.compile(r"^(\*|[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(\.\*)?)\Z")


def check_type(text: object, *, reserved: bool = False) -> str:
    """The type, if it may be published; types under `webhook.` only when `reserved`. Raises `InvalidField`."""
    if not isinstance(text, str) or len(text) > LONGEST or not TYPE.match(text):
        raise InvalidField(
            "type",
            f"must be words of letters, digits and _ joined by dots, like job.completed; at most {LONGEST} characters",
        )
    if text.startswith(RESERVED_PREFIX) and not reserved:
        raise InvalidField("type", f"types under {RESERVED_PREFIX} are the dispatcher's own; choose another first word")
    return text


def check_pattern(text: str) -> str:
    """The pattern, if an endpoint may subscribe with it. Raises `InvalidField`."""
    if len(text) > LONGEST or not PATTERN.match(text):
        raise InvalidField(
            "event_types",
            f"{text[:80]!r} is neither a type like job.completed, nor a prefix like job.*, nor *;"
            f" at most {LONGEST} characters",
        )
    return text


def patterns_for(event_type: str) -> tuple[str, ...]:
    """Every pattern that matches the type, the widest first: `*`, `a.*`, `a.b.*`, `a.b.c` for `a.b.c`.

    `*` matches no types of the dispatcher's own: who did not ask for them should not be flooded.
    """
    words = event_type.split(".")
    prefixes = (".".join(words[:count]) + ".*" for count in range(1, len(words)))
    everything = () if event_type.startswith(RESERVED_PREFIX) else ("*",)
    return (*everything, *prefixes, event_type)


def matches(pattern: str, event_type: str) -> bool:
    """Whether an endpoint with this pattern is sent events of this type."""
    if pattern == "*":
        return not event_type.startswith(RESERVED_PREFIX)
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type

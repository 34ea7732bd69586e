"""Header names and values that callers choose: what may go beside ours, and what may never."""

import re
from collections.abc import Mapping

from dispatcher.errors import InvalidField

MOST_HEADERS = 20
MOST_BYTES = 8 * 1024
LONGEST_NAME = 100
LONGEST_PREFIX = 32

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")
_PREFIX = re.compile(r"[\x21-\x7e]*")
_OURS = frozenset({"user-agent", "traceparent", "x-job-previous"})
_OF_THE_CONNECTION = frozenset(
    {"connection", "expect", "host", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_RESERVED_PREFIXES = ("ce-", "content-", "proxy-", "webhook-", "x-delivery-")


def check_static_headers(headers: Mapping[str, str], field: str = "headers") -> dict[str, str]:
    """The extra headers of an endpoint, as they are sent. Raises `InvalidField`, whose message shows no value."""
    if len(headers) > MOST_HEADERS:
        raise InvalidField(field, f"has {len(headers)} headers; {MOST_HEADERS} are the most")
    seen: dict[str, str] = {}
    for name, value in headers.items():
        _check_name(name, field)
        if name.lower() in seen:
            raise InvalidField(field, f"has {name} twice ({seen[name.lower()]}, {name}); case does not matter in names")
        seen[name.lower()] = name
        if not _VALUE.fullmatch(value):
            raise InvalidField(
                field,
                f"the value of {name} must be visible ASCII text on one line, without white space at either end",
            )
    size = sum(len(name) + len(value) + 4 for name, value in headers.items())
    if size > MOST_BYTES:
        raise InvalidField(field, f"takes {size} bytes; {MOST_BYTES} are the most")
    return dict(headers)


def check_signature_header(name: str) -> str:
    """The name of an additional signature header, like `X-Agent-Signature`. Raises `InvalidField`."""
    _check_name(name, "signature_header")
    return name


def check_signature_prefix(prefix: str) -> str:
    """What stands before the hex in that header: nothing, `sha256=`, or the like. Raises `InvalidField`."""
    if len(prefix) > LONGEST_PREFIX or not _PREFIX.fullmatch(prefix):
        raise InvalidField(
            "signature_prefix", f"must be visible ASCII of at most {LONGEST_PREFIX} characters, like sha256= or nothing"
        )
    return prefix


def _check_name(name: str, field: str) -> None:
    if len(name) > LONGEST_NAME or not _TOKEN.fullmatch(name):
        raise InvalidField(
            field,
            f"{name[:80]!r} is no header name: letters, digits and - of at most {LONGEST_NAME} characters,"
            " like X-Agent-Signature",
        )
    lower = name.lower()
    if lower in _OURS or lower in _OF_THE_CONNECTION or lower.startswith(_RESERVED_PREFIXES):
        raise InvalidField(field, f"{name} is set by the dispatcher or belongs to the connection; choose another name")

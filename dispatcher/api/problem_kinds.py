"""The kinds of problems, apart from what makes them: a process that shows its health only needs no more of the API."""

import json
from dataclasses import dataclass

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem; its name is the end of the problem's `type`."""

    name: str
    status: int
    title: str
    remedy: str

    @property
    def type(self) -> str:
        """The problem's `type`: where the documentation explains it."""
        return f"/docs#problem-{self.name}"


UNREADABLE = Kind(
    "unreadable-body", 400, "The body cannot be read", "Send JSON in UTF-8; NaN and Infinity are not JSON."
)
BAD_REQUEST = Kind("bad-request", 400, "Not a valid HTTP request", "Use an HTTP client; keep the URL under 8 KiB.")
UNAUTHENTICATED = Kind("unauthenticated", 401, "No valid API key", "Send `Authorization: Bearer KEY`.")
FORBIDDEN = Kind(
    "forbidden",
    403,
    "The API key does not allow this",
    "`detail` names the scope that it lacks, or leave `tenant` out.",
)
NOT_FOUND = Kind("not-found", 404, "There is no such thing", "It is unknown, was removed, or is another tenant's.")
WRONG_METHOD = Kind("method-not-allowed", 405, "The path has no such method", "The header `Allow` lists those it has.")
TOO_SLOW = Kind("too-slow", 408, "The body took too long to arrive", "Send less at a time, over a faster connection.")
CONFLICT = Kind("conflict", 409, "The state does not allow this", "Look at the thing's state; `detail` says more.")
IDEMPOTENCY = Kind(
    "idempotency-conflict", 409, "The same idempotency key with other content", "Use a new key for new content."
)
TOO_LARGE = Kind("too-large", 413, "The body is too large", "Send less, or raise DISPATCHER_MAX_PAYLOAD for events.")
CONTENT_TYPE = Kind("content-type", 415, "The body is not declared as JSON", "Send `Content-Type: application/json`.")
INVALID_FIELD = Kind("invalid-field", 422, "A field or parameter is refused", "`errors` names each, and the remedy.")
OVER_QUOTA = Kind(
    "over-quota", 422, "The tenant's quota is used up", "Delete what is not needed, or have the quota raised."
)
TOO_MANY_EVENTS = Kind(
    "too-many-events", 429, "The tenant publishes faster than its quota", "Publish again after `Retry-After`."
)
TOO_MANY_WRONG_KEYS = Kind(
    "too-many-wrong-keys", 429, "Too many wrong API keys", "Send a right one after `Retry-After`."
)
TOO_MANY_READERS = Kind(
    "too-many-readers", 429, "Too many wait for jobs' events", "Try again later, or ask without `wait`."
)
INTERNAL = Kind("internal", 500, "A fault of the service", "It is logged under the answer's `X-Request-Id`.")
TOO_MANY_CONNECTIONS = Kind(
    "too-many-connections", 503, "Too many connections are open", "Nothing was done; use fewer, and keep them open."
)
UNAVAILABLE = Kind("unavailable", 503, "The database does not answer", "Nothing was done; try again a little later.")

KINDS = (
    UNREADABLE,
    BAD_REQUEST,
    UNAUTHENTICATED,
    FORBIDDEN,
    NOT_FOUND,
    WRONG_METHOD,
    TOO_SLOW,
    CONFLICT,
    IDEMPOTENCY,
    TOO_LARGE,
    CONTENT_TYPE,
    INVALID_FIELD,
    OVER_QUOTA,
    TOO_MANY_EVENTS,
    TOO_MANY_READERS,
    TOO_MANY_WRONG_KEYS,
    INTERNAL,
    TOO_MANY_CONNECTIONS,
    UNAVAILABLE,
)


def malformed(detail: str, status: int) -> bytes:
    """The body for what is no HTTP at all, so that no request exists to be answered."""
    kind = BAD_REQUEST
    return json.dumps({"type": kind.type, "title": kind.title, "status": status, "detail": detail}).encode()

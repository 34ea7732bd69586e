"""Every error as an RFC 9457 problem: a stable type, what was wrong, and what to do; never a traceback."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from dispatcher.api.auth import Forbidden, Unauthenticated
from dispatcher.api.problem_kinds import (
    BAD_REQUEST,
    CONFLICT,
    CONTENT_TYPE,
    FORBIDDEN,
    IDEMPOTENCY,
    INVALID_FIELD,
    MEDIA_TYPE,
    NOT_FOUND,
    OVER_QUOTA,
    TOO_LARGE,
    TOO_MANY_EVENTS,
    TOO_MANY_READERS,
    TOO_MANY_WRONG_KEYS,
    TOO_SLOW,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNREADABLE,
    WRONG_METHOD,
    Kind,
)
from dispatcher.api.request_body import TooLarge, TooSlow, Unreadable, WrongContentType
from dispatcher.api.route import Route
from dispatcher.errors import (
    Conflict,
    DispatcherError,
    FieldProblem,
    IdempotencyConflict,
    InvalidField,
    NotFound,
    OverQuota,
    StoreUnavailable,
    TooLargeField,
    TooMany,
    TooManyEvents,
    TooManyReaders,
    TooManyWrongKeys,
)
from dispatcher.service.models import UnreadableJson
from dispatcher.states import Scope
from dispatcher.store import keyring

#: Seconds after which a caller may try again when the database does not answer, or connections are too many.
RETRY_AFTER_S = 5
_BEARER = 'Bearer realm="dispatcher"'
#: How many refused fields one answer names.
MOST_FIELDS = 50


class WrongField(BaseModel):
    """One field that was refused."""

    pointer: Annotated[
        str, Field(description="A JSON pointer to the field, as a fragment.", examples=["#/url", "#/events/3/type"])
    ]
    detail: Annotated[str, Field(description="What would be accepted.")]
    place: Annotated[
        Literal["body", "query", "header"], Field(serialization_alias="in", description="Where the field was sent.")
    ]


class Problem(BaseModel):
    """An error, as RFC 9457 writes it."""

    type: Annotated[
        str, Field(description="What kind of error it is: stable.", examples=["/docs#problem-invalid-field"])
    ]
    title: Annotated[str, Field(description="The kind of error in words.")]
    status: Annotated[int, Field(description="The HTTP status again.", examples=[422])]
    detail: Annotated[str, Field(description="What was wrong this time, and what to do.")]
    errors: Annotated[list[WrongField] | None, Field(description="The fields that were refused, all at once.")] = None
    request_id: Annotated[
        str | None, Field(description="The answer's `X-Request-Id`, under which the operator's log has the request.")
    ] = None


_BY_ERROR: tuple[tuple[type[DispatcherError], Kind], ...] = (
    (Unreadable, UNREADABLE),
    (UnreadableJson, UNREADABLE),
    (Unauthenticated, UNAUTHENTICATED),
    (Forbidden, FORBIDDEN),
    (NotFound, NOT_FOUND),
    (IdempotencyConflict, IDEMPOTENCY),
    (Conflict, CONFLICT),
    # Sealed with a key that this process was not given: its detail says what to do.
    (keyring.Unreadable, CONFLICT),
    (TooLarge, TOO_LARGE),
    (TooSlow, TOO_SLOW),
    (WrongContentType, CONTENT_TYPE),
    (OverQuota, OVER_QUOTA),
    (TooManyEvents, TOO_MANY_EVENTS),
    (TooManyReaders, TOO_MANY_READERS),
    (TooManyWrongKeys, TOO_MANY_WRONG_KEYS),
    (StoreUnavailable, UNAVAILABLE),
)
_BY_STATUS = {kind.status: kind for kind in (BAD_REQUEST, NOT_FOUND, WRONG_METHOD, TOO_LARGE)}


@dataclass(frozen=True, slots=True)
class Told:
    """One problem, as it is told to a caller."""

    kind: Kind
    detail: str
    errors: list[WrongField] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, request_id: str) -> web.Response:
        """The answer to the request of this id."""
        content = Problem(
            type=self.kind.type,
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            errors=self.errors,
            request_id=request_id,
        )
        body = content.model_dump_json(by_alias=True, exclude_none=True).encode()
        return web.Response(status=self.kind.status, body=body, content_type=MEDIA_TYPE, headers=self.headers)


def problem_of(error: Exception, route: Route | None) -> Told | None:
    """What is told about an error that somebody foresaw; `None` for one that nobody did."""
    if isinstance(error, InvalidField):
        kind = TOO_LARGE if isinstance(error, TooLargeField) else INVALID_FIELD
        return invalid_fields(error.problems, route, kind)
    for kind_of_error, kind in _BY_ERROR:
        if isinstance(error, kind_of_error):
            return Told(kind, str(error), headers=_headers(error))
    if isinstance(error, web.HTTPException) and error.status >= 400:
        return _http_problem(error)
    return None


def _headers(error: DispatcherError) -> dict[str, str]:
    match error:
        case Unauthenticated():
            return {"WWW-Authenticate": _BEARER}
        case Forbidden(scope=Scope() as scope):
            return {"WWW-Authenticate": f'{_BEARER}, error="insufficient_scope", scope="{scope}"'}
        case StoreUnavailable():
            return {"Retry-After": str(RETRY_AFTER_S)}
        case TooMany(retry_after_s=retry_after_s):
            return {"Retry-After": str(max(1, ceil(retry_after_s)))}
        case _:
            return {}


def _http_problem(error: web.HTTPException) -> Told:
    kind = _BY_STATUS.get(error.status)
    if kind is None:
        phrase = HTTPStatus(error.status).phrase
        kind = Kind("http", error.status, phrase, phrase)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Told(kind, f"this path has {allowed}, and no {error.method[:20]}", headers={"Allow": allowed})
    if kind is NOT_FOUND:
        return Told(kind, "there is nothing under this path; /docs lists all there is")
    return Told(kind, error.reason)


def invalid_fields(problems: tuple[FieldProblem, ...], route: Route | None, kind: Kind = INVALID_FIELD) -> Told:
    """A 422 (a 413 for what is too large) that names the fields, up to `MOST_FIELDS`."""
    named = problems[:MOST_FIELDS]
    errors = [
        WrongField(pointer=_pointer(one.field), detail=one.detail, place=_place(one.field, route)) for one in named
    ]
    detail = "; ".join(f"{one.field.lstrip('?')[:80]}: {one.detail}" for one in named)
    if len(problems) > len(named):
        detail += f"; and {len(problems) - len(named)} more"
    return Told(kind, detail, errors)


def _place(field: str, route: Route | None) -> Literal["body", "query", "header"]:
    if field in ("Idempotency-Key", "Last-Event-ID"):
        return "header"
    in_body = route is not None and route.body is not None
    return "body" if in_body and not field.startswith("?") else "query"


def _pointer(field: str) -> str:
    if field == "body":
        return "#"
    return "#" + "".join(f"/{part.replace('~', '~0')}" for part in field.lstrip("?").split("/"))

"""From a request's bytes to a typed body: read no further than the limit, strict about JSON, unknown fields named."""

import asyncio

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError

from dispatcher.api.route import Route
from dispatcher.errors import CallerError, InvalidField
from dispatcher.settings import Settings
from dispatcher.store.endpoint_fields import GivenFields
from dispatcher.units import format_size

#: What surrounds an event's `data` in a body: the other fields and white space.
_EVENT_SLACK = 64 * 1024
#: How long a body may take to arrive, in seconds.
BODY_S = 60.0


class Unreadable(CallerError):
    """The body is not JSON in UTF-8."""


class TooLarge(CallerError):
    """The body is larger than this route takes."""


class TooSlow(CallerError):
    """The body took too long to arrive."""


class WrongContentType(CallerError):
    """The body is declared as something else than JSON."""


def body_limit(route: Route, settings: Settings) -> int:
    """The largest body that the route takes, in bytes."""
    return route.body_limit if route.body_limit is not None else settings.max_payload + _EVENT_SLACK


async def read_body(request: web.Request, route: Route, settings: Settings) -> object:
    """The body as the route wants it; an absent one counts as `{}` where no field is required.

    Raises `WrongContentType`, `TooLarge`, `TooSlow`, `Unreadable` or `InvalidField`.
    """
    raw = await _read(request, body_limit(route, settings))
    if raw:
        _check_content_type(request)
    elif route.body is not None and any(field.is_required() for field in route.body.model_fields.values()):
        raise Unreadable("the body is empty: send a JSON object with `Content-Type: application/json`")
    else:
        raw = b"{}"
    if route.read is not None:
        return route.read(raw)
    return (route.body or NoBody).read(_decoded(raw))


class NoBody(GivenFields):
    """The body of a route that takes none: absent, or `{}`."""


async def _read(request: web.Request, limit: int) -> bytes:
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise WrongContentType("a compressed body is not read: send it without Content-Encoding")
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise TooSlow(f"the body was not here within {BODY_S:g} s; send less at a time") from None
    except (ConnectionError, PayloadEncodingError, web.RequestPayloadError):
        raise Unreadable("the body broke off, or is not chunked as HTTP wants it") from None
    return b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {format_size(limit)}, the most that this route takes")


def _check_content_type(request: web.Request) -> None:
    if request.content_type != "application/json" or "Content-Type" not in request.headers:
        raise WrongContentType("send the body as JSON, with the header `Content-Type: application/json`")
    charset = request.charset
    if charset is not None and charset.lower().replace("_", "-") not in ("utf-8", "utf8"):
        raise WrongContentType("JSON is read as UTF-8: send `Content-Type: application/json` without another charset")


def _decoded(raw: bytes) -> object:
    try:
        raw.decode()
        return msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise Unreadable(f"the body is not UTF-8 (byte {error.start}); encode it so") from None
    except msgspec.ValidationError:
        raise InvalidField("body", "has a number that is out of range; send a smaller one") from None
    except msgspec.DecodeError as error:
        raise Unreadable(f"the body is not JSON: {str(error).removeprefix('JSON is malformed: ')}") from None
    except RecursionError:
        raise Unreadable("the body is nested too deeply") from None

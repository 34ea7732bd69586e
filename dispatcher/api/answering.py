"""Around each request: its id, the answer to whatever goes wrong, and what is logged and counted of it."""

import re
from http import HTTPStatus
from traceback import format_tb
from typing import Any
from uuid import uuid4

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from sqlalchemy.exc import DBAPIError

from dispatcher.api.auth import Forbidden, WrongKey
from dispatcher.api.client_address import client_address
from dispatcher.api.problem_kinds import INTERNAL
from dispatcher.api.problems import Told, problem_of
from dispatcher.api.route import Route
from dispatcher.api.table import METHODS
from dispatcher.clock import Clock
from dispatcher.logs import logger
from dispatcher.metrics import api_refused
from dispatcher.rules import pace
from dispatcher.service.keys import Caller
from dispatcher.store.deployment import Deployment

ROUTE = web.RequestKey("route", Route)
REQUEST_ID = web.RequestKey("request_id", str)
CALLER = web.RequestKey("caller", Caller)

_log = logger(__name__)
_REQUEST_ID_TEXT = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
#: Lines about keys that lack a right, at once, and the seconds after which there is another: who has a key, or a link,
#: must not fill the disk either.
FORBIDDEN_BURST = 200
FORBIDDEN_EVERY_S = 0.1
#: Statuses that are counted.
_REFUSALS = frozenset({401, 403, 429})


class _Lines:
    """How many lines about keys that lack a right were written."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_until = 0.0

    def one_more(self) -> bool:
        """Whether there may be another now; it is counted."""
        now = self._clock.monotonic()
        if pace.wait_s(self._ahead_until, now, FORBIDDEN_EVERY_S, FORBIDDEN_BURST * FORBIDDEN_EVERY_S):
            return False
        self._ahead_until = pace.spent(self._ahead_until, now, FORBIDDEN_EVERY_S)
        return True


def answering(deployment: Deployment) -> Middleware:
    """The outermost place: each request gets its id, and everything that goes wrong is answered, logged, counted."""

    lines = _Lines(deployment.clock)

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = sent if _REQUEST_ID_TEXT.fullmatch(sent) else uuid4().hex
        began = deployment.clock.monotonic() if _log.debugs else 0.0
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - answered, or logged, here
            response = _answer_to(error, request, deployment, lines)
        if _log.debugs:
            duration_ms = round((deployment.clock.monotonic() - began) * 1000, 3)
            _log.debug("api.answered", status=response.status, duration_ms=duration_ms, **logged(request))
        return response

    return answer


def _answer_to(error: Exception, request: web.Request, deployment: Deployment, lines: _Lines) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed) and request.path in METHODS:
        # The router counts those of the pattern that the path also fits: `/v1/events/batch` is no event's id.
        error = web.HTTPMethodNotAllowed(request.method, METHODS[request.path])
    told = problem_of(error, request.get(ROUTE))
    if told is None:
        log_fault(error, request)
        told = Told(INTERNAL, f"a fault of ours; the operator's log has it under request id {request[REQUEST_ID]}")
    if told.kind.status in _REFUSALS:
        api_refused.labels(told.kind.name).inc()
    if isinstance(error, WrongKey) or (isinstance(error, Forbidden) and lines.one_more()):
        # Never one without a key, nor one past the budget of wrong ones: a stranger must not fill the disk.
        _log.warning("api.refused", problem=told.kind.name, address=address_of(request, deployment), **logged(request))
    return told.response(request[REQUEST_ID])


def logged(request: web.Request) -> dict[str, Any]:
    """What log lines say about a request; of who sent it only what is no secret."""
    route, caller = request.get(ROUTE), request.get(CALLER)
    return {
        "request_id": request[REQUEST_ID],
        "method": request.method,
        "route": route.path if route else None,
        "tenant": caller.tenant if caller else None,
        "key_id": caller.key_id if caller else None,
    }


def log_fault(error: Exception, request: web.Request) -> None:
    """Logs what nobody foresaw, with its traceback, and without the row that a database's error quotes."""
    fields = {**logged(request), "status": HTTPStatus.INTERNAL_SERVER_ERROR.value}
    if isinstance(error, DBAPIError):
        # Its text, and its cause's, quote the row, and so an event's data.
        trace = "".join(format_tb(error.__traceback__))
        _log.error("api.failed", error=type(error.orig).__name__, exception=trace, **fields)
    else:
        _log.exception("api.failed", **fields)


def address_of(request: web.BaseRequest, deployment: Deployment) -> str:
    """From where the request comes."""
    forwarded_for = request.headers.getall("X-Forwarded-For", ())
    return client_address(request.remote, forwarded_for, deployment.settings.trusted_proxies)

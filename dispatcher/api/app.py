"""The application: the table's routes, behind one way in that authenticates, reads, calls and answers."""

import re
from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus
from traceback import format_tb
from uuid import uuid4

from aiohttp import web
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError

from dispatcher.api import docs_page, openapi
from dispatcher.api.auth import Forbidden, KeyCache, tenant_scope
from dispatcher.api.problems import INTERNAL, problem, problem_of
from dispatcher.api.queries import read_query
from dispatcher.api.request_body import read_body
from dispatcher.api.route import Call, Door, Reply, Route, Scope
from dispatcher.api.table import ROUTES
from dispatcher.errors import InvalidField, NotFound
from dispatcher.logs import logger
from dispatcher.metrics import registry
from dispatcher.service.keys import Caller
from dispatcher.store.deployment import Deployment

_log = logger(__name__)
_ROUTE = web.RequestKey("route", Route)
_REQUEST_ID = web.RequestKey("request_id", str)
_REQUEST_ID_TEXT = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_BODY_METHODS = frozenset({"POST", "PATCH", "PUT"})

#: The methods of each path without parameters.
_METHODS = {
    path: {route.method for route in ROUTES if route.path == path}
    for path in {route.path for route in ROUTES if not route.parameters}
}

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Server": "dispatcher",
}
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"


def create_app(
    deployment: Deployment,
    *,
    admin_key: str,
    metrics: CollectorRegistry = registry,
    on_published: Callable[[], None] | None = None,
) -> web.Application:
    """The API on a deployment, with no dispatcher inside.

    `on_published` is called after each commit that may have made work: published events, a redelivery, a resume.
    """
    document, page = _documentation()
    door = Door(
        deployment=deployment,
        keys=KeyCache(deployment, admin_key),
        registry=metrics,
        wake=on_published or _nobody,
        openapi=document,
        docs=page.html,
    )
    app = web.Application(middlewares=[_answer_errors], client_max_size=0)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(route, door))
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, _handler(route, door))

    async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
        for name, value in _HEADERS.items():
            response.headers[name] = value
        is_page = response.content_type == "text/html"
        response.headers["Content-Security-Policy"] = page.policy if is_page else _API_POLICY
        response.headers["Cache-Control"] = "no-cache" if request.path in ("/docs", "/openapi.json") else "no-store"
        if _REQUEST_ID in request:
            response.headers["X-Request-Id"] = request[_REQUEST_ID]

    app.on_response_prepare.append(add_headers)
    return app


@cache
def _documentation() -> tuple[bytes, docs_page.Page]:
    document = openapi.document(ROUTES)
    return openapi.encoded(document), docs_page.render(document)


def _nobody() -> None:
    """Nobody in this process wants to know."""


def _handler(route: Route, door: Door) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        request[_ROUTE] = route
        if route.parameters and request.path in _METHODS:
            # `/v1/events/batch` is no event's id, though its pattern would take it for one.
            raise web.HTTPMethodNotAllowed(request.method, _METHODS[request.path])
        return _response(await _serve(request, route, door))

    return handle


async def _serve(request: web.Request, route: Route, door: Door) -> Reply:
    caller = None
    if route.scope is not Scope.PUBLIC:
        caller = await door.keys.caller(request.headers.get("Authorization"))
        if route.scope is Scope.ADMIN and not caller.admin:
            raise Forbidden("this wants the admin key; the key that was sent is a tenant's")
    query = read_query(request.query, route.query)
    body = await read_body(request, route, door.deployment.settings) if request.method in _BODY_METHODS else None
    tenant = None if caller is None else _tenant(caller, getattr(query, "tenant", None), body)
    call = Call(
        door=door,
        tenant=tenant,
        body=body,
        query=query,
        path={name: _path_text(name, request.match_info[name]) for name in route.parameters},
        idempotency_key=_idempotency_key(request) if route.idempotent else None,
        accept=request.headers.get("Accept", ""),
    )
    return await route.handler(call)


def _tenant(caller: Caller, in_query: str | None, body: object) -> str | None:
    if not isinstance(body, list):
        return tenant_scope(caller, in_query, getattr(body, "tenant", None))
    # Each of several events may have its own tenant; the request's is that of those which name none.
    for named in {event.tenant for event in body}:
        tenant_scope(caller, in_query, named)
    return tenant_scope(caller, in_query)


def _path_text(name: str, text: str) -> str:
    if text.isprintable() and len(text) <= 255:
        return text
    if name == "id":
        raise NotFound("no such id: it has characters that no id has, or is too long")
    raise InvalidField(name, "has a control character or one that is no valid Unicode, or is over 255 characters long")


def _idempotency_key(request: web.Request) -> str | None:
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not _IDEMPOTENCY_KEY.fullmatch(given[0]):
        raise InvalidField("Idempotency-Key", "is one header of 1 to 255 visible ASCII characters, like a UUID")
    return given[0]


def _response(reply: Reply) -> web.Response:
    headers = dict(reply.headers)
    match reply.content:
        case None:
            return web.Response(status=reply.status, headers=headers)
        case bytes() as raw:
            body = raw
        case model:
            body = model.json_bytes()
    headers.setdefault("Content-Type", "application/json")
    return web.Response(status=reply.status, body=body, headers=headers)


@web.middleware
async def _answer_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    sent = request.headers.get("X-Request-Id", "")
    request[_REQUEST_ID] = sent if _REQUEST_ID_TEXT.fullmatch(sent) else uuid4().hex
    route = None
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - the outermost place: everything else is answered, or logged, here
        route = request.get(_ROUTE)
        answer = problem_of(error, route)
        if answer is None:
            _log_fault(error, request, route)
            answer = problem(
                INTERNAL, f"a fault of ours; the operator's log has it under request id {request[_REQUEST_ID]}"
            )
        return answer


def _log_fault(error: Exception, request: web.Request, route: Route | None) -> None:
    fields = {
        "request_id": request[_REQUEST_ID],
        "method": request.method,
        "route": route.path if route else None,
        "status": HTTPStatus.INTERNAL_SERVER_ERROR.value,
    }
    if isinstance(error, DBAPIError):
        # Its text, and its cause's, quote the row, and so an event's data.
        trace = "".join(format_tb(error.__traceback__))
        _log.error("api.failed", error=type(error.orig).__name__, exception=trace, **fields)
    else:
        _log.exception("api.failed", **fields)

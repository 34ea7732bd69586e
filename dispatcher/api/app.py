"""The application: the table's routes, behind one way in that authenticates, reads, calls and answers."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import cache

from aiohttp import web
from prometheus_client import CollectorRegistry

from dispatcher.api import docs_page, openapi
from dispatcher.api.answering import CALLER, REQUEST_ID, ROUTE, address_of, answering, log_fault, logged
from dispatcher.api.auth import Authenticator, Unauthenticated, check_scope, tenant_scope
from dispatcher.api.problem_kinds import TOO_MANY_CONNECTIONS
from dispatcher.api.problems import RETRY_AFTER_S, Told
from dispatcher.api.queries import read_query
from dispatcher.api.request_body import read_body
from dispatcher.api.route import Call, Client, Door, Reply, Route, Stream
from dispatcher.api.runner import Connection
from dispatcher.api.table import METHODS, ROUTES, served
from dispatcher.engine.dispatcher import open_store
from dispatcher.engine.ingest import ByTheQueue, Ingest
from dispatcher.engine.vitals import Condition
from dispatcher.errors import DispatcherError, InvalidField, NotFound
from dispatcher.logs import logger
from dispatcher.metrics import registry
from dispatcher.service.job_readers import JobReaders
from dispatcher.service.keys import Caller
from dispatcher.service.quotas import Quotas
from dispatcher.store.deployment import Deployment

_log = logger(__name__)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
#: A client that reads nothing of a stream for so long is let go, in seconds.
STALLED_S = 60.0
#: And for so long when the process ends.
LEAVING_S = 1.0
#: What is being stored may take so long when the process ends.
CLOSING_S = 2.0
_BODY_METHODS = frozenset({"POST", "PATCH", "PUT"})


_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"


def create_app(
    deployment: Deployment,
    *,
    admin_key: str,
    metrics: CollectorRegistry = registry,
    on_published: Callable[[], None] | None = None,
    readers: JobReaders | None = None,
    ingest: Ingest | None = None,
    condition: Callable[[], Condition] | None = None,
) -> web.Application:
    """The API on a deployment, with no dispatcher inside.

    `on_published` is called after each commit that may have made work: published events, a redelivery, a resume.
    `condition` asks the dispatcher in this process, if there is one, how it is.
    `ingest` is the dispatcher's in this process; without it what is published waits in the outbox for another's.
    `readers` are those whom a dispatcher in this process wakes; they are let go when the application shuts down.
    """
    document, page = _documentation()
    followers = readers or JobReaders(deployment)
    committer, store = ingest, None
    if committer is None:
        store = open_store(deployment.database, deployment.settings)
        committer = Ingest(store, ByTheQueue(on_published or _nobody))
    door = Door(
        deployment=deployment,
        authenticator=Authenticator(deployment, admin_key),
        quotas=Quotas(deployment),
        registry=metrics,
        readers=followers,
        ingest=committer,
        writing=set(),
        wake=on_published or _nobody,
        condition=condition,
        openapi=document,
        docs=page.html,
    )
    app = web.Application(middlewares=[answering(deployment)], client_max_size=0)
    for route in ROUTES:
        for method in served(route.method):
            app.router.add_route(method, route.path, _handler(route, door))

    async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
        for name, value in _HEADERS.items():
            response.headers[name] = value
        is_page = response.content_type == "text/html"
        response.headers["Content-Security-Policy"] = page.policy if is_page else _API_POLICY
        response.headers["Cache-Control"] = "no-cache" if request.path in ("/docs", "/openapi.json") else "no-store"
        if _by_link(request):
            # Whoever has the link may read the job, so a page of any origin may read it with the link. Keys and
            # cookies of ours never travel this way: `*` allows no credentials, and a header with a key is preflighted.
            response.headers["Access-Control-Allow-Origin"] = "*"
        if _is_beyond_limit(request):
            response.headers["Connection"] = "close"
            response.force_close()
        if REQUEST_ID in request:
            response.headers["X-Request-Id"] = request[REQUEST_ID]

    async def let_readers_go(app: web.Application) -> None:
        await followers.close()
        # Who takes nothing must not keep the process from its end.
        for transport in list(door.writing):
            transport.abort()

    async def close_store(app: web.Application) -> None:
        await door.authenticator.close()
        await door.quotas.close()
        if store is not None:
            await door.ingest.finish(CLOSING_S)
            await store.close()

    app.on_response_prepare.append(add_headers)
    app.on_cleanup.append(close_store)
    # Before the server waits for what is being answered.
    app.on_shutdown.append(let_readers_go)
    return app


@cache
def _documentation() -> tuple[bytes, docs_page.Page]:
    document = openapi.document(ROUTES)
    return openapi.encoded(document), docs_page.render(document)


def _nobody() -> None:
    """Nobody in this process wants to know."""


def _by_link(request: web.BaseRequest) -> bool:
    route = request.get(ROUTE)
    return route is not None and route.linked and "token" in request.query


def _handler(route: Route, door: Door) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route
        if route.parameters and request.path in METHODS:
            raise web.HTTPMethodNotAllowed(request.method, METHODS[request.path])
        if route.scope is not None and _is_beyond_limit(request):
            told = Told(
                TOO_MANY_CONNECTIONS,
                "this process has as many connections as it takes (DISPATCHER_MAX_CONNECTIONS)",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
            return told.response(request[REQUEST_ID])
        reply = await _serve(request, route, door)
        if isinstance(reply.content, Stream):
            return await _stream(request, reply, reply.content, door)
        return _response(reply)

    return handle


def _is_beyond_limit(request: web.BaseRequest) -> bool:
    return isinstance(request.protocol, Connection) and request.protocol.beyond_limit


async def _serve(request: web.Request, route: Route, door: Door) -> Reply:
    caller = None if route.scope is None else await _caller(request, route, door)
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
        client=Client(
            last_event_id=request.headers.get("Last-Event-ID"),
            by_link=caller is not None and caller.job_id is not None,
            gone=lambda: _is_gone(request),
            check=lambda: _caller(request, route, door),
        ),
    )
    return await route.handler(call)


async def _caller(request: web.Request, route: Route, door: Door) -> Caller:
    authorizations = request.headers.getall("Authorization", ())
    if len(authorizations) > 1:
        # What stands before us may have looked at another one.
        raise Unauthenticated("there is more than one Authorization header; send one")
    link = {"token": request.query.get("token"), "job_id": request.match_info["job_id"]} if route.linked else {}
    caller = await door.authenticator.caller(
        authorizations[0] if authorizations else None,
        lambda: address_of(request, door.deployment),
        gone=lambda: _is_gone(request),
        **link,
    )
    request[CALLER] = caller
    if route.scope is not None:
        check_scope(caller, route.scope, of_deployment=route.of_deployment)
    return caller


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


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
        case Stream():
            raise TypeError("a stream is sent part by part")
        case model:
            body = model.json_bytes()
    headers.setdefault("Content-Type", "application/json")
    return web.Response(status=reply.status, body=body, headers=headers)


async def _stream(request: web.Request, reply: Reply, stream: Stream, door: Door) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if request.method == "HEAD":
        return response
    await response.prepare(request)
    try:
        async with aclosing(stream.parts):
            async for part in stream.parts:
                if door.readers.closing:
                    break
                # Returns when the client has read most of what was written: nothing piles up here.
                async with _being_read(request, door):
                    await response.write(part)
                del part
        async with _being_read(request, door):
            await response.write_eof()
    except (ConnectionError, TimeoutError, DispatcherError) as error:
        # It went, stalled, lost its right, or the database is away: it comes back with `Last-Event-ID`, or not.
        _log.debug("api.stream_ended", error=type(error).__name__, **logged(request))
        _cut(request)
    except Exception as error:  # noqa: BLE001 - the answer has begun, so that no problem can be sent any more
        log_fault(error, request)
        _cut(request)
    return response


@asynccontextmanager
async def _being_read(request: web.Request, door: Door) -> AsyncGenerator[None]:
    """Something is written to the client meanwhile. Raises `TimeoutError` when it takes nothing for `STALLED_S`."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    door.writing.add(transport)
    try:
        async with asyncio.timeout(LEAVING_S if door.readers.closing else STALLED_S):
            yield
    finally:
        door.writing.discard(transport)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()

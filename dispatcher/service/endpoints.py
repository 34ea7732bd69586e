"""Endpoints: registered, looked at, changed, tested and caught up."""

import json

from sqlalchemy import and_, func, literal, or_, select, true
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.errors import Conflict, InvalidField
from dispatcher.ids import Kind, public_id
from dispatcher.rules.event_types import RESERVED_PREFIX
from dispatcher.rules.own_events import HEARTBEAT
from dispatcher.service.endpoint_changes import Action, check_proved, delete, set_status, update
from dispatcher.service.endpoint_registration import create, create_callback
from dispatcher.service.endpoint_views import endpoint_view, find, view
from dispatcher.service.models import Endpoint, Page, Recover, RedeliveryAccepted, TestResult, VerifyResult
from dispatcher.service.pages import DEFAULT_PAGE, Order, fetch_page
from dispatcher.service.redeliveries import start
from dispatcher.service.scope import text_filter, within
from dispatcher.service.secret_rotation import activate_secret, rotate_secret
from dispatcher.states import DeliveryState, EndpointStatus
from dispatcher.store.columns import RowId
from dispatcher.store.deployment import Deployment
from dispatcher.store.tables import Tables
from dispatcher.store.verification import may_challenge

__all__ = [
    "Action",
    "activate_secret",
    "create",
    "create_callback",
    "delete",
    "get",
    "list_page",
    "recover",
    "rotate_secret",
    "send_test",
    "set_status",
    "update",
    "verify",
]


async def get(deployment: Deployment, endpoint_id: str, *, tenant: str | None) -> Endpoint:
    """An endpoint as it stands. Raises `NotFound`."""
    tables = deployment.database.tables
    async with deployment.database.read() as connection:
        return await view(connection, tables, (await find(connection, tables, endpoint_id, tenant)).row_id)


async def list_page(
    deployment: Deployment,
    *,
    tenant: str | None,
    limit: int = DEFAULT_PAGE,
    cursor: str | None = None,
    job_id: str | None = None,
    status: EndpointStatus | str | None = None,
) -> Page[Endpoint]:
    """A part of the endpoints, newest first. Raises `InvalidField`."""
    tables = deployment.database.tables
    endpoints = tables.endpoints
    statement = select(endpoints).where(endpoints.c.deleted_at.is_(None), within(tenant, endpoints.c.tenant))
    if job_id is not None:
        statement = statement.where(endpoints.c.job_id == text_filter("job_id", job_id))
    if status is not None:
        statement = statement.where(endpoints.c.status == text_filter("status", status))
    order = Order("endpoints", (endpoints.c.created_at, endpoints.c.row_id))
    async with deployment.database.read() as connection:
        rows, following = await fetch_page(connection, statement, order, limit=limit, cursor=cursor)
        return Page[Endpoint](data=[endpoint_view(row) for row in rows], next_cursor=following)


async def recover(deployment: Deployment, endpoint_id: str, body: Recover, *, tenant: str | None) -> RedeliveryAccepted:
    """Starts a bulk redelivery of what matches the endpoint, was published in that time and was not delivered.

    Raises `NotFound`, `InvalidField`, and `Conflict` while the endpoint is disabled.
    """
    if body.until is not None and body.until <= body.since:
        raise InvalidField("until", "must be later than since")
    database = deployment.database
    events, deliveries, queue = database.tables.events.c, database.tables.deliveries, database.tables.fanout_queue.c
    # Of millions it takes minutes.
    async with database.begin(limited=False) as connection:
        endpoint = await find(connection, database.tables, endpoint_id, tenant)
        if endpoint.status == EndpointStatus.DISABLED:
            raise Conflict(f"the endpoint is disabled ({endpoint.disabled_reason}); enable it, then recover")
        patterns: list[str] = json.loads(endpoint.event_types)
        settled_or_under_way = select(deliveries.c.row_id).where(
            deliveries.c.event_row == events.row_id,
            deliveries.c.endpoint_row == endpoint.row_id,
            deliveries.c.state.in_((DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.SENDING)),
        )
        missed = select(events.row_id, literal(endpoint.row_id, RowId).label("endpoint_row")).where(
            within(endpoint.tenant, events.tenant),
            events.created_at >= body.since,
            events.created_at < body.until if body.until is not None else true(),
            events.job_id == endpoint.job_id if endpoint.job_id is not None else true(),
            or_(*(_fits(database.tables, pattern) for pattern in patterns)),
            _not_about(database.tables, public_id(Kind.ENDPOINT, endpoint.row_id)),
            ~settled_or_under_way.exists(),
            # What waits to be fanned out comes to this endpoint anyway.
            events.row_id.not_in(select(queue.event_row).where(within(endpoint.tenant, queue.tenant))),
        )
        return await start(connection, database, endpoint.tenant, missed, body.rate_per_s)


async def send_test(deployment: Deployment, endpoint_id: str, *, tenant: str | None) -> TestResult:
    """Sends a signed `webhook.test` event now and waits for the answer.

    Raises `NotFound`, and `Conflict` for an endpoint that must prove first to want it.
    """
    async with deployment.database.read() as connection:
        endpoint = await find(connection, deployment.database.tables, endpoint_id, tenant)
        await check_proved(connection, deployment, endpoint)
    # Only here: the HTTP client takes a fifth of a second to load, and other commands do without.
    from dispatcher.engine import test_event

    result = await test_event.send_test(deployment, endpoint.row_id)
    return TestResult(
        delivered=result.delivered,
        status=result.status,
        duration_ms=result.duration_ms,
        error=result.error,
        response_excerpt=result.excerpt or None,
    )


async def verify(deployment: Deployment, endpoint_id: str, *, tenant: str | None) -> VerifyResult:
    """Sends a challenge now and waits for the answer; one that repeats it proves the endpoint, and enables it where it
    was paused for want of that alone.

    Raises `NotFound`, and `Conflict` while it is disabled and proved already, or where its host was challenged often
    just now.
    """
    tables = deployment.database.tables
    async with deployment.database.read() as connection:
        endpoint = await find(connection, tables, endpoint_id, tenant)
    if endpoint.status == EndpointStatus.DISABLED and endpoint.verified_at is not None:
        raise Conflict(f"the endpoint is disabled ({endpoint.disabled_reason}), and proved already; enable it")
    if endpoint.verified_at is None:
        # Who asks may not be who would get it.
        rate = deployment.settings.unverified_rate
        async with deployment.database.begin() as connection:
            if not await may_challenge(connection, deployment.database, endpoint.destination_row, rate):
                raise Conflict(
                    "too much is sent to this host just now that it has not asked for; try again in a second"
                )
    # Only here, as above.
    from dispatcher.engine.challenge import challenge
    from dispatcher.engine.test_event import turn

    async with turn(endpoint.tenant):
        result = await challenge(deployment, endpoint.row_id)
    async with deployment.database.read() as connection:
        verified_at = (await view(connection, tables, endpoint.row_id)).verified_at
    return VerifyResult(
        verified=result.verified,
        verified_at=verified_at,
        status=result.status,
        duration_ms=result.duration_ms,
        error=result.error,
    )


def _fits(tables: Tables, pattern: str) -> ColumnElement[bool]:
    event_type = tables.events.c.type
    if pattern == "*":
        return ~_ours(tables)
    if pattern.endswith(".*"):
        # No LIKE: `_` is a wild card there, and SQLite's ignores case.
        prefix = pattern.removesuffix("*")
        return func.substr(event_type, 1, len(prefix)) == prefix
    return event_type == pattern


def _ours(tables: Tables) -> ColumnElement[bool]:
    """Whether an event is the dispatcher's own."""
    return func.substr(tables.events.c.type, 1, len(RESERVED_PREFIX)) == RESERVED_PREFIX


def _not_about(tables: Tables, endpoint_id: str) -> ColumnElement[bool]:
    """Not what the dispatcher says about the endpoint itself, nor anybody's heartbeats: these nobody misses."""
    events = tables.events.c
    about = events.data.contains(f'"endpoint_id":"{endpoint_id}"', autoescape=True)
    return or_(~_ours(tables), and_(events.type != HEARTBEAT, ~about))

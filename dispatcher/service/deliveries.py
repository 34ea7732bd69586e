"""Deliveries: looked at with every attempt, sent again, cancelled."""

from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import Conflict, NotFound
from dispatcher.ids import Kind, row_id
from dispatcher.rules.own_events import HEARTBEAT
from dispatcher.service.delivery_views import attempt_view, attempts_with_endpoint, view, with_events
from dispatcher.service.models import Delivery, DeliveryWithLog, Page
from dispatcher.service.pages import DEFAULT_PAGE, Order, fetch_page
from dispatcher.service.scope import events_of_job, named_row, text_filter, within
from dispatcher.states import DeliveryState, Reason
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from dispatcher.store.tables import Tables
from dispatcher.store.transitions import cancel_delivery, put_back


async def get(deployment: Deployment, delivery_id: str, *, tenant: str | None) -> DeliveryWithLog:
    """A delivery with its attempts. Raises `NotFound`."""
    tables = deployment.database.tables
    async with deployment.database.read() as connection:
        row = await _find(connection, tables, delivery_id, tenant)
        attempts = await connection.execute(attempts_with_endpoint(tables, row.row_id))
        return DeliveryWithLog(**dict(view(row)), attempt_log=[attempt_view(attempt) for attempt in attempts])


async def list_page(
    deployment: Deployment,
    *,
    tenant: str | None,
    limit: int = DEFAULT_PAGE,
    cursor: str | None = None,
    state: DeliveryState | str | None = None,
    endpoint_id: str | None = None,
    event_id: str | None = None,
    job_id: str | None = None,
) -> Page[Delivery]:
    """A part of the deliveries, newest first; heartbeats only where `endpoint_id` or `event_id` is given.

    Raises `InvalidField`.
    """
    tables = deployment.database.tables
    deliveries, events = tables.deliveries.c, tables.events.c
    statement = with_events(tables).where(within(tenant, deliveries.tenant))
    if endpoint_id is None and event_id is None:
        # Also what lost its event's row.
        statement = statement.where(or_(events.type.is_(None), events.type != HEARTBEAT))
    if state is not None:
        statement = statement.where(deliveries.state == text_filter("state", state))
    if endpoint_id is not None:
        statement = statement.where(deliveries.endpoint_row == named_row(Kind.ENDPOINT, "endpoint_id", endpoint_id))
    if event_id is not None:
        named = select(events.row_id).where(
            events.id == text_filter("event_id", event_id), within(tenant, events.tenant)
        )
        statement = statement.where(deliveries.event_row.in_(named))
    if job_id is not None:
        statement = statement.where(
            deliveries.event_row.in_(events_of_job(tables, text_filter("job_id", job_id), tenant))
        )
    async with deployment.database.read() as connection:
        rows, following = await fetch_page(
            connection, statement, Order("deliveries", (deliveries.row_id,)), limit=limit, cursor=cursor
        )
        return Page[Delivery](data=[view(row) for row in rows], next_cursor=following)


async def redeliver(deployment: Deployment, delivery_id: str, *, tenant: str | None) -> Delivery:
    """delivered | dead | cancelled | superseded → pending, a new round; a pending one is due at once, schedule anew.

    Raises `NotFound`, and `Conflict` while it is sending, its endpoint is disabled or deleted, or it is progress whose
    job has settled or whose place newer progress takes.
    """
    database = deployment.database
    async with database.begin() as connection:
        row = await _find(connection, database.tables, delivery_id, tenant)
        (result,) = await put_back(connection, database, [(row.event_row, row.endpoint_row)])
        match result.outcome:
            case "sending":
                raise Conflict("the delivery is being sent; look again when this attempt has ended")
            case "unavailable":
                raise Conflict(
                    "its endpoint is disabled or deleted; enable it (POST /v1/endpoints/{id}/enable), then redeliver"
                )
            case "settled":
                raise Conflict("its job has settled: progress of a settled job is not sent again")
            case "stale":
                raise Conflict("newer progress of its job is under way to this endpoint and takes its place")
            case "pending":
                await _bring_forward(connection, database, row.row_id)
            case "put_back":
                pass
        return view(await _find(connection, database.tables, delivery_id, tenant))


async def cancel(deployment: Deployment, delivery_id: str, *, tenant: str | None) -> Delivery:
    """pending → cancelled, reason `operator`. Raises `NotFound`, and `Conflict` when it is not pending."""
    database = deployment.database
    async with database.begin() as connection:
        row = await _find(connection, database.tables, delivery_id, tenant)
        if not await cancel_delivery(connection, database, row.row_id, Reason.OPERATOR):
            now = await _find(connection, database.tables, delivery_id, tenant)
            raise Conflict(f"the delivery is {now.state}; only what is pending can be cancelled")
        return view(await _find(connection, database.tables, delivery_id, tenant))


async def _find(connection: AsyncConnection, tables: Tables, delivery_id: str, tenant: str | None) -> Row[Any]:
    deliveries = tables.deliveries.c
    row: Row[Any] | None = (
        await connection.execute(
            with_events(tables).where(
                deliveries.row_id == row_id(Kind.DELIVERY, delivery_id), within(tenant, deliveries.tenant)
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"no delivery {delivery_id}; GET /v1/deliveries lists yours")
    return row


async def _bring_forward(connection: AsyncConnection, database: Database, delivery_row: int) -> None:
    deliveries = database.tables.deliveries
    await connection.execute(
        deliveries.update()
        .where(deliveries.c.row_id == delivery_row, deliveries.c.state == DeliveryState.PENDING)
        .values(due_at=None, failures=0, updated_at=database.now())
    )

"""Dead letters: looked at, sent again in bulk, discarded."""

from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.errors import FieldProblem, InvalidField, InvalidFields, NotFound
from dispatcher.ids import Kind, public_id, row_id
from dispatcher.service import redeliveries
from dispatcher.service.delivery_views import error_of
from dispatcher.service.models import (
    DeadLetter,
    DeadLetterCount,
    DeadLetterDiscard,
    DeadLetterFilter,
    DeadLetterRedeliver,
    Page,
    RedeliveryAccepted,
)
from dispatcher.service.pages import DEFAULT_PAGE, Order, fetch_page
from dispatcher.service.scope import named_row, within
from dispatcher.states import Reason, read_word
from dispatcher.store.deployment import Deployment
from dispatcher.store.tables import Tables


async def get(deployment: Deployment, dead_letter_id: str, *, tenant: str | None) -> DeadLetter:
    """One dead letter. Raises `NotFound`."""
    tables = deployment.database.tables
    letters = tables.dead_letters.c
    async with deployment.database.read() as connection:
        row = (
            await connection.execute(
                _with_events(tables).where(
                    letters.row_id == row_id(Kind.DEAD_LETTER, dead_letter_id), within(tenant, letters.tenant)
                )
            )
        ).one_or_none()
    if row is None:
        raise NotFound(f"no dead letter {dead_letter_id}; GET /v1/dead-letters lists yours")
    return _view(row)


async def list_page(
    deployment: Deployment,
    filters: DeadLetterFilter | None = None,
    *,
    tenant: str | None,
    limit: int = DEFAULT_PAGE,
    cursor: str | None = None,
) -> Page[DeadLetter]:
    """A part of the dead letters that fit, newest first. Raises `InvalidField`."""
    tables = deployment.database.tables
    statement = _with_events(tables).where(*_conditions(tables, filters or DeadLetterFilter(), tenant))
    async with deployment.database.read() as connection:
        rows, following = await fetch_page(
            connection, statement, Order("dead_letters", (tables.dead_letters.c.row_id,)), limit=limit, cursor=cursor
        )
    return Page[DeadLetter](data=[_view(row) for row in rows], next_cursor=following)


async def redeliver(deployment: Deployment, body: DeadLetterRedeliver, *, tenant: str | None) -> RedeliveryAccepted:
    """Starts a bulk redelivery of the dead letters that fit, or only counts them.

    Takes what was not redelivered yet, unless `ids` or `redelivered` say otherwise. Raises `InvalidField`.
    """
    _refuse_everything(body)
    database = deployment.database
    letters = database.tables.dead_letters.c
    conditions = _conditions(database.tables, body, tenant)
    if body.ids is None and body.redelivered is None:
        conditions.append(letters.redelivered_at.is_(None))
    chosen = select(letters.event_row, letters.endpoint_row).where(*conditions).distinct()
    # Of millions it takes minutes.
    async with database.begin(limited=False) as connection:
        await _refuse_unknown_ids(connection, database.tables, body, tenant)
        if body.dry_run:
            return RedeliveryAccepted(id=None, matched=await _count(connection, chosen), dry_run=True)
        owner = tenant if tenant is not None else body.tenant
        return await redeliveries.start(connection, database, owner, chosen, body.rate_per_s)


async def discard(deployment: Deployment, body: DeadLetterDiscard, *, tenant: str | None) -> DeadLetterCount:
    """Deletes the dead letters that fit, or only counts them; their deliveries stay dead. Raises `InvalidField`."""
    _refuse_everything(body)
    database = deployment.database
    letters = database.tables.dead_letters
    conditions = _conditions(database.tables, body, tenant)
    # Of millions it takes minutes.
    async with database.begin(limited=False) as connection:
        await _refuse_unknown_ids(connection, database.tables, body, tenant)
        if body.dry_run:
            matched = await _count(connection, select(letters.c.row_id).where(*conditions))
        else:
            matched = (await connection.execute(letters.delete().where(*conditions))).rowcount
    return DeadLetterCount(matched=matched, dry_run=body.dry_run)


def _refuse_everything(body: DeadLetterRedeliver | DeadLetterDiscard) -> None:
    filters = DeadLetterFilter.model_fields.keys() - {"tenant"}
    if not body.all and all(getattr(body, name) is None for name in filters):
        raise InvalidField("all", "no filter is given; give one, or `all` for every dead letter")


async def _refuse_unknown_ids(
    connection: AsyncConnection, tables: Tables, body: DeadLetterFilter, tenant: str | None
) -> None:
    if body.ids is None:
        return
    letters = tables.dead_letters.c
    rows = {_letter_row(place, identifier): place for place, identifier in enumerate(body.ids)}
    found = await connection.execute(
        select(letters.row_id).where(letters.row_id.in_(rows), within(tenant, letters.tenant))
    )
    unknown = rows.keys() - set(found.scalars())
    if unknown:
        places = sorted(rows[row] for row in unknown)
        raise InvalidFields(tuple(FieldProblem(f"ids/{place}", "there is no such dead letter") for place in places))


def _letter_row(place: int, identifier: str) -> int:
    return named_row(Kind.DEAD_LETTER, f"ids/{place}", identifier)


def _conditions(tables: Tables, filters: DeadLetterFilter, tenant: str | None) -> list[ColumnElement[bool]]:
    letters = tables.dead_letters.c
    conditions = [within(tenant, letters.tenant), within(filters.tenant, letters.tenant)]
    if filters.ids is not None:
        conditions.append(letters.row_id.in_([_letter_row(*numbered) for numbered in enumerate(filters.ids)]))
    if filters.endpoint_id is not None:
        conditions.append(letters.endpoint_row == named_row(Kind.ENDPOINT, "endpoint_id", filters.endpoint_id))
    if filters.type is not None:
        conditions.append(letters.type == filters.type)
    if filters.reason is not None:
        conditions.append(letters.reason == filters.reason)
    if filters.job_id is not None:
        conditions.append(letters.job_id == filters.job_id)
    if filters.since is not None:
        conditions.append(letters.created_at >= filters.since)
    if filters.until is not None:
        conditions.append(letters.created_at < filters.until)
    if filters.redelivered is not None:
        gone = letters.redelivered_at
        conditions.append(gone.is_not(None) if filters.redelivered else gone.is_(None))
    return conditions


async def _count(connection: AsyncConnection, chosen: Select[Any]) -> int:
    counted: int = (await connection.execute(select(func.count()).select_from(chosen.subquery()))).scalar_one()
    return counted


def _with_events(tables: Tables) -> Select[Any]:
    events = tables.events.c
    return select(tables.dead_letters, func.coalesce(events.id, "").label("event_id")).outerjoin_from(
        tables.dead_letters, tables.events, events.row_id == tables.dead_letters.c.event_row
    )


def _view(row: Row[Any]) -> DeadLetter:
    return DeadLetter(
        id=public_id(Kind.DEAD_LETTER, row.row_id),
        tenant=row.tenant,
        delivery_id=public_id(Kind.DELIVERY, row.delivery_row),
        event_id=row.event_id,
        endpoint_id=public_id(Kind.ENDPOINT, row.endpoint_row),
        job_id=row.job_id,
        type=row.type,
        reason=read_word(Reason, row.reason, Reason.UNREADABLE),
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=error_of(row.last_error),
        created_at=row.created_at,
        redelivered_at=row.redelivered_at,
    )

"""Bulk redeliveries: started with everything they will touch, worked off by dispatchers, looked at and stopped."""

from typing import Any

from sqlalchemy import Integer, Select, and_, case, func, literal, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import Conflict, NotFound
from dispatcher.ids import Kind, public_id, row_id
from dispatcher.service.models import Redelivery, RedeliveryAccepted
from dispatcher.service.scope import within
from dispatcher.states import DeliveryState, RunState, read_word
from dispatcher.store.columns import RowId
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from dispatcher.store.tables import Tables


async def start(
    connection: AsyncConnection,
    database: Database,
    tenant: str | None,
    pairs: Select[Any],
    rate_per_s: float | None,
) -> RedeliveryAccepted:
    """Stores a run over `pairs` (event row, endpoint row); dispatchers put them back in publish order."""
    runs, items = database.tables.redeliveries, database.tables.redelivery_items
    run_row: int = (
        await connection.execute(
            runs.insert()
            .values(tenant=tenant, state=RunState.RUNNING, rate_per_s=rate_per_s, created_at=database.now())
            .returning(runs.c.row_id)
        )
    ).scalar_one()
    event_row, endpoint_row = pairs.subquery().c
    await connection.execute(
        items.insert().from_select(
            ["redelivery_row", "event_row", "endpoint_row"],
            select(literal(run_row, RowId), event_row, endpoint_row).distinct(),
        )
    )
    matched: int = (
        await connection.execute(select(func.count()).where(items.c.redelivery_row == run_row))
    ).scalar_one()
    values: dict[str, Any] = {"matched": matched}
    if not matched:
        values |= {"state": RunState.DONE, "finished_at": database.now()}
    await connection.execute(runs.update().where(runs.c.row_id == run_row).values(values))
    return RedeliveryAccepted(id=public_id(Kind.REDELIVERY, run_row), matched=matched, dry_run=False)


async def get(deployment: Deployment, redelivery_id: str, *, tenant: str | None) -> Redelivery:
    """How far a run is. Raises `NotFound`."""
    async with deployment.database.read() as connection:
        return await _view(connection, deployment.database.tables, redelivery_id, tenant)


async def cancel(deployment: Deployment, redelivery_id: str, *, tenant: str | None) -> Redelivery:
    """running → cancelled: what was put back stays. Raises `NotFound`, and `Conflict` when it has ended."""
    database = deployment.database
    runs = database.tables.redeliveries
    async with database.begin() as connection:
        before = await _find(connection, database.tables, redelivery_id, tenant)
        stopped = await connection.execute(
            runs.update()
            .where(runs.c.row_id == before.row_id, runs.c.state == RunState.RUNNING)
            .values(state=RunState.CANCELLED, finished_at=database.now())
        )
        if not stopped.rowcount:
            raise Conflict(f"the redelivery has ended already ({before.state}); there is nothing to cancel")
        return await _view(connection, database.tables, redelivery_id, tenant)


async def _find(connection: AsyncConnection, tables: Tables, redelivery_id: str, tenant: str | None) -> Row[Any]:
    runs = tables.redeliveries
    row = (
        await connection.execute(
            select(runs).where(runs.c.row_id == row_id(Kind.REDELIVERY, redelivery_id), within(tenant, runs.c.tenant))
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"no redelivery {redelivery_id}")
    return row


async def _view(connection: AsyncConnection, tables: Tables, redelivery_id: str, tenant: str | None) -> Redelivery:
    run = await _find(connection, tables, redelivery_id, tenant)
    items, deliveries = tables.redelivery_items.c, tables.deliveries.c

    def ended(state: DeliveryState) -> Any:
        return func.coalesce(func.sum(case((deliveries.state == state, 1), else_=0), type_=Integer), 0)

    delivered, failed = (
        await connection.execute(
            select(ended(DeliveryState.DELIVERED), ended(DeliveryState.DEAD))
            .join_from(
                tables.redelivery_items,
                tables.deliveries,
                and_(
                    deliveries.event_row == items.event_row,
                    deliveries.endpoint_row == items.endpoint_row,
                    deliveries.attempts > items.attempts_before,
                ),
            )
            .where(items.redelivery_row == run.row_id, items.put_back)
        )
    ).one()
    return Redelivery(
        id=public_id(Kind.REDELIVERY, run.row_id),
        tenant=run.tenant,
        state=read_word(RunState, run.state, RunState.CANCELLED),
        matched=run.matched,
        done=run.done,
        delivered=delivered,
        failed=failed,
        skipped=run.skipped,
        rate_per_s=run.rate_per_s,
        created_at=run.created_at,
        finished_at=run.finished_at,
    )

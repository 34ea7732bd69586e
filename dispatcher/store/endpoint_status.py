"""The end of an endpoint's life, as the engine brings it about: disabled, and what waits for it cancelled."""

from datetime import datetime

from sqlalchemy import delete, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.ids import Kind, public_id
from dispatcher.rules.own_events import DISABLED_BY_ITSELF, endpoint_disabled
from dispatcher.states import DeliveryState, EndpointStatus, Reason, read_word
from dispatcher.store.database import Database
from dispatcher.store.endpoint_rows import WIPED
from dispatcher.store.own_events import tell_of_disabled

# Written as its partial index is declared: a parameter in place of a word would hide the index from the planner.
_EXPIRED_CALLBACKS = "job_id IS NOT NULL AND disabled_reason = 'expired' AND deleted_at IS NULL"


async def disable(connection: AsyncConnection, database: Database, endpoint_row: int, reason: Reason) -> bool:
    """enabled | paused → disabled: it matches nothing from now on. False when it was disabled or deleted already.

    Where nobody asked for it, the tenant's other endpoints that subscribe are told. What waits for it is cancelled by
    `transitions.cancel_endpoint`, in batches.
    """
    e, s = database.tables.endpoints.c, database.tables.subscriptions.c
    disabled = await connection.execute(
        update(database.tables.endpoints)
        .where(e.row_id == endpoint_row, e.status != EndpointStatus.DISABLED, e.deleted_at.is_(None))
        .values(
            status=EndpointStatus.DISABLED,
            disabled_reason=reason,
            version=e.version + 1,
            updated_at=database.now(),
        )
        .returning(e.tenant, e.url_shown, e.job_id)
    )
    changed = disabled.one_or_none()
    if changed is None:
        return False
    await connection.execute(delete(database.tables.subscriptions).where(s.endpoint_row == endpoint_row))
    if reason in DISABLED_BY_ITSELF:
        data = endpoint_disabled(
            endpoint_id=public_id(Kind.ENDPOINT, endpoint_row),
            url_shown=changed.url_shown,
            job_id=changed.job_id,
            reason=reason,
        )
        await tell_of_disabled(connection, database, changed.tenant, endpoint_row, data)
    return True


async def to_cancel(
    connection: AsyncConnection, database: Database, since: datetime | None, limit: int
) -> list[tuple[int, Reason]]:
    """Endpoints that are disabled or deleted while deliveries wait for them, with the reason these end for.

    `since`: only those that were changed after it.
    """
    e, d = database.tables.endpoints.c, database.tables.deliveries.c
    waits = (
        select(d.row_id)
        .where(d.endpoint_row == e.row_id, d.state == DeliveryState.PENDING)
        .limit(1)
        .correlate(database.tables.endpoints)
    )
    rows = await connection.execute(
        select(e.row_id, e.disabled_reason, e.deleted_at)
        # A deleted one is disabled too.
        .where(text("status = 'disabled'"), true() if since is None else e.updated_at > since, waits.exists())
        .limit(limit)
    )
    return [
        (row.row_id, Reason.ENDPOINT_DELETED if row.deleted_at is not None else _why(row.disabled_reason))
        for row in rows
    ]


async def expired(connection: AsyncConnection, database: Database, limit: int) -> list[int]:
    """Endpoints whose `expires_at` has passed, for which nothing waits, and that are not disabled yet.

    They match nothing since `expires_at`; what was made before is still delivered.
    """
    e, d = database.tables.endpoints.c, database.tables.deliveries.c
    waits = (
        select(d.row_id)
        .where(d.endpoint_row == e.row_id, d.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)))
        .correlate(database.tables.endpoints)
    )
    rows = await connection.execute(
        select(e.row_id)
        .where(
            e.expires_at.is_not(None),
            e.expires_at <= database.now(),
            e.status != EndpointStatus.DISABLED,
            e.deleted_at.is_(None),
            ~waits.exists(),
        )
        .limit(limit)
    )
    return list(rows.scalars())


async def forget_expired_callbacks(
    connection: AsyncConnection, database: Database, before: datetime, limit: int
) -> int:
    """Deletes callbacks that expired before `before`, with their secrets; answers how many.

    Their rows stay, without URL, headers and credentials, until no delivery names them any more.
    """
    e, s = database.tables.endpoints.c, database.tables.endpoint_secrets.c
    rows = list(
        (
            await connection.execute(
                select(e.row_id).where(text(_EXPIRED_CALLBACKS), e.updated_at < before).limit(limit)
            )
        ).scalars()
    )
    if rows:
        await connection.execute(delete(database.tables.endpoint_secrets).where(s.endpoint_row.in_(rows)))
        await connection.execute(
            update(database.tables.endpoints)
            .where(e.row_id.in_(rows))
            .values(deleted_at=database.now(), version=e.version + 1, **WIPED)
        )
    return len(rows)


def _why(stored: str | None) -> Reason:
    return Reason.OPERATOR if stored is None else read_word(Reason, stored, Reason.UNREADABLE)

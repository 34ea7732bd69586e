"""What is not settled, counted for the whole deployment; each count stays on a partial index."""

from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.states import DeliveryState
from dispatcher.store.database import Database

# Written as the partial indexes are declared: a parameter in place of a word would hide the index from the planner.
_CLAIMABLE = "state = 'pending' AND due_at IS NULL AND NOT waiting"
_DUE_LATER = "state = 'pending' AND due_at IS NOT NULL"
_BEHIND_ANOTHER = (
    "lane IS NOT NULL AND state IN ('pending', 'sending') AND NOT late"
    " AND state = 'pending' AND due_at IS NULL AND waiting"
)
_SENDING = "state = 'sending'"


@dataclass(frozen=True, slots=True)
class Measured:
    """The counts at one moment."""

    deliveries: dict[str, int]
    queued: int
    dead_letters: int
    oldest_waiting_s: float


async def measure(connection: AsyncConnection, database: Database) -> Measured:
    """Counts what waits, what is sending, what is queued and what is dead."""
    tables = database.tables
    d = tables.deliveries
    pending = 0
    for part in (_DUE_LATER, _BEHIND_ANOTHER):
        pending += (await connection.execute(select(func.count()).select_from(d).where(text(part)))).scalar_one()
    claimable = select(func.count(), func.min(d.c.created_at)).select_from(d).where(text(_CLAIMABLE))
    count, oldest = (await connection.execute(claimable)).one()
    pending += count
    sending = (await connection.execute(select(func.count()).select_from(d).where(text(_SENDING)))).scalar_one()
    now = (await connection.execute(select(database.now()))).scalar_one()
    return Measured(
        deliveries={DeliveryState.PENDING.value: pending, DeliveryState.SENDING.value: sending},
        queued=(await connection.execute(select(func.count()).select_from(tables.fanout_queue))).scalar_one(),
        dead_letters=(
            await connection.execute(
                select(func.count())
                .select_from(tables.dead_letters)
                .where(tables.dead_letters.c.redelivered_at.is_(None))
            )
        ).scalar_one(),
        oldest_waiting_s=0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()),
    )

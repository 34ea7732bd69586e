"""(j) What `publish` adds to a durable PostgreSQL transaction, against one more INSERT of the same bytes."""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Column, Identity, Integer, MetaData, Table, Text, insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.events import DATA, DATA_VALUE, TYPE
from benchmarks.receivers import Receiver
from benchmarks.rows import Plan, Row
from benchmarks.scene import Databases, Scene
from dispatcher.outbox.publish import publish

_METADATA = MetaData()
#: A producer's own table, and the bare one that stands for an outbox.
_OWN = Table("own", _METADATA, Column("row_id", Integer, Identity(), primary_key=True), Column("state", Text))
_BARE = Table(
    "bare",
    _METADATA,
    Column("row_id", Integer, Identity(), primary_key=True),
    Column("id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", Text, nullable=False),
)

Adds = Callable[[AsyncSession], Awaitable[None]]
#: Transactions that prepare statements and plans.
_WARM_UP = 20
#: How often a transaction adds what is measured, so that it shows beside the disk's part in the commit.
TIMES = 10


@dataclass(frozen=True, slots=True)
class PublishCost:
    """Medians of whole transactions, in milliseconds; with `TIMES` INSERTs or events."""

    without_ms: float
    with_inserts_ms: float
    with_events_ms: float

    @property
    def insert_ms(self) -> float:
        """What one INSERT adds."""
        return (self.with_inserts_ms - self.without_ms) / TIMES

    @property
    def publish_ms(self) -> float:
        """What one `publish` adds."""
        return (self.with_events_ms - self.without_ms) / TIMES


async def measure(databases: Databases, *, transactions: int) -> PublishCost:
    """A producer's transaction that changes a row of its own: alone, with INSERTs beside it, with events; in turns."""
    async with databases.scene("postgresql") as scene:
        async with scene.deployment.database.begin() as connection:
            await connection.run_sync(_METADATA.create_all)
            await connection.execute(insert(_OWN).values(state=""))
        took: dict[Adds, list[float]] = {_nothing: [], _insert: [], _publish: []}
        for number in range(_WARM_UP + transactions):
            for adds, times in took.items():
                taken_s = await _transaction(scene, adds)
                if number >= _WARM_UP:
                    times.append(taken_s * 1000)
        return PublishCost(*(median(times) for times in took.values()))


async def _transaction(scene: Scene, adds: Adds) -> float:
    started = time.perf_counter()
    async with AsyncSession(scene.deployment.database.engine) as session:
        await session.execute(text("UPDATE own SET state = :state"), {"state": TYPE})
        for _ in range(TIMES):
            await adds(session)
        await session.commit()
    return time.perf_counter() - started


async def _nothing(session: AsyncSession) -> None:
    return


async def _insert(session: AsyncSession) -> None:
    await session.execute(insert(_BARE).values(id=f"evt_{secrets.token_hex(16)}", type=TYPE, data=DATA))


async def _publish(session: AsyncSession) -> None:
    publish(session, TYPE, DATA_VALUE)


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's line on publishing in a producer's transaction."""
    found = await measure(databases, transactions=plan.events // 15)
    return [
        Row(
            "what `publish` adds to a durable PostgreSQL transaction, to one more INSERT of the same bytes",
            f"{found.publish_ms / found.insert_ms:.2f} ({found.publish_ms:.2f} to {found.insert_ms:.2f} ms,"
            f" on {found.without_ms:.2f} ms)",
            "≤ 1.5",
            found.publish_ms <= 1.5 * found.insert_ms,
        )
    ]

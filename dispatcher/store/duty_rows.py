"""Whose turn a periodic duty is: whoever moves its row's time on does it, once per deployment."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import and_, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.store.columns import UtcTime
from dispatcher.store.database import Database
from dispatcher.store.hot import CLOCK_SLACK_S


async def ensure(connection: AsyncConnection, database: Database, names: Mapping[str, float]) -> None:
    """Makes the rows of duties that have none yet; they are due at once."""
    make = sqlite.insert if database.dialect == "sqlite" else postgresql.insert
    for name in names:
        await connection.execute(
            make(database.tables.duties).values(name=name, next_run_at=database.now()).on_conflict_do_nothing()
        )


async def due(connection: AsyncConnection, database: Database, intervals_s: Mapping[str, float]) -> list[str]:
    """Those of the named duties whose time has come."""
    table = database.tables.duties
    is_due = or_(*(and_(table.c.name == name, _has_come(database, every_s)) for name, every_s in intervals_s.items()))
    return list((await connection.execute(select(table.c.name).where(is_due))).scalars())


def _has_come(database: Database, interval_s: float) -> ColumnElement[bool]:
    """Its time has come, or lies so far ahead that the clock was set back since it was put off."""
    next_run_at = database.tables.duties.c.next_run_at
    return or_(next_run_at <= database.now(), next_run_at > later(database, interval_s + CLOCK_SLACK_S))


async def take(connection: AsyncConnection, database: Database, name: str, interval_s: float) -> bool:
    """Takes a duty that is due and puts its next time off; false when another process was faster."""
    table = database.tables.duties
    is_due = select(table.c.name).where(table.c.name == name, _has_come(database, interval_s))
    taken = await connection.execute(
        update(table)
        # Who takes it may have been paused in the middle: nobody waits for that, the other duties have their turn.
        .where(table.c.name.in_(is_due.with_for_update(skip_locked=True)))
        .values(next_run_at=later(database, interval_s))
    )
    return taken.rowcount > 0


def later(database: Database, seconds: float) -> ColumnElement[object]:
    """*Now* and so many seconds, in a statement."""
    now = database.literal_now()
    if now is not None:
        return literal(now + timedelta(seconds=seconds), UtcTime())
    return database.now() + literal(timedelta(seconds=seconds))

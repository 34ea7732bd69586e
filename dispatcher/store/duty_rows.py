"""Whose turn a periodic duty is: whoever moves its row's time on does it, once per deployment."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import and_, case, literal, or_, select, update
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
    name = database.tables.duties.c.name
    return list((await connection.execute(select(name).where(_are_due(database, intervals_s)))).scalars())


def _are_due(database: Database, intervals_s: Mapping[str, float]) -> ColumnElement[bool]:
    name = database.tables.duties.c.name
    return or_(*(and_(name == duty, _has_come(database, every_s)) for duty, every_s in intervals_s.items()))


def _has_come(database: Database, interval_s: float) -> ColumnElement[bool]:
    """Its time has come, or lies so far ahead that the clock was set back since it was put off."""
    next_run_at = database.tables.duties.c.next_run_at
    return or_(next_run_at <= database.now(), next_run_at > later(database, interval_s + CLOCK_SLACK_S))


async def take(connection: AsyncConnection, database: Database, intervals_s: Mapping[str, float]) -> list[str]:
    """Takes those of the named duties that are due and puts their next time off; answers which.

    None that another process has taken, or is just taking.
    """
    table = database.tables.duties
    is_due = select(table.c.name).where(_are_due(database, intervals_s))
    next_run_at = case(*((table.c.name == name, later(database, every_s)) for name, every_s in intervals_s.items()))
    taken = await connection.execute(
        update(table)
        # Who takes one may have been paused in the middle: nobody waits for that, the other duties have their turn.
        .where(table.c.name.in_(is_due.with_for_update(skip_locked=True)))
        .values(next_run_at=next_run_at)
        .returning(table.c.name)
    )
    return list(taken.scalars())


async def holding(connection: AsyncConnection, conditions: Mapping[str, ColumnElement[bool]]) -> set[str]:
    """The names of the conditions that hold, asked in one statement."""
    if not conditions:
        return set()
    answers = (await connection.execute(select(*conditions.values()))).one()
    return {name for name, holds in zip(conditions, answers, strict=True) if holds}


def later(database: Database, seconds: float) -> ColumnElement[object]:
    """*Now* and so many seconds, in a statement."""
    now = database.literal_now()
    if now is not None:
        return literal(now + timedelta(seconds=seconds), UtcTime())
    return database.now() + literal(timedelta(seconds=seconds))

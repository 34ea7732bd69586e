"""Whose turn a periodic duty is: whoever moves its row's time on does it, once per deployment."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, case, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Row
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
    return await _due(connection, _times(database), intervals_s)


async def take(connection: AsyncConnection, database: Database, intervals_s: Mapping[str, float]) -> list[str]:
    """Takes those of the named duties that are due and puts their next time off; answers which.

    None that another process has taken, or is just taking.
    """
    table = database.tables.duties
    # Who takes one may have been paused in the middle: nobody waits for that, the other duties have their turn.
    unlocked = _times(database).where(table.c.name.in_(list(intervals_s))).with_for_update(skip_locked=True)
    taken = await _due(connection, unlocked, intervals_s)
    if taken:
        next_run_at = case(*((table.c.name == name, later(database, intervals_s[name])) for name in taken))
        await connection.execute(update(table).where(table.c.name.in_(taken)).values(next_run_at=next_run_at))
    return taken


def _times(database: Database) -> Select[Any]:
    table = database.tables.duties
    return select(table.c.name, table.c.next_run_at, database.now().label("now"))


async def _due(connection: AsyncConnection, times: Select[Any], intervals_s: Mapping[str, float]) -> list[str]:
    # Judged here: a condition of all of them would cost more to make than to ask.
    rows = (await connection.execute(times)).all()
    return [row.name for row in rows if row.name in intervals_s and _has_come(row, intervals_s[row.name])]


def _has_come(row: Row[Any], interval_s: float) -> bool:
    """Its time has come, or lies so far ahead that the clock was set back since it was put off."""
    ahead = row.next_run_at - row.now
    return not timedelta() < ahead <= timedelta(seconds=interval_s + CLOCK_SLACK_S)


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

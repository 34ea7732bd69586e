"""Whose turn a periodic duty is: whoever moves its row's time on does it, once per deployment."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, bindparam, case, literal, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.store.columns import UtcTime
from dispatcher.store.database import Database
from dispatcher.store.hot import CLOCK_SLACK_S

#: Without which there is nothing to do, at this moment.
Condition = Callable[[Database, ColumnElement[Any]], ColumnElement[bool]]


async def ensure(connection: AsyncConnection, database: Database, names: Iterable[str]) -> None:
    """Makes the rows of duties that have none yet; they are due at once."""
    make = sqlite.insert if database.dialect == "sqlite" else postgresql.insert
    for name in names:
        await connection.execute(
            make(database.tables.duties).values(name=name, next_run_at=database.now()).on_conflict_do_nothing()
        )


class Look:
    """What there is to do: one statement, made once, since an idle process does little else."""

    def __init__(self, database: Database, conditions: Mapping[str, Condition]) -> None:
        self._database = database
        now = database.now() if database.literal_now() is None else bindparam("now", type_=UtcTime())
        table = database.tables.duties.c
        # Where the time has not come nobody asks for the condition.
        wanted = case(
            (table.next_run_at > now, None),
            *((table.name == name, condition(database, now)) for name, condition in conditions.items()),
            else_=true(),
        )
        self._statement = _times(database, now).add_columns(wanted.label("wanted"))

    async def needed(self, connection: AsyncConnection, intervals_s: Mapping[str, float]) -> list[str]:
        """Those of the named duties whose time has come and whose condition, if they have one, holds."""
        moment = self._database.literal_now()
        given = None if moment is None else {"now": moment}
        rows = (await connection.execute(self._statement, given)).mappings().all()
        return [row["name"] for row in rows if row["wanted"] is not False and _has_come(row, intervals_s)]


async def take(connection: AsyncConnection, database: Database, intervals_s: Mapping[str, float]) -> list[str]:
    """Takes those of the named duties that are due and puts their next time off; answers which.

    None that another process has taken, or is just taking.
    """
    table = database.tables.duties
    # Who takes one may have been paused in the middle: nobody waits for that, the other duties have their turn.
    times = _times(database, database.now())
    unlocked = times.where(table.c.name.in_(list(intervals_s))).with_for_update(skip_locked=True)
    rows = (await connection.execute(unlocked)).mappings().all()
    taken = [row["name"] for row in rows if _has_come(row, intervals_s)]
    if taken:
        next_run_at = case(*((table.c.name == name, later(database, intervals_s[name])) for name in taken))
        await connection.execute(update(table).where(table.c.name.in_(taken)).values(next_run_at=next_run_at))
    return taken


def _times(database: Database, now: ColumnElement[Any]) -> Select[Any]:
    table = database.tables.duties
    return select(table.c.name, table.c.next_run_at, now.label("now"))


# Judged here: a condition of all of them would cost more to make than to ask.
def _has_come(row: RowMapping, intervals_s: Mapping[str, float]) -> bool:
    """Its time has come, or lies so far ahead that the clock was set back since it was put off."""
    interval_s = intervals_s.get(row["name"])
    if interval_s is None:
        return False
    ahead = row["next_run_at"] - row["now"]
    return not timedelta() < ahead <= timedelta(seconds=interval_s + CLOCK_SLACK_S)


def later(database: Database, seconds: float) -> ColumnElement[object]:
    """*Now* and so many seconds, in a statement."""
    now = database.literal_now()
    if now is not None:
        return literal(now + timedelta(seconds=seconds), UtcTime())
    return database.now() + literal(timedelta(seconds=seconds))

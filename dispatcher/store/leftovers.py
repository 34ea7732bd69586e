"""What was left behind, as conditions that say whether there may be any: ended leases, and holds that are over."""

from typing import Any

from sqlalchemy import ColumnElement, exists, select, text

from dispatcher.store.database import Database

# Written as its partial index is declared: a parameter in place of a word would hide the index from the planner.
_HELD = "state = 'pending' AND hold_until IS NOT NULL AND NOT late"
_SENDING = "state = 'sending'"


def nobodys(database: Database, now: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that what a dispatcher claimed may be nobody's, since its lease has ended."""
    d, o = database.tables.deliveries.c, database.tables.dispatchers.c
    if database.dialect == "postgresql":
        # Rows of ended leases stay for an hour; what is in flight may lie behind many dead entries.
        return exists(select(o.row_id).where(o.leased_until <= now))
    # There a lease that is taken anew forgets those before it.
    living = exists(select(o.row_id).where(o.row_id == d.dispatcher_row, o.leased_until > now))
    return exists(select(d.row_id).where(text(_SENDING), ~living))


def hold_over(database: Database, now: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a delivery has failed for longer than it may hold its lane back."""
    d = database.tables.deliveries.c
    return exists(select(d.row_id).where(text(_HELD), d.hold_until <= now))

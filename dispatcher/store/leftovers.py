"""What was left behind, as conditions that say whether there may be any: ended leases, and holds that are over."""

from sqlalchemy import ColumnElement, exists, select, text

from dispatcher.store.database import Database

# Written as its partial index is declared: a parameter in place of a word would hide the index from the planner.
_HELD = "state = 'pending' AND hold_until IS NOT NULL AND NOT late"


def lease_ended(database: Database) -> ColumnElement[bool]:
    """The condition that a dispatcher's lease has ended that it did not give back."""
    d = database.tables.dispatchers.c
    return exists(select(d.row_id).where(d.leased_until <= database.now()))


def hold_over(database: Database) -> ColumnElement[bool]:
    """The condition that a delivery has failed for longer than it may hold its lane back."""
    d = database.tables.deliveries.c
    return exists(select(d.row_id).where(text(_HELD), d.hold_until <= database.now()))

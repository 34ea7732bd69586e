"""Everything that is sealed, brought under the key ring's first key: a few rows at a time, beside all other work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, LargeBinary, bindparam, false, func, or_, select, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import NullType

from dispatcher.store.database import Database
from dispatcher.store.keyring import FORMAT, KEY_ID_BYTES, KeyRing, Unreadable
from dispatcher.store.tables import Tables

#: Rows in one transaction.
BATCH = 200


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """One batch: how many values are under the first key now, and where it ended."""

    done: int
    #: Null: there is nothing behind it.
    last_row: int | None


def sealed_columns(tables: Tables) -> list[Column[Any]]:
    """Every column that holds sealed values: those of bytes, since nothing else is kept as bytes."""
    return [
        column for table in tables.metadata.sorted_tables for column in table.c if isinstance(column.type, LargeBinary)
    ]


async def count(connection: AsyncConnection, column: Column[Any], key_ids: Sequence[bytes]) -> tuple[int, int]:
    """How many values a column has, and how many of them none of these keys wraps."""
    others = func.count().filter(*(~_wrapped_by(column, key_id) for key_id in key_ids))
    total, foreign = (await connection.execute(select(func.count(), others).where(_is_sealed(column)))).one()
    return total, foreign


async def rewrap_batch(
    connection: AsyncConnection, column: Column[Any], keyring: KeyRing, after_row: int, *, waits: bool
) -> Rewrapped:
    """Brings up to `BATCH` values behind `after_row` that the ring's other keys wrap under the first one.

    A row that somebody else changes is passed over; with `waits` it is waited for, and then the batch is that one row:
    whoever holds several while it waits for one may be waited for itself.
    """
    row_id = column.table.c.row_id
    # As the driver gives it: a text that somebody wrote there by hand is unreadable, and no more.
    value = type_coerce(column, NullType()).label("value")
    old = (
        select(row_id, value)
        .where(row_id > after_row, or_(false(), *(_wrapped_by(column, older) for older in keyring.key_ids[1:])))
        .order_by(row_id)
        .limit(1 if waits else BATCH)
        .with_for_update(skip_locked=not waits, key_share=True)
    )
    rows = (await connection.execute(old)).all()
    changes = []
    for row in rows:
        try:
            changes.append({"of_row": row.row_id, "rewrapped": keyring.rewrap(bytes(row.value))})
        except (Unreadable, TypeError):
            # It stays as it is, for whoever finds its key.
            continue
    if changes:
        change = update(column.table).where(row_id == bindparam("of_row")).values({column: bindparam("rewrapped")})
        await connection.execute(change, changes)
    return Rewrapped(len(changes), rows[-1].row_id if rows else None)


async def announce(database: Database, dispatcher_row: int, keyring: KeyRing) -> None:
    """Says which keys a dispatcher has, so that nothing is brought under one that it lacks."""
    dispatchers = database.tables.dispatchers
    ids = ",".join(key_id.hex() for key_id in keyring.key_ids)
    async with database.begin() as connection:
        await connection.execute(dispatchers.update().where(dispatchers.c.row_id == dispatcher_row).values(key_ids=ids))


async def without_key(connection: AsyncConnection, database: Database, key_id: bytes) -> list[str]:
    """The names of living dispatchers that do not have this key."""
    d = database.tables.dispatchers.c
    alive = await connection.execute(select(d.name, d.key_ids).where(d.leased_until > database.now()))
    # One that has not said yet may lack it.
    return [row.name for row in alive if key_id.hex() not in (row.key_ids or "").split(",")]


def _is_sealed(column: Column[Any]) -> ColumnElement[bool]:
    # A deleted endpoint's URL is empty.
    return func.length(column) > 0


def _wrapped_by(column: Column[Any], key_id: bytes) -> ColumnElement[bool]:
    head = func.substr(column, 1, len(FORMAT) + KEY_ID_BYTES, type_=LargeBinary())
    return head == FORMAT + key_id

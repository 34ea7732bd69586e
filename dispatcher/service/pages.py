"""Lists in parts: newest first, each part found by the last key of the one before, so that new rows shift nothing."""

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, literal, tuple_
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.errors import InvalidField
from dispatcher.store.columns import UtcTime, from_microseconds, to_microseconds

#: How many rows a part may have, and has when nobody says.
LARGEST_PAGE = 200
DEFAULT_PAGE = 50


@dataclass(frozen=True, slots=True)
class Order:
    """What a list is ordered by, newest first; `name` tells its cursors from those of other lists."""

    name: str
    columns: tuple[ColumnElement[Any], ...]

    def cursor(self, row: Row[Any]) -> str:
        """The cursor that starts after `row`."""
        values = [row._mapping[column] for column in self.columns]
        keys = [to_microseconds(value) if isinstance(value, datetime) else value for value in values]
        return base64.urlsafe_b64encode(json.dumps([self.name, *keys]).encode()).decode().rstrip("=")

    def after(self, cursor: str) -> ColumnElement[bool]:
        """The rows after a cursor. Raises `InvalidField` for what is no cursor of this list."""
        try:
            name, *keys = json.loads(base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), b"-_", True))
            if name != self.name or len(keys) != len(self.columns):
                raise ValueError(name)
            values = [
                literal(_moment(key) if isinstance(column.type, UtcTime) else _number(key), column.type)
                for column, key in zip(self.columns, keys, strict=True)
            ]
        except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
            raise InvalidField("cursor", "is no cursor of this list; take next_cursor, or start without one") from None
        return tuple_(*self.columns) < tuple_(*values)


def _number(key: object) -> int:
    if not isinstance(key, int) or not 0 <= key < 1 << 63:
        raise ValueError(key)
    return key


def _moment(key: object) -> datetime:
    return from_microseconds(_number(key))


async def fetch_page(
    connection: AsyncConnection, statement: Select[Any], order: Order, *, limit: int, cursor: str | None
) -> tuple[list[Row[Any]], str | None]:
    """One part of a list and the cursor of the next. Raises `InvalidField` for a bad limit or cursor."""
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidField("limit", f"must be 1 to {LARGEST_PAGE}")
    if cursor is not None:
        statement = statement.where(order.after(cursor))
    statement = statement.order_by(*(column.desc() for column in order.columns)).limit(limit + 1)
    rows = list(await connection.execute(statement))
    more = len(rows) > limit
    return rows[:limit], order.cursor(rows[limit - 1]) if more else None

"""Column types that mean the same on both databases."""

import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, Dialect, Integer, any_, func, literal, select
from sqlalchemy import Text as PlainText
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: A row's own number. SQLite gives numbers out only to `INTEGER` keys.
RowId = BigInteger().with_variant(Integer(), "sqlite")


class _SqliteText(PlainText):
    """SQLite keeps bytes in a column of texts where somebody wrote such: they read as the text that they may be."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        return _as_text


def _as_text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


#: A text.
Text = PlainText().with_variant(_SqliteText(), "sqlite")


def among(
    dialect: Dialect, column: ColumnElement[Any], values: Collection[int] | Collection[str]
) -> ColumnElement[bool]:
    """Whether the column is one of these values, given as one parameter: one statement for any number of them."""
    if dialect.name == "sqlite":
        return column.in_(select(func.json_each(json.dumps(list(values))).table_valued("value").c.value))
    return column == any_(literal(list(values), ARRAY(column.type)))


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 in UTC: how SQLite keeps a moment, so that it compares and sorts exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(number: int) -> datetime:
    """The aware UTC moment of a number made by `to_microseconds`."""
    return _EPOCH + timedelta(microseconds=number)


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC moment: `timestamptz` on PostgreSQL, integer microseconds since 1970 on SQLite.

    What is no such integer reads as 1970.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times are aware UTC; this one has no time zone")
        return to_microseconds(value) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if dialect.name == "sqlite":
            try:
                return from_microseconds(value)
            except (TypeError, OverflowError):
                # Edited by hand: one such row must not keep a whole list from being read.
                return _EPOCH
        moment: datetime = value.astimezone(UTC)
        return moment

"""How tables are declared: names under a schema and prefix, and expressions that both databases understand."""

from typing import Any

from sqlalchemy import CheckConstraint, Column, Connection, ForeignKey, Identity, Index, MetaData, Table, Text, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from dispatcher.store.columns import RowId, UtcTime


class DatabaseNow(FunctionElement[Any]):
    """The database's own time, as a `UtcTime` keeps it."""

    inherit_cache = True
    type = UtcTime()


@compiles(DatabaseNow, "postgresql")
def _postgres_now(element: DatabaseNow, compiler: SQLCompiler, **kw: Any) -> str:
    return "clock_timestamp()"


@compiles(DatabaseNow, "sqlite")
def _sqlite_now(element: DatabaseNow, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000"


class RandomEventId(FunctionElement[str]):
    """A fresh event id, made by the database for producers that write plain SQL."""

    inherit_cache = True
    type = Text()


@compiles(RandomEventId, "postgresql")
def _postgres_event_id(element: RandomEventId, compiler: SQLCompiler, **kw: Any) -> str:
    return "('evt_' || replace(gen_random_uuid()::text, '-', ''))"


@compiles(RandomEventId, "sqlite")
def _sqlite_event_id(element: RandomEventId, compiler: SQLCompiler, **kw: Any) -> str:
    return "('evt_' || lower(hex(randomblob(16))))"


class Declaring:
    """Declares tables under one PostgreSQL schema and table prefix."""

    def __init__(self, schema: str | None, prefix: str) -> None:
        self.schema = schema
        self.prefix = prefix
        self.metadata = MetaData(
            schema=schema,
            naming_convention={"pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"},
        )

    def named(self, table: str) -> str:
        """The table's name with the prefix."""
        return f"{self.prefix}{table}"

    def row_key(self) -> Column[int]:
        """A key that the database gives out."""
        return Column("row_id", RowId, Identity(), primary_key=True)

    def reference(self, table: str, column: str = "row_id", **options: Any) -> Any:
        """A foreign key to a table of ours."""
        target = f"{self.named(table)}.{column}"
        return ForeignKey(f"{self.schema}.{target}" if self.schema else target, **options)

    def index(self, table: Table, name: str, *columns: str, where: str | None = None, unique: bool = False) -> None:
        """An index, partial with `where`, which statements must repeat word for word to use it on SQLite."""
        options: dict[str, Any] = {"postgresql_where": text(where), "sqlite_where": text(where)} if where else {}
        Index(f"ix_{self.prefix}{name}", *(table.c[column] for column in columns), unique=unique, **options)

    def check(self, name: str, *, sqlite: str, postgresql: str) -> list[CheckConstraint]:
        """A check in the words of each database."""
        return [
            CheckConstraint(text(sqlite), name=f"ck_{self.prefix}{name}").ddl_if(dialect="sqlite"),
            CheckConstraint(text(postgresql), name=f"ck_{self.prefix}{name}").ddl_if(dialect="postgresql"),
        ]


def insert_if_absent(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insertion in the words of the connection's database, for `on_conflict_do_nothing`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)

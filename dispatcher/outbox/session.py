"""How rows of ours join a caller's unit of work: as a pending object, written when the session flushes.

So they share its fate exactly: committed with it, rolled back with it, and gone with a savepoint that is.
"""

import warnings
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, UOWTransaction, registry, scoped_session

from dispatcher.errors import ConfigurationError
from dispatcher.store.sqlite_engine import is_prepared

#: What a producer may hand in.
Unit = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any] | Connection
Bind = Engine | AsyncEngine | Connection | None


class UnpreparedEngine(RuntimeWarning):
    """A SQLite engine without `prepare_sqlite`: a rollback may leave events behind."""


class Pending:
    """Something to be written when its session flushes. Its table does not exist: it never gets there."""

    def __init__(self, write: Callable[[Connection], object], bind: Bind) -> None:
        self.write = write
        self.bind = bind


registry().map_imperatively(
    Pending, Table("dispatcher_pending", MetaData(), Column("number", Integer, primary_key=True))
)


def join(unit: Unit, write: Callable[[Connection], object], bind: Bind = None) -> None:
    """Has `write` run in the caller's transaction: at once on a connection, at the next flush of a session."""
    if isinstance(unit, Connection):
        _warn_unprepared(unit)
        write(unit)
        return
    if isinstance(unit, AsyncConnection):
        raise ConfigurationError("with an AsyncConnection write: await connection.run_sync(publish, ...)")
    session = _session(unit)
    if not event.contains(session, "before_flush", _write_pending):
        event.listen(session, "before_flush", _write_pending)
    session.add(Pending(write, bind))


def _session(unit: object) -> Session:
    if isinstance(unit, scoped_session | async_scoped_session):
        unit = unit()
    if isinstance(unit, AsyncSession):
        return unit.sync_session
    if isinstance(unit, Session):
        return unit
    raise ConfigurationError(f"takes a SQLAlchemy Session, AsyncSession or Connection, not {type(unit).__name__}")


def _write_pending(session: Session, context: UOWTransaction, instances: object) -> None:
    waiting = [item for item in session.new if isinstance(item, Pending)]
    for item in waiting:
        connection = _connection(session, item.bind)
        _warn_unprepared(connection)
        item.write(connection)
        session.expunge(item)


def _connection(session: Session, bind: Bind) -> Connection:
    if isinstance(bind, Connection):
        return bind
    engine = bind.sync_engine if isinstance(bind, AsyncEngine) else bind
    try:
        return session.connection(bind_arguments={} if engine is None else {"bind": engine})
    except UnboundExecutionError:
        raise ConfigurationError(
            "this session has several binds and none for the outbox; pass bind=, the engine of the outbox's database"
        ) from None


def _warn_unprepared(connection: Connection) -> None:
    if connection.dialect.name == "sqlite" and not is_prepared(connection.engine):
        warnings.warn(
            "this SQLite engine was not prepared: a rollback may leave events behind;"
            " call dispatcher.prepare_sqlite(engine) right after create_engine",
            UnpreparedEngine,
            stacklevel=4,
        )

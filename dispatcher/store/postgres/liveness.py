"""A pooled connection is asked whether it lives before it is lent, and given up at once where it says nothing.

SQLAlchemy's own pre-ping asks within a transaction, and the driver waits without a limit for the end of a question that
was given up: whoever asked a host that had gone without a goodbye waited until the kernel gave up, whatever limit was
set around it.
"""

from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine

#: How long a connection may take to answer, in seconds.
ANSWER_S = 2.0

#: What asking fails with where the connection is of no use any more.
_GONE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_FRESH = "dispatcher.fresh"


def ask_before_lending(engine: AsyncEngine) -> None:
    """Lends only connections of the engine's pool that answer; after one that does not, none that is as old."""
    event.listen(engine.sync_engine, "connect", _on_connect)
    event.listen(engine.sync_engine, "checkout", _on_checkout)


def _on_connect(connection: Any, record: Any) -> None:
    record.info[_FRESH] = True


def _on_checkout(connection: Any, record: Any, fairy: Any) -> None:
    if record.info.pop(_FRESH, False):
        return
    try:
        # A message of its own: prepared statements would need a transaction behind a pooler.
        connection.run_async(lambda driver: driver.execute("SELECT 1", timeout=ANSWER_S))
    except BaseException as error:
        # At once: a goodbye would wait for an answer.
        connection.driver_connection.terminate()
        if isinstance(error, _GONE):
            raise InvalidatePoolError(str(error)) from error
        raise

"""Seen from outside: a transaction that waits for another one."""

from time import monotonic

from sqlalchemy import Engine, text

PATIENCE_S = 20.0


def blocked(engine: Engine) -> None:
    """Returns as soon as somebody waits for a lock in this database. Raises `AssertionError` when nobody does."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = monotonic() + PATIENCE_S
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.execute(waiting).scalar_one():
            assert monotonic() < deadline, "nobody waits for a lock"

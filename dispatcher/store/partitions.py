"""The attempt log's partitions on PostgreSQL: one a day, made ahead, dropped whole by retention."""

from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text

from dispatcher.store.tables import Tables

#: Days for which partitions exist ahead of time.
DAYS_AHEAD = 7


def create_default_partition(connection: Connection, tables: Tables) -> None:
    """A partition for what no day's partition takes: only a host whose clock is far off ever writes there."""
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {tables.name('attempts_default')}"
            f" PARTITION OF {tables.name('attempts')} DEFAULT"
        )
    )


def create_partitions(connection: Connection, tables: Tables, today: date) -> None:
    """Makes the partitions of today and the next days, where they are missing."""
    existing = {day for day, _ in list_partitions(connection, tables)}
    for offset in range(-1, DAYS_AHEAD):
        day = today + timedelta(days=offset)
        if day in existing or _in_default(connection, tables, day):
            continue
        connection.execute(
            text(
                f"CREATE TABLE IF NOT EXISTS {tables.name(_name(day))} PARTITION OF {tables.name('attempts')}"
                f" FOR VALUES FROM ('{_start(day)}') TO ('{_start(day + timedelta(days=1))}')"
            )
        )


def list_partitions(connection: Connection, tables: Tables) -> list[tuple[date, str]]:
    """The days that have a partition, oldest first, with its quoted name."""
    rows = connection.execute(
        text(
            "SELECT c.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = CAST(:parent AS regclass)"
        ),
        {"parent": tables.name("attempts")},
    )
    stem = f"{tables.prefix}attempts_"
    days = []
    for (name,) in rows:
        suffix = name.removeprefix(stem)
        if suffix.isdigit():
            days.append(
                (datetime.strptime(suffix, "%Y%m%d").replace(tzinfo=UTC).date(), tables.name(f"attempts_{suffix}"))
            )
    return sorted(days)


def _in_default(connection: Connection, tables: Tables, day: date) -> bool:
    # A partition cannot be attached for a day that has rows in the default one; they stay there until retention.
    return bool(
        connection.scalar(
            text(
                f"SELECT EXISTS (SELECT FROM {tables.name('attempts_default')}"
                f" WHERE started_at >= '{_start(day)}' AND started_at < '{_start(day + timedelta(days=1))}')"
            )
        )
    )


def _name(day: date) -> str:
    return f"attempts_{day:%Y%m%d}"


def _start(day: date) -> str:
    return f"{day.isoformat()} 00:00:00+00"

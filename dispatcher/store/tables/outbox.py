"""What producers write, and what fan-out makes of it: events, their queue, jobs and their numbering."""

from sqlalchemy import Column, Table, UniqueConstraint

from dispatcher.store.columns import RowId, Text, UtcTime
from dispatcher.store.tables.declaring import DatabaseNow, Declaring, RandomEventId


def declare_outbox(declaring: Declaring) -> dict[str, Table]:
    """Declares these tables, by name."""
    events = Table(
        declaring.named("events"),
        declaring.metadata,
        declaring.row_key(),
        Column("id", Text, nullable=False, server_default=RandomEventId()),
        Column("tenant", Text, nullable=False, server_default="default"),
        Column("type", Text, nullable=False),
        Column("data", Text, nullable=False),
        Column("job_id", Text),
        #: Null: by its type, when it is fanned out.
        Column("kind", Text),
        Column("timestamp", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("traceparent", Text),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        UniqueConstraint("tenant", "id", name=f"uq_{declaring.prefix}events_id"),
        *declaring.check(
            "events_id",
            sqlite="typeof(id) = 'text' AND length(id) BETWEEN 1 AND 128 AND id NOT GLOB '*[^A-Za-z0-9_-]*'",
            postgresql="length(id) BETWEEN 1 AND 128 AND id !~ '[^A-Za-z0-9_-]'",
        ),
        *declaring.check(
            "events_type",
            sqlite="typeof(type) = 'text' AND length(type) BETWEEN 1 AND 255 AND type NOT GLOB '*[^A-Za-z0-9_.]*'"
            " AND type NOT GLOB '.*' AND type NOT GLOB '*.' AND type NOT GLOB '*..*'",
            postgresql=r"length(type) <= 255 AND type ~ '^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$'",
        ),
        # SQLite keeps a BLOB in a text column as it is, and its JSON functions then fail for the whole batch.
        *declaring.check(
            "events_data",
            sqlite="typeof(data) = 'text' AND json_valid(data) AND instr(data, char(0)) = 0",
            postgresql="data::json IS NOT NULL",
        ),
        *declaring.check(
            "events_tenant",
            sqlite="typeof(tenant) = 'text' AND length(tenant) BETWEEN 1 AND 128 AND instr(tenant, char(0)) = 0",
            postgresql="length(tenant) BETWEEN 1 AND 128",
        ),
        *declaring.check(
            "events_job_id",
            sqlite="job_id IS NULL OR (typeof(job_id) = 'text' AND length(job_id) BETWEEN 1 AND 255"
            " AND instr(job_id, char(0)) = 0)",
            postgresql="length(job_id) BETWEEN 1 AND 255",
        ),
        *declaring.check(
            "events_kind",
            sqlite="kind IS NULL OR kind IN ('state', 'progress', 'terminal')",
            postgresql="kind IN ('state', 'progress', 'terminal')",
        ),
        *declaring.check(
            "events_traceparent",
            sqlite="traceparent IS NULL OR (typeof(traceparent) = 'text' AND length(traceparent) = 55"
            " AND traceparent NOT GLOB '*[^0-9a-f-]*')",
            postgresql="traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'",
        ),
        # The years that Python knows: microseconds that were meant as nanoseconds are beyond.
        *(
            constraint
            for moment in ("timestamp", "created_at")
            for constraint in declaring.check(
                f"events_{moment}",
                sqlite=f"typeof({moment}) = 'integer' AND {moment} BETWEEN -62135596800000000 AND 253402300799999999",
                postgresql=f"{moment} BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'",
            )
        ),
        sqlite_autoincrement=True,
    )
    #: Events that were not fanned out yet; a trigger on `events` fills it.
    fanout_queue = Table(
        declaring.named("fanout_queue"),
        declaring.metadata,
        Column("tenant", Text, primary_key=True),
        Column("event_row", RowId, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    #: Events that left the queue without being fanned out, since their row cannot be read as an event.
    rejected_events = Table(
        declaring.named("rejected_events"),
        declaring.metadata,
        Column("event_row", RowId, primary_key=True, autoincrement=False),
        Column("reason", Text, nullable=False),
        Column("rejected_at", UtcTime, nullable=False, server_default=DatabaseNow()),
    )
    jobs = Table(
        declaring.named("jobs"),
        declaring.metadata,
        declaring.row_key(),
        Column("tenant", Text, nullable=False),
        Column("job_id", Text, nullable=False),
        Column("last_sequence", RowId, nullable=False, server_default="0"),
        #: When its first terminal event was fanned out, and which it is.
        Column("settled_at", UtcTime),
        Column("settled_by", RowId),
        Column("updated_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        UniqueConstraint("tenant", "job_id", name=f"uq_{declaring.prefix}jobs_job_id"),
        sqlite_autoincrement=True,
    )
    job_events = Table(
        declaring.named("job_events"),
        declaring.metadata,
        Column("job_row", RowId, primary_key=True, autoincrement=False),
        Column("sequence", RowId, primary_key=True, autoincrement=False),
        Column("event_row", RowId, nullable=False),
        #: What it was fanned out as; null: state.
        Column("kind", Text),
        sqlite_with_rowid=False,
    )
    declaring.index(job_events, "job_events_event", "event_row", unique=True)
    return {
        "events": events,
        "fanout_queue": fanout_queue,
        "rejected_events": rejected_events,
        "jobs": jobs,
        "job_events": job_events,
    }

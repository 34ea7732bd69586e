"""One event to one endpoint: deliveries with the indexes of the claim, attempts, dead letters, bulk redeliveries."""

from sqlalchemy import Boolean, Column, Float, Integer, Table, text

from dispatcher.states import DeliveryState
from dispatcher.store.columns import RowId, Text, UtcTime
from dispatcher.store.tables.declaring import DatabaseNow, Declaring

#: What no statement of ours wrote. State by state: for a list of more than two SQLite fills a table anew for each row
#: that it writes, twice, which costs half of an UPDATE.
UNKNOWN_STATE = " AND ".join(f"state <> '{state}'" for state in DeliveryState)


def declare_deliveries(declaring: Declaring) -> dict[str, Table]:
    """Declares these tables, by name."""
    deliveries = Table(
        declaring.named("deliveries"),
        declaring.metadata,
        declaring.row_key(),
        Column("event_row", RowId, nullable=False),
        Column("endpoint_row", RowId, nullable=False),
        Column("tenant", Text, nullable=False),
        Column("state", Text, nullable=False, server_default="pending"),
        Column("reason", Text),
        #: Null: at once. Set: a retry or pause that ends then.
        Column("due_at", UtcTime),
        #: Behind an earlier delivery of its lane.
        Column("waiting", Boolean, nullable=False, server_default=text("false")),
        #: Neither a retry nor a redelivery: goes first.
        Column("fresh", Boolean, nullable=False, server_default=text("true")),
        #: The job's row on an ordered endpoint: together with the endpoint it names the lane.
        Column("lane", RowId),
        Column("sequence", RowId),
        Column("previous_sequence", RowId),
        #: The job's row if it carries progress of a job, on unordered endpoints too.
        Column("progress_of", RowId),
        #: The event that took its place.
        Column("superseded_by", RowId),
        #: When its last attempt began; kept of progress only, whose interval it starts.
        Column("attempted_at", UtcTime),
        #: Its lane has passed it after `order_hold_s`.
        Column("late", Boolean, nullable=False, server_default=text("false")),
        #: When its lane may pass it: set by the first failure.
        Column("hold_until", UtcTime),
        Column("replay", Boolean, nullable=False, server_default=text("false")),
        #: Attempts begun, over all rounds; also the fence: an outcome counts only for the attempt it belongs to.
        Column("attempts", Integer, nullable=False, server_default="0"),
        #: Failures of this round: the place in the retry schedule.
        Column("failures", Integer, nullable=False, server_default="0"),
        #: Interruptions in a row.
        Column("interruptions", Integer, nullable=False, server_default="0"),
        #: Frozen by the first attempt, so that every attempt carries the same bytes.
        Column("body_profile", Text),
        Column("dispatcher_row", RowId),
        Column("last_status", Integer),
        Column("last_error", Text),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("updated_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        sqlite_autoincrement=True,
    )
    declaring.index(deliveries, "deliveries_event", "event_row", "endpoint_row", unique=True)
    declaring.index(deliveries, "deliveries_endpoint", "endpoint_row", "row_id")
    declaring.index(
        deliveries,
        "deliveries_claim",
        "tenant",
        "endpoint_row",
        "fresh",
        "row_id",
        where="state = 'pending' AND due_at IS NULL AND NOT waiting",
    )
    declaring.index(deliveries, "deliveries_due", "due_at", where="state = 'pending' AND due_at IS NOT NULL")
    # What is in flight, by when it was claimed.
    declaring.index(deliveries, "deliveries_sending", "updated_at", where="state = 'sending'")
    #: One in flight per lane.
    declaring.index(
        deliveries,
        "deliveries_lane_sending",
        "lane",
        "endpoint_row",
        where="state = 'sending' AND lane IS NOT NULL",
        unique=True,
    )
    declaring.index(
        deliveries,
        "deliveries_lane_live",
        "lane",
        "endpoint_row",
        "sequence",
        where="lane IS NOT NULL AND state IN ('pending', 'sending') AND NOT late",
    )
    declaring.index(
        deliveries,
        "deliveries_lane_attempted",
        "lane",
        "endpoint_row",
        "sequence",
        where="lane IS NOT NULL AND attempts > 0",
    )
    declaring.index(
        deliveries,
        "deliveries_hold",
        "hold_until",
        where="state = 'pending' AND hold_until IS NOT NULL AND NOT late",
    )
    # Few rows: of a job and type one waits at each endpoint.
    declaring.index(
        deliveries,
        "deliveries_progress",
        "progress_of",
        "endpoint_row",
        "sequence",
        where="state = 'pending' AND progress_of IS NOT NULL",
    )
    declaring.index(
        deliveries,
        "deliveries_progress_attempted",
        "progress_of",
        "endpoint_row",
        "sequence",
        where="progress_of IS NOT NULL AND attempts > 0",
    )
    # No rows, unless somebody wrote a state that there is not: then it is found at once among millions.
    declaring.index(deliveries, "deliveries_unknown", "row_id", where=UNKNOWN_STATE)
    attempts = Table(
        declaring.named("attempts"),
        declaring.metadata,
        Column("delivery_row", RowId, primary_key=True, autoincrement=False),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("started_at", UtcTime, primary_key=True),
        Column("duration_ms", Float, nullable=False),
        Column("status", Integer),
        Column("error", Text),
        Column("response_excerpt", Text),
        postgresql_partition_by="RANGE (started_at)",
        sqlite_with_rowid=False,
    )
    dead_letters = Table(
        declaring.named("dead_letters"),
        declaring.metadata,
        declaring.row_key(),
        Column("delivery_row", RowId, nullable=False),
        Column("event_row", RowId, nullable=False),
        Column("endpoint_row", RowId, nullable=False),
        Column("tenant", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("job_id", Text),
        Column("reason", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("last_status", Integer),
        Column("last_error", Text),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("redelivered_at", UtcTime),
        #: Endpoints of its tenant are to be told of it.
        Column("untold", Boolean, nullable=False, server_default=text("false")),
        sqlite_autoincrement=True,
    )
    declaring.index(dead_letters, "dead_letters_untold", "endpoint_row", where="untold")
    declaring.index(dead_letters, "dead_letters_delivery", "delivery_row")
    declaring.index(dead_letters, "dead_letters_event", "event_row")
    declaring.index(dead_letters, "dead_letters_endpoint", "endpoint_row", "row_id")
    declaring.index(dead_letters, "dead_letters_open", "row_id", where="redelivered_at IS NULL")

    #: Bulk redeliveries, of dead letters or to catch an endpoint up.
    redeliveries = Table(
        declaring.named("redeliveries"),
        declaring.metadata,
        declaring.row_key(),
        Column("tenant", Text),
        Column("state", Text, nullable=False),
        Column("rate_per_s", Float),
        Column("matched", Integer, nullable=False, server_default="0"),
        Column("done", Integer, nullable=False, server_default="0"),
        Column("skipped", Integer, nullable=False, server_default="0"),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("stepped_at", UtcTime),
        Column("finished_at", UtcTime),
        sqlite_autoincrement=True,
    )
    redelivery_items = Table(
        declaring.named("redelivery_items"),
        declaring.metadata,
        Column("redelivery_row", RowId, declaring.reference("redeliveries", ondelete="CASCADE"), primary_key=True),
        Column("event_row", RowId, primary_key=True, autoincrement=False),
        Column("endpoint_row", RowId, primary_key=True, autoincrement=False),
        Column("put_back", Boolean, nullable=False, server_default=text("false")),
        #: The delivery's attempts when it was put back: later ones are this run's.
        Column("attempts_before", Integer),
    )
    declaring.index(
        redelivery_items,
        "redelivery_items_open",
        "redelivery_row",
        "event_row",
        "endpoint_row",
        where="NOT put_back",
    )
    return {
        "deliveries": deliveries,
        "attempts": attempts,
        "dead_letters": dead_letters,
        "redeliveries": redeliveries,
        "redelivery_items": redelivery_items,
    }

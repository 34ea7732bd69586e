"""The first schema: outbox, endpoints, deliveries, attempts, dead letters, and the trigger that feeds the fan-out."""

import sqlalchemy as sa
from alembic import op

from dispatcher.store.columns import RowId, UtcTime
from dispatcher.store.partitions import create_default_partition
from dispatcher.store.tables import FANNED_OUT, QUEUED, QUIET, DatabaseNow, RandomEventId, Tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FEW_ROWS = ("wakeup", "dispatchers", "duties")


def upgrade() -> None:
    ours: Tables = op.get_context().opts["tables"]
    p, schema = ours.prefix, ours.schema
    parent = f"{schema}.{p}" if schema else p
    op.create_table(
        f"{p}api_keys",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("expires_at", UtcTime, nullable=True),
        sa.Column("last_used_at", UtcTime, nullable=True),
        sa.Column("revoked_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}api_keys"),
        sa.UniqueConstraint("digest", name=f"uq_{p}api_keys_digest"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_table(
        f"{p}tenant_quotas",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("max_endpoints", sa.Integer(), nullable=True),
        sa.Column("events_per_s", sa.Float(), nullable=True),
        sa.Column("max_payload", sa.Integer(), nullable=True),
        sa.Column("verify_endpoints", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", name=f"pk_{p}tenant_quotas"),
        schema=schema,
    )
    op.create_table(
        f"{p}attempts",
        sa.Column("delivery_row", RowId, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started_at", UtcTime, nullable=False),
        sa.Column("duration_ms", sa.Float(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("response_excerpt", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("delivery_row", "number", "started_at", name=f"pk_{p}attempts"),
        postgresql_partition_by="RANGE (started_at)",
        sqlite_with_rowid=False,
        schema=schema,
    )
    op.create_table(
        f"{p}dead_letters",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("delivery_row", RowId, nullable=False),
        sa.Column("event_row", RowId, nullable=False),
        sa.Column("endpoint_row", RowId, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("redelivered_at", UtcTime, nullable=True),
        sa.Column("untold", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}dead_letters"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_index(
        f"ix_{p}dead_letters_untold",
        f"{p}dead_letters",
        ["endpoint_row"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("untold"),
        sqlite_where=sa.text("untold"),
    )
    op.create_index(f"ix_{p}dead_letters_delivery", f"{p}dead_letters", ["delivery_row"], schema=schema, unique=False)
    op.create_index(
        f"ix_{p}dead_letters_endpoint", f"{p}dead_letters", ["endpoint_row", "row_id"], schema=schema, unique=False
    )
    op.create_index(
        f"ix_{p}dead_letters_open",
        f"{p}dead_letters",
        ["row_id"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("redelivered_at IS NULL"),
        sqlite_where=sa.text("redelivered_at IS NULL"),
    )
    op.create_index(f"ix_{p}dead_letters_event", f"{p}dead_letters", ["event_row"], schema=schema, unique=False)
    op.create_table(
        f"{p}deliveries",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("event_row", RowId, nullable=False),
        sa.Column("endpoint_row", RowId, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("due_at", UtcTime, nullable=True),
        sa.Column("waiting", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("fresh", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("lane", RowId, nullable=True),
        sa.Column("sequence", RowId, nullable=True),
        sa.Column("previous_sequence", RowId, nullable=True),
        sa.Column("progress_of", RowId, nullable=True),
        sa.Column("superseded_by", RowId, nullable=True),
        sa.Column("attempted_at", UtcTime, nullable=True),
        sa.Column("late", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("hold_until", UtcTime, nullable=True),
        sa.Column("replay", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("interruptions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("body_profile", sa.Text(), nullable=True),
        sa.Column("dispatcher_row", RowId, nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("updated_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}deliveries"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_index(
        f"ix_{p}deliveries_claim",
        f"{p}deliveries",
        ["tenant", "endpoint_row", "fresh", "row_id"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND due_at IS NULL AND NOT waiting"),
        sqlite_where=sa.text("state = 'pending' AND due_at IS NULL AND NOT waiting"),
    )
    op.create_index(
        f"ix_{p}deliveries_due",
        f"{p}deliveries",
        ["due_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND due_at IS NOT NULL"),
        sqlite_where=sa.text("state = 'pending' AND due_at IS NOT NULL"),
    )
    op.create_index(
        f"ix_{p}deliveries_endpoint", f"{p}deliveries", ["endpoint_row", "row_id"], schema=schema, unique=False
    )
    op.create_index(
        f"ix_{p}deliveries_event", f"{p}deliveries", ["event_row", "endpoint_row"], schema=schema, unique=True
    )
    op.create_index(
        f"ix_{p}deliveries_hold",
        f"{p}deliveries",
        ["hold_until"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND hold_until IS NOT NULL AND NOT late"),
        sqlite_where=sa.text("state = 'pending' AND hold_until IS NOT NULL AND NOT late"),
    )
    op.create_index(
        f"ix_{p}deliveries_lane_attempted",
        f"{p}deliveries",
        ["lane", "endpoint_row", "sequence"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("lane IS NOT NULL AND attempts > 0"),
        sqlite_where=sa.text("lane IS NOT NULL AND attempts > 0"),
    )
    op.create_index(
        f"ix_{p}deliveries_lane_live",
        f"{p}deliveries",
        ["lane", "endpoint_row", "sequence"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("lane IS NOT NULL AND state IN ('pending', 'sending') AND NOT late"),
        sqlite_where=sa.text("lane IS NOT NULL AND state IN ('pending', 'sending') AND NOT late"),
    )
    op.create_index(
        f"ix_{p}deliveries_progress",
        f"{p}deliveries",
        ["progress_of", "endpoint_row", "sequence"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND progress_of IS NOT NULL"),
        sqlite_where=sa.text("state = 'pending' AND progress_of IS NOT NULL"),
    )
    op.create_index(
        f"ix_{p}deliveries_progress_attempted",
        f"{p}deliveries",
        ["progress_of", "endpoint_row", "sequence"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("progress_of IS NOT NULL AND attempts > 0"),
        sqlite_where=sa.text("progress_of IS NOT NULL AND attempts > 0"),
    )
    unknown_state = " AND ".join(
        f"state <> '{state}'" for state in ("pending", "sending", "delivered", "dead", "superseded", "cancelled")
    )
    op.create_index(
        f"ix_{p}deliveries_unknown",
        f"{p}deliveries",
        ["row_id"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text(unknown_state),
        sqlite_where=sa.text(unknown_state),
    )
    op.create_index(
        f"ix_{p}deliveries_sending",
        f"{p}deliveries",
        ["updated_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    )
    op.create_index(
        f"ix_{p}deliveries_lane_sending",
        f"{p}deliveries",
        ["lane", "endpoint_row"],
        schema=schema,
        unique=True,
        postgresql_where=sa.text("state = 'sending' AND lane IS NOT NULL"),
        sqlite_where=sa.text("state = 'sending' AND lane IS NOT NULL"),
    )
    op.create_table(
        f"{p}destinations",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("verified_at", UtcTime, nullable=True),
        sa.Column("failures_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("backoff_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("backoff_delivery", RowId, nullable=True),
        sa.Column("backoff_several", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("paused_until", UtcTime, nullable=True),
        sa.Column("ramp", sa.Integer(), nullable=True),
        sa.Column("last_success_at", UtcTime, nullable=True),
        sa.Column("first_failure_at", UtcTime, nullable=True),
        sa.Column("tokens", sa.Float(), nullable=True),
        sa.Column("tokens_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}destinations"),
        sa.UniqueConstraint("name", name=f"uq_{p}destinations_name"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_table(
        f"{p}dispatchers",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("leased_until", UtcTime, nullable=False),
        sa.Column("key_ids", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}dispatchers"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_table(
        f"{p}duties",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("next_run_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name=f"pk_{p}duties"),
        schema=schema,
    )
    op.create_table(
        f"{p}events",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("id", sa.Text(), server_default=RandomEventId(), nullable=False),
        sa.Column("tenant", sa.Text(), server_default="default", nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.Column("timestamp", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        *checks(
            p,
            "events_id",
            sqlite="typeof(id) = 'text' AND length(id) BETWEEN 1 AND 128 AND id NOT GLOB '*[^A-Za-z0-9_-]*'",
            postgresql="length(id) BETWEEN 1 AND 128 AND id !~ '[^A-Za-z0-9_-]'",
        ),
        *checks(
            p,
            "events_type",
            sqlite="typeof(type) = 'text' AND length(type) BETWEEN 1 AND 255 AND type NOT GLOB '*[^A-Za-z0-9_.]*'"
            " AND type NOT GLOB '.*' AND type NOT GLOB '*.' AND type NOT GLOB '*..*'",
            postgresql=r"length(type) <= 255 AND type ~ '^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$'",
        ),
        *checks(
            p,
            "events_data",
            sqlite="typeof(data) = 'text' AND json_valid(data) AND instr(data, char(0)) = 0",
            postgresql="data::json IS NOT NULL",
        ),
        *checks(
            p,
            "events_tenant",
            sqlite="typeof(tenant) = 'text' AND length(tenant) BETWEEN 1 AND 128 AND instr(tenant, char(0)) = 0",
            postgresql="length(tenant) BETWEEN 1 AND 128",
        ),
        *checks(
            p,
            "events_job_id",
            sqlite="job_id IS NULL OR (typeof(job_id) = 'text' AND length(job_id) BETWEEN 1 AND 255"
            " AND instr(job_id, char(0)) = 0)",
            postgresql="length(job_id) BETWEEN 1 AND 255",
        ),
        *checks(
            p,
            "events_kind",
            sqlite="kind IS NULL OR kind IN ('state', 'progress', 'terminal')",
            postgresql="kind IN ('state', 'progress', 'terminal')",
        ),
        *checks(
            p,
            "events_traceparent",
            sqlite="traceparent IS NULL OR (typeof(traceparent) = 'text' AND length(traceparent) = 55"
            " AND traceparent NOT GLOB '*[^0-9a-f-]*')",
            postgresql="traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'",
        ),
        *checks(
            p,
            "events_timestamp",
            sqlite="typeof(timestamp) = 'integer' AND timestamp BETWEEN -62135596800000000 AND 253402300799999999",
            postgresql="timestamp BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'",
        ),
        *checks(
            p,
            "events_created_at",
            sqlite="typeof(created_at) = 'integer' AND created_at BETWEEN -62135596800000000 AND 253402300799999999",
            postgresql="created_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00'",
        ),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}events"),
        sa.UniqueConstraint("tenant", "id", name=f"uq_{p}events_id"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_table(
        f"{p}fanout_queue",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("event_row", RowId, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "event_row", name=f"pk_{p}fanout_queue"),
        sqlite_with_rowid=False,
        schema=schema,
    )
    op.create_table(
        f"{p}job_events",
        sa.Column("job_row", RowId, autoincrement=False, nullable=False),
        sa.Column("sequence", RowId, autoincrement=False, nullable=False),
        sa.Column("event_row", RowId, nullable=False),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_row", "sequence", name=f"pk_{p}job_events"),
        sqlite_with_rowid=False,
        schema=schema,
    )
    op.create_index(f"ix_{p}job_events_event", f"{p}job_events", ["event_row"], schema=schema, unique=True)
    op.create_table(
        f"{p}jobs",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("last_sequence", RowId, server_default="0", nullable=False),
        sa.Column("settled_at", UtcTime, nullable=True),
        sa.Column("settled_by", RowId, nullable=True),
        sa.Column("updated_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}jobs"),
        sa.UniqueConstraint("tenant", "job_id", name=f"uq_{p}jobs_job_id"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_table(
        f"{p}redeliveries",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rate_per_s", sa.Float(), nullable=True),
        sa.Column("matched", sa.Integer(), server_default="0", nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("skipped", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("stepped_at", UtcTime, nullable=True),
        sa.Column("finished_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}redeliveries"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_table(
        f"{p}compatibility",
        sa.Column("row_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("oldest_code", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}compatibility"),
        schema=schema,
    )
    op.create_table(
        f"{p}rejected_events",
        sa.Column("event_row", RowId, autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rejected_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.PrimaryKeyConstraint("event_row", name=f"pk_{p}rejected_events"),
        schema=schema,
    )
    op.create_table(
        f"{p}wakeup",
        sa.Column("row_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("busy_until", UtcTime, nullable=True),
        sa.Column("readers_until", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}wakeup"),
        schema=schema,
    )
    op.create_table(
        f"{p}endpoints",
        sa.Column("row_id", RowId, autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("destination_row", RowId, nullable=False),
        sa.Column("url_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("url_shown", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("event_types", sa.Text(), server_default='["*"]', nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("ordered", sa.Boolean(), nullable=False),
        sa.Column("order_hold_s", sa.Float(), nullable=True),
        sa.Column("progress_interval_s", sa.Float(), nullable=True),
        sa.Column("heartbeat_s", sa.Float(), nullable=True),
        sa.Column("heartbeat_due_at", UtcTime, nullable=True),
        sa.Column("heartbeat_event", RowId, nullable=True),
        sa.Column("deaths_told_until", UtcTime, nullable=True),
        sa.Column("signatures", sa.Text(), server_default='["v1"]', nullable=False),
        sa.Column("signature_header", sa.Text(), nullable=True),
        sa.Column("signature_prefix", sa.Text(), server_default="", nullable=False),
        sa.Column("headers_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("header_names", sa.Text(), server_default="[]", nullable=False),
        sa.Column("client_identity_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("client_certificate_shown", sa.Text(), nullable=True),
        sa.Column("client_certificate_expires_at", UtcTime, nullable=True),
        sa.Column("oauth2_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("oauth2_shown", sa.Text(), nullable=True),
        sa.Column("rate_limit", sa.Float(), nullable=True),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("retry_schedule", sa.Text(), nullable=True),
        sa.Column("timeout_s", sa.Float(), nullable=True),
        sa.Column("metadata", sa.Text(), server_default="{}", nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("expires_at", UtcTime, nullable=True),
        sa.Column("catch_up", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("verified_at", UtcTime, nullable=True),
        sa.Column("awaits_proof", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("challenge_due_at", UtcTime, nullable=True),
        sa.Column("challenges", sa.Integer(), server_default="0", nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.Text(), nullable=True),
        sa.Column("staged_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("staged_at", UtcTime, nullable=True),
        sa.Column("staged_overlap_s", sa.Float(), nullable=True),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("updated_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("deleted_at", UtcTime, nullable=True),
        sa.ForeignKeyConstraint(
            ["destination_row"], [f"{parent}destinations.row_id"], name=f"fk_{p}endpoints_destination_row"
        ),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}endpoints"),
        schema=schema,
    )
    op.create_index(
        f"ix_{p}endpoints_expiry",
        f"{p}endpoints",
        ["expires_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL AND status <> 'disabled'"),
        sqlite_where=sa.text("expires_at IS NOT NULL AND status <> 'disabled'"),
    )
    op.create_index(
        f"ix_{p}endpoints_idempotency",
        f"{p}endpoints",
        ["tenant", "idempotency_key"],
        schema=schema,
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        f"ix_{p}endpoints_job",
        f"{p}endpoints",
        ["tenant", "job_id"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("job_id IS NOT NULL"),
        sqlite_where=sa.text("job_id IS NOT NULL"),
    )
    op.create_index(
        f"ix_{p}endpoints_catch_up",
        f"{p}endpoints",
        ["row_id"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("catch_up"),
        sqlite_where=sa.text("catch_up"),
    )
    op.create_index(
        f"ix_{p}endpoints_open_callbacks",
        f"{p}endpoints",
        ["row_id"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("job_id IS NOT NULL AND expires_at IS NULL AND status <> 'disabled'"),
        sqlite_where=sa.text("job_id IS NOT NULL AND expires_at IS NULL AND status <> 'disabled'"),
    )
    op.create_index(
        f"ix_{p}endpoints_expired_callbacks",
        f"{p}endpoints",
        ["updated_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("job_id IS NOT NULL AND disabled_reason = 'expired' AND deleted_at IS NULL"),
        sqlite_where=sa.text("job_id IS NOT NULL AND disabled_reason = 'expired' AND deleted_at IS NULL"),
    )
    op.create_index(
        f"ix_{p}endpoints_heartbeat",
        f"{p}endpoints",
        ["heartbeat_due_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("status = 'enabled' AND heartbeat_due_at IS NOT NULL"),
        sqlite_where=sa.text("status = 'enabled' AND heartbeat_due_at IS NOT NULL"),
    )
    op.create_index(
        f"ix_{p}endpoints_client_certificate",
        f"{p}endpoints",
        ["client_certificate_expires_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("client_certificate_expires_at IS NOT NULL"),
        sqlite_where=sa.text("client_certificate_expires_at IS NOT NULL"),
    )
    op.create_index(
        f"ix_{p}endpoints_challenge",
        f"{p}endpoints",
        ["challenge_due_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("challenge_due_at IS NOT NULL"),
        sqlite_where=sa.text("challenge_due_at IS NOT NULL"),
    )
    op.create_index(
        f"ix_{p}endpoints_disabled",
        f"{p}endpoints",
        ["updated_at"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("status = 'disabled'"),
        sqlite_where=sa.text("status = 'disabled'"),
    )
    op.create_index(
        f"ix_{p}endpoints_tenant", f"{p}endpoints", ["tenant", "created_at", "row_id"], schema=schema, unique=False
    )
    op.create_table(
        f"{p}redelivery_items",
        sa.Column("redelivery_row", RowId, nullable=False),
        sa.Column("event_row", RowId, autoincrement=False, nullable=False),
        sa.Column("endpoint_row", RowId, autoincrement=False, nullable=False),
        sa.Column("put_back", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("attempts_before", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["redelivery_row"],
            [f"{parent}redeliveries.row_id"],
            name=f"fk_{p}redelivery_items_redelivery_row",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("redelivery_row", "event_row", "endpoint_row", name=f"pk_{p}redelivery_items"),
        schema=schema,
    )
    op.create_index(
        f"ix_{p}redelivery_items_open",
        f"{p}redelivery_items",
        ["redelivery_row", "event_row", "endpoint_row"],
        schema=schema,
        unique=False,
        postgresql_where=sa.text("NOT put_back"),
        sqlite_where=sa.text("NOT put_back"),
    )
    op.create_table(
        f"{p}endpoint_secrets",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("endpoint_row", RowId, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("retires_at", UtcTime, nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_row"],
            [f"{parent}endpoints.row_id"],
            name=f"fk_{p}endpoint_secrets_endpoint_row",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}endpoint_secrets"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_index(
        f"ix_{p}endpoint_secrets_endpoint", f"{p}endpoint_secrets", ["endpoint_row"], schema=schema, unique=False
    )
    op.create_table(
        f"{p}tenant_secrets",
        sa.Column("row_id", RowId, sa.Identity(always=False), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcTime, server_default=DatabaseNow(), nullable=False),
        sa.Column("retires_at", UtcTime, nullable=True),
        sa.PrimaryKeyConstraint("row_id", name=f"pk_{p}tenant_secrets"),
        sqlite_autoincrement=True,
        schema=schema,
    )
    op.create_index(f"ix_{p}tenant_secrets_tenant", f"{p}tenant_secrets", ["tenant"], schema=schema, unique=False)
    op.create_index(
        f"ix_{p}tenant_secrets_live",
        f"{p}tenant_secrets",
        ["tenant"],
        schema=schema,
        unique=True,
        postgresql_where=sa.text("retires_at IS NULL"),
        sqlite_where=sa.text("retires_at IS NULL"),
    )
    op.create_table(
        f"{p}endpoint_state",
        sa.Column("endpoint_row", RowId, autoincrement=False, nullable=False),
        sa.Column("failures_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("backoff_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("backoff_delivery", RowId, nullable=True),
        sa.Column("backoff_several", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("paused_until", UtcTime, nullable=True),
        sa.Column("ramp", sa.Integer(), nullable=True),
        sa.Column("last_success_at", UtcTime, nullable=True),
        sa.Column("first_failure_at", UtcTime, nullable=True),
        sa.Column("tokens", sa.Float(), nullable=True),
        sa.Column("tokens_at", UtcTime, nullable=True),
        sa.Column("takes", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_row"],
            [f"{parent}endpoints.row_id"],
            name=f"fk_{p}endpoint_state_endpoint_row",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("endpoint_row", name=f"pk_{p}endpoint_state"),
        schema=schema,
    )
    op.create_table(
        f"{p}subscriptions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), server_default="", nullable=False),
        sa.Column("endpoint_row", RowId, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_row"],
            [f"{parent}endpoints.row_id"],
            name=f"fk_{p}subscriptions_endpoint_row",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "pattern", "job_id", "endpoint_row", name=f"pk_{p}subscriptions"),
        schema=schema,
    )
    op.create_index(f"ix_{p}subscriptions_endpoint", f"{p}subscriptions", ["endpoint_row"], schema=schema, unique=False)

    op.execute(f"INSERT INTO {ours.name('wakeup')} (row_id) VALUES (1)")
    op.execute(f"INSERT INTO {ours.name('compatibility')} (row_id, oldest_code) VALUES (1, '{revision}')")
    if op.get_bind().dialect.name == "postgresql":
        create_default_partition(op.get_bind(), ours)
        vacuum_early_on_postgresql(ours)
        feed_the_queue_on_postgresql(ours)
    else:
        op.execute(
            f"""
            CREATE TRIGGER {ours.name("events_queue")} AFTER INSERT ON {ours.name("events")}
            BEGIN
                INSERT INTO {ours.name("fanout_queue")} (tenant, event_row) VALUES (NEW.tenant, NEW.row_id);
            END
            """
        )


def checks(prefix: str, name: str, *, sqlite: str, postgresql: str) -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint(sa.text(sqlite), name=f"ck_{prefix}{name}").ddl_if(dialect="sqlite"),
        sa.CheckConstraint(sa.text(postgresql), name=f"ck_{prefix}{name}").ddl_if(dialect="postgresql"),
    ]


def vacuum_early_on_postgresql(ours: Tables) -> None:
    """By what dies in a minute, not by a fifth of all that a month has left: of what is dead each claim reads some."""
    often = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000"
    for table, options in (
        ("fanout_queue", often),
        ("deliveries", "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02"),
        # One row or a few, each of them changed all the time.
        *((table, "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500") for table in _FEW_ROWS),
    ):
        op.execute(f"ALTER TABLE {ours.name(table)} SET ({options})")


def feed_the_queue_on_postgresql(ours: Tables) -> None:
    """One queue row per event, and a NOTIFY unless a dispatcher is busy anyway, or publishes them itself; nothing for
    events whose deliveries the same statement makes.

    The function runs with its owner's rights, so that a producer needs none on the queue; and it names
    everything in full, since its search path is empty.
    """
    bind = op.get_bind()
    schema = ours.schema or bind.scalar(sa.text("SELECT current_schema()"))

    def full(name: str) -> str:
        return f'"{schema}"."{ours.prefix}{name}"'

    op.execute(
        f"""
        CREATE FUNCTION {full("queue_events")}() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
        BEGIN
            IF pg_catalog.current_setting('{QUIET}', true) = '{FANNED_OUT}' THEN
                RETURN NULL;
            END IF;
            INSERT INTO {full("fanout_queue")} (tenant, event_row) SELECT tenant, row_id FROM new_events;
            IF pg_catalog.current_setting('{QUIET}', true) = 'on' THEN
                RETURN NULL;
            END IF;
            IF NOT EXISTS (SELECT FROM {full("wakeup")} WHERE busy_until > pg_catalog.clock_timestamp()) THEN
                PERFORM pg_catalog.pg_notify('{ours.channel}', '{QUEUED}');
            END IF;
            RETURN NULL;
        END $body$
        """
    )
    op.execute(
        f"""
        CREATE TRIGGER "{ours.prefix}events_queue" AFTER INSERT ON {full("events")}
        REFERENCING NEW TABLE AS new_events
        FOR EACH STATEMENT EXECUTE FUNCTION {full("queue_events")}()
        """
    )


def downgrade() -> None:
    ours: Tables = op.get_context().opts["tables"]
    for table in (
        "subscriptions",
        "endpoint_state",
        "endpoint_secrets",
        "tenant_secrets",
        "redelivery_items",
        "endpoints",
        "wakeup",
        "compatibility",
        "redeliveries",
        "jobs",
        "job_events",
        "fanout_queue",
        "rejected_events",
        "events",
        "duties",
        "dispatchers",
        "destinations",
        "deliveries",
        "dead_letters",
        "attempts",
        "tenant_quotas",
        "api_keys",
    ):
        op.drop_table(f"{ours.prefix}{table}", schema=ours.schema)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP FUNCTION {ours.name('queue_events')}()")

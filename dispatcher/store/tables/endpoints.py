"""Registered callback URLs: destination, endpoint, secrets, shared state and what matches them."""

from typing import Any

from sqlalchemy import Boolean, Column, Float, Integer, LargeBinary, Table, UniqueConstraint, text

from dispatcher.store.columns import RowId, Text, UtcTime
from dispatcher.store.tables.declaring import DatabaseNow, Declaring


def declare_endpoints(declaring: Declaring) -> dict[str, Table]:
    """Declares these tables, by name."""
    #: Scheme, host and port that endpoints share; its row is the lock under which their deliveries are claimed.
    destinations = Table(
        declaring.named("destinations"),
        declaring.metadata,
        declaring.row_key(),
        Column("name", Text, nullable=False),
        #: When a delivery to it was first answered 2xx; null: its callbacks are held to the limits of the unverified.
        Column("verified_at", UtcTime),
        # Failures to connect, and the tokens of the unverified.
        *_learnt(),
        UniqueConstraint("name", name=f"uq_{declaring.prefix}destinations_name"),
        sqlite_autoincrement=True,
    )
    endpoints = Table(
        declaring.named("endpoints"),
        declaring.metadata,
        # Chosen by whoever registers (62 random bits, or a hash for callbacks), so that a producer knows the id
        # before its transaction is flushed.
        Column("row_id", RowId, primary_key=True, autoincrement=False),
        Column("tenant", Text, nullable=False),
        Column("version", Integer, nullable=False, server_default="1"),
        Column("destination_row", RowId, declaring.reference("destinations"), nullable=False),
        Column("url_sealed", LargeBinary, nullable=False),
        Column("url_shown", Text, nullable=False),
        Column("description", Text),
        Column("event_types", Text, nullable=False, server_default='["*"]'),
        Column("status", Text, nullable=False),
        Column("disabled_reason", Text),
        Column("profile", Text, nullable=False),
        Column("ordered", Boolean, nullable=False),
        Column("order_hold_s", Float),
        Column("progress_interval_s", Float),
        Column("heartbeat_s", Float),
        #: When it is looked at next whether it was sent nothing for so long; null: never.
        Column("heartbeat_due_at", UtcTime),
        #: The event that was its last heartbeat.
        Column("heartbeat_event", RowId),
        #: Ahead of now by as much as deaths here were told of faster than one by one.
        Column("deaths_told_until", UtcTime),
        Column("signatures", Text, nullable=False, server_default='["v1"]'),
        Column("signature_header", Text),
        Column("signature_prefix", Text, nullable=False, server_default=""),
        Column("headers_sealed", LargeBinary),
        Column("header_names", Text, nullable=False, server_default="[]"),
        # JSON: a client certificate with its key, and without; what tokens are asked for with, and without its secret.
        Column("client_identity_sealed", LargeBinary),
        Column("client_certificate_shown", Text),
        Column("client_certificate_expires_at", UtcTime),
        Column("oauth2_sealed", LargeBinary),
        Column("oauth2_shown", Text),
        Column("rate_limit", Float),
        Column("max_in_flight", Integer),
        Column("retry_schedule", Text),
        Column("timeout_s", Float),
        Column("metadata", Text, nullable=False, server_default="{}"),
        Column("job_id", Text),
        Column("expires_at", UtcTime),
        #: A callback that was just registered: whether its job has settled is looked at beside the next fan-out.
        Column("catch_up", Boolean, nullable=False, server_default=text("false")),
        #: When it last proved that its owner wants to be sent to; null: it has not (yet).
        Column("verified_at", UtcTime),
        #: Paused for want of that alone: a proof enables it. One that its tenant paused stays so.
        Column("awaits_proof", Boolean, nullable=False, server_default=text("false")),
        #: When it is challenged next to prove it; null: not by itself.
        Column("challenge_due_at", UtcTime),
        #: How often it was.
        Column("challenges", Integer, nullable=False, server_default="0"),
        Column("idempotency_key", Text),
        Column("request_digest", Text),
        #: A secret that was shown and signs nothing yet, since when, and how long the former will sign beside it.
        Column("staged_sealed", LargeBinary),
        Column("staged_at", UtcTime),
        Column("staged_overlap_s", Float),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("updated_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("deleted_at", UtcTime),
    )
    declaring.index(endpoints, "endpoints_tenant", "tenant", "created_at", "row_id")
    declaring.index(
        endpoints, "endpoints_expiry", "expires_at", where="expires_at IS NOT NULL AND status <> 'disabled'"
    )
    declaring.index(
        endpoints,
        "endpoints_idempotency",
        "tenant",
        "idempotency_key",
        where="idempotency_key IS NOT NULL",
        unique=True,
    )
    declaring.index(endpoints, "endpoints_job", "tenant", "job_id", where="job_id IS NOT NULL")
    declaring.index(endpoints, "endpoints_catch_up", "row_id", where="catch_up")
    declaring.index(
        endpoints,
        "endpoints_open_callbacks",
        "row_id",
        where="job_id IS NOT NULL AND expires_at IS NULL AND status <> 'disabled'",
    )
    declaring.index(
        endpoints,
        "endpoints_expired_callbacks",
        "updated_at",
        where="job_id IS NOT NULL AND disabled_reason = 'expired' AND deleted_at IS NULL",
    )
    declaring.index(
        endpoints,
        "endpoints_heartbeat",
        "heartbeat_due_at",
        where="status = 'enabled' AND heartbeat_due_at IS NOT NULL",
    )
    declaring.index(endpoints, "endpoints_challenge", "challenge_due_at", where="challenge_due_at IS NOT NULL")
    declaring.index(endpoints, "endpoints_disabled", "updated_at", where="status = 'disabled'")
    declaring.index(
        endpoints,
        "endpoints_client_certificate",
        "client_certificate_expires_at",
        where="client_certificate_expires_at IS NOT NULL",
    )
    endpoint_secrets = Table(
        declaring.named("endpoint_secrets"),
        declaring.metadata,
        declaring.row_key(),
        Column("endpoint_row", RowId, declaring.reference("endpoints", ondelete="CASCADE"), nullable=False),
        Column("sealed", LargeBinary, nullable=False),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        #: Set when a newer secret took over: signs beside it until then.
        Column("retires_at", UtcTime),
        sqlite_autoincrement=True,
    )
    declaring.index(endpoint_secrets, "endpoint_secrets_endpoint", "endpoint_row")
    #: A tenant's default secret, for its endpoints that have no row in `endpoint_secrets`.
    tenant_secrets = Table(
        declaring.named("tenant_secrets"),
        declaring.metadata,
        declaring.row_key(),
        Column("tenant", Text, nullable=False),
        Column("sealed", LargeBinary, nullable=False),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        #: As in `endpoint_secrets`.
        Column("retires_at", UtcTime),
        sqlite_autoincrement=True,
    )
    declaring.index(tenant_secrets, "tenant_secrets_tenant", "tenant")
    declaring.index(tenant_secrets, "tenant_secrets_live", "tenant", where="retires_at IS NULL", unique=True)
    #: What dispatchers learn about an endpoint: failures in a row, pause, circuit, tokens of its rate limit.
    endpoint_state = Table(
        declaring.named("endpoint_state"),
        declaring.metadata,
        Column(
            "endpoint_row",
            RowId,
            declaring.reference("endpoints", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        *_learnt(),
        #: How many at once it has been seen to take; null: its cap. Each overload takes one, some successes give one.
        Column("takes", Float),
    )
    #: Which endpoints an event of a tenant (and job) goes to, by pattern; rows exist while the endpoint matches.
    subscriptions = Table(
        declaring.named("subscriptions"),
        declaring.metadata,
        Column("tenant", Text, primary_key=True),
        Column("pattern", Text, primary_key=True),
        #: Empty: events of every job, and those without one.
        Column("job_id", Text, primary_key=True, server_default=""),
        Column(
            "endpoint_row",
            RowId,
            declaring.reference("endpoints", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
    )
    declaring.index(subscriptions, "subscriptions_endpoint", "endpoint_row")
    return {
        "destinations": destinations,
        "endpoints": endpoints,
        "endpoint_secrets": endpoint_secrets,
        "tenant_secrets": tenant_secrets,
        "endpoint_state": endpoint_state,
        "subscriptions": subscriptions,
    }


def _learnt() -> list[Column[Any]]:
    """What dispatchers learn about an endpoint, and in the same columns about a destination."""
    return [
        Column("failures_in_row", Integer, nullable=False, server_default="0"),
        Column("backoff_failures", Integer, nullable=False, server_default="0"),
        Column("backoff_delivery", RowId),
        Column("backoff_several", Boolean, nullable=False, server_default=text("false")),
        Column("paused_until", UtcTime),
        #: Null: as many in flight as the limits allow. 1: one probe. More: slow start after an outage.
        Column("ramp", Integer),
        Column("last_success_at", UtcTime),
        Column("first_failure_at", UtcTime),
        Column("tokens", Float),
        Column("tokens_at", UtcTime),
    ]

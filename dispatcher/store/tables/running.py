"""What a deployment runs on: API keys, quotas, living dispatchers, periodic duties, the wake-up flag, compatibility."""

from sqlalchemy import Boolean, Column, Float, Integer, Table, UniqueConstraint

from dispatcher.store.columns import Text, UtcTime
from dispatcher.store.tables.declaring import DatabaseNow, Declaring


def declare_running(declaring: Declaring) -> dict[str, Table]:
    """Declares these tables, by name."""
    api_keys = Table(
        declaring.named("api_keys"),
        declaring.metadata,
        declaring.row_key(),
        #: Null: it sees every tenant.
        Column("tenant", Text),
        Column("digest", Text, nullable=False),
        Column("hint", Text, nullable=False),
        Column("scopes", Text, nullable=False),
        Column("created_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("expires_at", UtcTime),
        #: To the minute.
        Column("last_used_at", UtcTime),
        Column("revoked_at", UtcTime),
        UniqueConstraint("digest", name=f"uq_{declaring.prefix}api_keys_digest"),
        sqlite_autoincrement=True,
    )
    #: What a tenant may use at most, and must prove, where that is not as the settings say; the row is also the lock
    #: under which its endpoints are counted.
    tenant_quotas = Table(
        declaring.named("tenant_quotas"),
        declaring.metadata,
        Column("tenant", Text, primary_key=True),
        Column("max_endpoints", Integer),
        Column("events_per_s", Float),
        Column("max_payload", Integer),
        Column("verify_endpoints", Boolean),
    )
    #: Dispatchers that live; a row whose lease has ended is a dispatcher whose deliveries are taken back.
    dispatchers = Table(
        declaring.named("dispatchers"),
        declaring.metadata,
        declaring.row_key(),
        Column("name", Text, nullable=False),
        Column("started_at", UtcTime, nullable=False, server_default=DatabaseNow()),
        Column("leased_until", UtcTime, nullable=False),
        #: The ids of the keys in its ring, in hex and separated by commas: what it could decrypt.
        Column("key_ids", Text),
        sqlite_autoincrement=True,
    )
    #: Periodic duties: whoever moves `next_run_at` does the duty.
    duties = Table(
        declaring.named("duties"),
        declaring.metadata,
        Column("name", Text, primary_key=True),
        Column("next_run_at", UtcTime, nullable=False),
    )
    #: One row: until when dispatchers are busy anyway, so that commits need not notify them; and until when some
    #: process has readers who wait for a job's events, so that fan-outs do notify it.
    wakeup = Table(
        declaring.named("wakeup"),
        declaring.metadata,
        Column("row_id", Integer, primary_key=True, autoincrement=False),
        Column("busy_until", UtcTime),
        Column("readers_until", UtcTime),
    )
    #: One row: the oldest migration that a release must know to work on this schema. A migration that older code
    #: would not survive sets it to itself.
    compatibility = Table(
        declaring.named("compatibility"),
        declaring.metadata,
        Column("row_id", Integer, primary_key=True, autoincrement=False),
        Column("oldest_code", Text, nullable=False),
    )
    return {
        "api_keys": api_keys,
        "compatibility": compatibility,
        "dispatchers": dispatchers,
        "duties": duties,
        "tenant_quotas": tenant_quotas,
        "wakeup": wakeup,
    }

"""The tables: what they hold, and which index serves which statement.

The hot ones (`fanout_queue`, `deliveries`, `attempts`) have integer keys and no foreign keys: a check per row
would cost more than the row. A delivery that can be sent now is `pending`, with `due_at` null and not `waiting`
behind its lane; whatever claims looks at that partial index only.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from sqlalchemy import MetaData, Table

from dispatcher.store.tables.declaring import DatabaseNow, Declaring, RandomEventId
from dispatcher.store.tables.deliveries import declare_deliveries
from dispatcher.store.tables.endpoints import declare_endpoints
from dispatcher.store.tables.outbox import declare_outbox
from dispatcher.store.tables.running import declare_running

__all__ = ["FANNED_OUT", "QUEUED", "QUIET", "DatabaseNow", "RandomEventId", "Tables", "tables"]

#: The setting of a PostgreSQL session whose events notify nobody: a dispatcher's, that takes them itself.
QUIET = "dispatcher.quiet"
#: Its value where the same statement makes their deliveries, too: then they are not queued. `on`: they are.
FANNED_OUT = "fanned out"
#: What a notification says that is about events in the queue and nothing else.
QUEUED = "queued"


@dataclass(frozen=True, slots=True)
class Tables:
    """The declared schema under one PostgreSQL schema and table prefix."""

    metadata: MetaData
    schema: str | None
    prefix: str
    events: Table
    fanout_queue: Table
    rejected_events: Table
    jobs: Table
    job_events: Table
    destinations: Table
    endpoints: Table
    endpoint_secrets: Table
    tenant_secrets: Table
    endpoint_state: Table
    subscriptions: Table
    deliveries: Table
    attempts: Table
    dead_letters: Table
    redeliveries: Table
    redelivery_items: Table
    api_keys: Table
    tenant_quotas: Table
    dispatchers: Table
    duties: Table
    wakeup: Table
    compatibility: Table

    def name(self, table: str) -> str:
        """The quoted name of a table (or trigger function) of ours in SQL text."""
        plain = f'"{self.prefix}{table}"'
        return f'"{self.schema}".{plain}' if self.schema else plain

    @property
    def version_table(self) -> str:
        """Where Alembic keeps our version: not the producer's own `alembic_version`."""
        return f"{self.prefix}dispatcher_version"

    @property
    def fan_out_lock(self) -> str:
        """The key, in PostgreSQL's words, of the advisory lock that whoever fans out holds."""
        return f"hashtext('{self.schema or ''}.{self.prefix}fan out')"

    @property
    def channel(self) -> str:
        """The NOTIFY channel that wakes dispatchers of these tables."""
        return self._channel("dispatcher_wakeup")

    @property
    def readers_channel(self) -> str:
        """The NOTIFY channel that tells readers of jobs' events what was numbered."""
        return self._channel("dispatcher_readers")

    def _channel(self, word: str) -> str:
        name = f"{self.schema or ''}{'.' if self.schema else ''}{self.prefix}{word}"
        # PostgreSQL refuses channel names of 64 bytes and more, and with them the producer's insert.
        return name if len(name) < 64 else f"{word}_{sha256(name.encode()).hexdigest()[:32]}"


@cache
def tables(schema: str | None = None, prefix: str = "") -> Tables:
    """The tables under `schema` (PostgreSQL only) and `prefix`."""
    declaring = Declaring(schema, prefix)
    return Tables(
        metadata=declaring.metadata,
        schema=schema,
        prefix=prefix,
        **declare_outbox(declaring),
        **declare_endpoints(declaring),
        **declare_deliveries(declaring),
        **declare_running(declaring),
    )

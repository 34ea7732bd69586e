"""What an attempt needs to know of an endpoint, read and decrypted; secrets never leave this object's fields."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from yarl import URL

from dispatcher.ids import Kind, public_id
from dispatcher.rules.retry import RetryPolicy
from dispatcher.settings import Settings
from dispatcher.store.database import Database
from dispatcher.store.keyring import KeyRing
from dispatcher.store.signing_secrets import OWN, TENANTS, signing


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """How an endpoint is sent to."""

    endpoint_row: int
    endpoint_id: str
    tenant: str
    version: int
    profile: str
    url: URL = field(repr=False)
    #: Keys that sign, newest first: one, or two while a rotation overlaps.
    keys: tuple[bytes, ...] = field(repr=False)
    #: What the legacy header is keyed with: the old secret's text until a rotation's overlap ends.
    legacy_key: bytes = field(repr=False)
    signature_header: str | None
    signature_prefix: str
    headers: Mapping[str, str] = field(repr=False)
    retry: RetryPolicy
    timeout_s: float
    hold_s: float | None
    #: When the oldest key stops signing: read again then.
    good_until: datetime | None


async def check_keyring(database: Database, keyring: KeyRing) -> None:
    """Raises `Unreadable` when the ring does not open what is stored: better now than delivery by delivery."""
    tables = database.tables
    for kept, purpose in ((tables.endpoint_secrets.c, OWN), (tables.tenant_secrets.c, TENANTS)):
        newest = select(kept.sealed).order_by(kept.row_id.desc()).limit(1)
        async with database.read() as connection:
            sealed = (await connection.execute(newest)).scalar_one_or_none()
        if sealed is not None:
            keyring.open(sealed, purpose)


async def load_policy(
    database: Database, keyring: KeyRing, settings: Settings, endpoint_row: int
) -> EndpointPolicy | None:
    """The endpoint's policy as it is now; null when there is no such row. Raises `keyring.Unreadable`."""
    e = database.tables.endpoints.c
    async with database.read() as connection:
        row = (
            await connection.execute(select(database.tables.endpoints).where(e.row_id == endpoint_row))
        ).one_or_none()
        if row is None or row.deleted_at is not None:
            return None
        secrets = await connection.run_sync(signing, database.tables, keyring, endpoint_row, row.tenant, database.now())
    schedule = json.loads(row.retry_schedule) if row.retry_schedule is not None else settings.retry_schedule
    return EndpointPolicy(
        endpoint_row=endpoint_row,
        endpoint_id=public_id(Kind.ENDPOINT, endpoint_row),
        tenant=row.tenant,
        version=row.version,
        profile=row.profile,
        url=URL(keyring.open(row.url_sealed, "url"), encoded=True),
        keys=tuple(secret.key for secret, _ in secrets),
        legacy_key=secrets[-1][0].text_key,
        signature_header=row.signature_header,
        signature_prefix=row.signature_prefix,
        headers=json.loads(keyring.open(row.headers_sealed, "headers")) if row.headers_sealed else {},
        retry=RetryPolicy(tuple(float(delay) for delay in schedule), settings.retry_jitter),
        timeout_s=row.timeout_s if row.timeout_s is not None else settings.timeout.total_seconds(),
        hold_s=row.order_hold_s,
        good_until=min((retires_at for _, retires_at in secrets if retires_at is not None), default=None),
    )

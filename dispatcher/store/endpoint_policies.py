"""What an attempt needs to know of an endpoint, read and decrypted; secrets never leave this object's fields."""

import base64
import json
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.engine import Row
from yarl import URL

from dispatcher.errors import OperatorError, StoreUnavailable
from dispatcher.ids import Kind, public_id
from dispatcher.redaction import echoes
from dispatcher.rules.credentials import Credentials
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.retry import RetryPolicy
from dispatcher.settings import Settings
from dispatcher.store import endpoint_credentials
from dispatcher.store.columns import among
from dispatcher.store.database import Database
from dispatcher.store.endpoint_credentials import open_credentials
from dispatcher.store.endpoint_rows import is_asymmetric, open_headers, open_url
from dispatcher.store.keyring import KeyRing, Unreadable
from dispatcher.store.signing_secrets import NO_SECRET, OWN, TENANTS, Signing, signing

_SHORTEST_SECRET = 6
#: What is read of an endpoint's row: a callback URL per job has every job pay for each column.
_COLUMNS = (
    "row_id",
    "tenant",
    "version",
    "profile",
    "url_sealed",
    "signatures",
    "signature_header",
    "signature_prefix",
    "headers_sealed",
    "retry_schedule",
    "timeout_s",
    "order_hold_s",
    *endpoint_credentials.SEALED,
    "oauth2_shown",
)

#: What a row comes to that holds what the service never writes.
_NEVER = (ValueError, TypeError, AttributeError, OverflowError)


class EndpointPolicy(Struct, frozen=True, kw_only=True):
    """How an endpoint is sent to."""

    endpoint_row: int
    endpoint_id: str
    tenant: str
    version: int
    profile: str
    url: URL
    #: Keys that sign, newest first: one, or two while a rotation overlaps.
    keys: tuple[bytes, ...]
    #: What the legacy header is keyed with: the old secret's text until a rotation's overlap ends.
    legacy_key: bytes
    signature_header: str | None
    signature_prefix: str
    headers: Mapping[str, str]
    retry: RetryPolicy
    timeout_s: float
    hold_s: float | None
    #: When the oldest key stops signing: read again then.
    good_until: datetime | None
    #: What few have beside a signature.
    credentials: Credentials | None = None
    #: What signs `v1a`, in the keys' order, made once per policy; empty where the endpoint did not choose it.
    private_keys: tuple[Ed25519PrivateKey, ...] = ()
    #: What an answer may repeat of the request and must not be kept: header values, and what is secret in the URL.
    secret_texts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # Most of it is secret.
        return f"EndpointPolicy({self.endpoint_id})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Else a traceback with its variables would show all fields.
        return [("endpoint_id", self.endpoint_id)]


async def check_keyring(database: Database, keyring: KeyRing) -> None:
    """Raises `Unreadable` when the ring does not open what is stored: better now than delivery by delivery."""
    tables = database.tables
    own, of_tenant = tables.endpoint_secrets.c, tables.tenant_secrets.c
    for kept, owner, purpose in ((own, own.endpoint_row, OWN), (of_tenant, of_tenant.tenant, TENANTS)):
        newest = select(kept.sealed, owner.label("owner")).order_by(kept.row_id.desc()).limit(1)
        async with database.read() as connection:
            found = (await connection.execute(newest)).one_or_none()
        if found is not None:
            keyring.open(found.sealed, purpose, found.owner)


async def load_policies(
    database: Database, keyring: KeyRing, settings: Settings, endpoint_rows: Collection[int]
) -> dict[int, EndpointPolicy | Exception]:
    """The endpoints' policies as they are now, or what keeps one from being read; nothing of one that is gone."""
    try:
        return await _load(database, keyring, settings, endpoint_rows)
    except (StoreUnavailable, OperatorError):
        raise
    except Exception as error:  # noqa: BLE001 - one row's, whose attempt tells it
        rows = list(endpoint_rows)
        if len(rows) == 1:
            return {rows[0]: _holds(rows[0], error) if isinstance(error, _NEVER) else error}
        half = len(rows) // 2
        return {
            **await load_policies(database, keyring, settings, rows[:half]),
            **await load_policies(database, keyring, settings, rows[half:]),
        }


async def _load(
    database: Database, keyring: KeyRing, settings: Settings, endpoint_rows: Collection[int]
) -> dict[int, EndpointPolicy | Exception]:
    tables = database.tables
    e = tables.endpoints.c
    async with database.read() as connection:
        rows = (
            await connection.execute(
                select(*(e[column] for column in _COLUMNS)).where(
                    among(connection.dialect, e.row_id, endpoint_rows), e.deleted_at.is_(None)
                )
            )
        ).all()
        tenants = {row.row_id: row.tenant for row in rows}
        signed = await connection.run_sync(signing, tables, tenants, database.now()) if tenants else {}
    return {row.row_id: _policy_of(row, signed.get(row.row_id), keyring, settings) for row in rows}


def _policy_of(
    row: Row[Any], signed: Signing | None, keyring: KeyRing, settings: Settings
) -> EndpointPolicy | Exception:
    try:
        if signed is None:
            return Unreadable(NO_SECRET)
        return _policy(row, signed.read(keyring), keyring, settings)
    except _NEVER as error:
        return _holds(row.row_id, error)
    except Exception as error:  # noqa: BLE001 - this row's: those that are read beside it are not to fail with it
        return error


def _holds(endpoint_row: int, error: Exception) -> Unreadable:
    # Not the error's own text, which may repeat a URL with its password.
    return Unreadable(
        f"the row of endpoint {public_id(Kind.ENDPOINT, endpoint_row)} holds what it never should"
        f" ({type(error).__name__}); update the endpoint, or delete it"
    )


def _policy(
    row: Row[Any], signing_keys: Sequence[tuple[SigningKeys, datetime | None]], keyring: KeyRing, settings: Settings
) -> EndpointPolicy:
    schedule = settings.retry_schedule
    if row.retry_schedule is not None:
        schedule = tuple(_seconds(delay) for delay in json.loads(row.retry_schedule))
    url = URL(open_url(keyring, row.row_id, row.url_sealed), encoded=True)
    headers = open_headers(keyring, row.row_id, row.headers_sealed)
    return EndpointPolicy(
        endpoint_row=row.row_id,
        endpoint_id=public_id(Kind.ENDPOINT, row.row_id),
        tenant=row.tenant,
        version=row.version,
        profile=row.profile,
        url=url,
        keys=tuple(each.secret.key for each, _ in signing_keys),
        legacy_key=signing_keys[-1][0].secret.text_key,
        signature_header=row.signature_header,
        signature_prefix=row.signature_prefix,
        headers=headers,
        retry=RetryPolicy(schedule, settings.retry_jitter),
        timeout_s=_seconds(row.timeout_s) if row.timeout_s is not None else settings.timeout.total_seconds(),
        hold_s=None if row.order_hold_s is None else _seconds(row.order_hold_s),
        private_keys=tuple(each.private_key for each, _ in signing_keys) if is_asymmetric(row.signatures) else (),
        secret_texts=_secret_texts(url, headers),
        good_until=min((retires_at for _, retires_at in signing_keys if retires_at is not None), default=None),
        credentials=_credentials(row, keyring),
    )


def _credentials(row: Row[Any], keyring: KeyRing) -> Credentials | None:
    if row.client_identity_sealed is None and row.oauth2_sealed is None:
        return None
    stored = open_credentials(keyring, row)
    return Credentials(public_id(Kind.ENDPOINT, row.row_id), stored.identity, stored.oauth2)


def _basic(url: URL) -> str:
    return base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


def _secret_texts(url: URL, headers: Mapping[str, str]) -> tuple[str, ...]:
    if not headers and not set(str(url)) & {"@", "?"}:
        return ()
    texts = list(headers.values())
    if url.raw_password is not None:
        texts += [url.raw_password, url.password or "", _basic(url)]
    elif url.raw_user is not None:
        # A user alone is usually a token.
        texts += [url.raw_user, url.user or "", _basic(url)]
    for part in url.raw_query_string.split("&"):
        name, equals, value = part.partition("=")
        secret = value if equals else name
        texts += [secret, unquote_plus(secret)]
    # The credentials of an Authorization header are repeated without their scheme too.
    texts += [text.partition(" ")[2] for text in texts]
    # Short ones say nothing, and would be found in every answer. The longest first: one may be a part of another.
    written = {form for text in texts if len(text) >= _SHORTEST_SECRET for form in echoes(text)}
    return tuple(sorted(written, key=len, reverse=True))


def _seconds(stored: float) -> float:
    seconds = float(stored)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{stored!r} is no number of seconds")
    return seconds

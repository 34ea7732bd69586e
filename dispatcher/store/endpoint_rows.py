"""A registered endpoint as rows: one insertion that the service, the command line and producers share.

The rows of `subscriptions`, which events look at, exist while the endpoint matches; they come and go by `subscribe`
and `unsubscribe`.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.errors import InvalidField
from dispatcher.redaction import REDACTED
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.secrets import Secret
from dispatcher.states import EndpointStatus, Profile, SignatureVersion
from dispatcher.store import endpoint_credentials, signing_secrets, staged_secrets
from dispatcher.store.endpoint_credentials import EndpointCredentials
from dispatcher.store.keyring import KeyRing
from dispatcher.store.proof_demand import demands_proof
from dispatcher.store.tables import Tables
from dispatcher.store.tables.declaring import insert_if_absent

#: What its row keeps of a deleted endpoint's secrets: nothing. The rest stays for what names it.
WIPED: Mapping[str, Any] = {
    "url_sealed": b"",
    "headers_sealed": None,
    **staged_secrets.NOTHING,
    **endpoint_credentials.NONE,
}

#: How long a failing head holds its lane unless the endpoint says otherwise, in seconds.
ORDER_HOLD_S = 900.0


@dataclass(frozen=True, slots=True, repr=False)
class NewEndpoint:
    """An endpoint that is about to be stored: everything vetted, nothing sealed yet."""

    row_id: int
    tenant: str
    url: CallbackUrl
    secret: Secret
    #: Whether the tenant's default secret takes the place of `secret`, where there is one.
    takes_default: bool = False
    event_types: tuple[str, ...] = ("*",)
    description: str | None = None
    profile: Profile = Profile.STANDARD
    ordered: bool = True
    order_hold_s: float | None = ORDER_HOLD_S
    progress_interval_s: float | None = None
    heartbeat_s: float | None = None
    signatures: tuple[SignatureVersion, ...] = (SignatureVersion.V1,)
    signature_header: str | None = None
    signature_prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    rate_limit: float | None = None
    max_in_flight: int | None = None
    retry_schedule: tuple[float, ...] | None = None
    timeout_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    credentials: EndpointCredentials = field(default_factory=EndpointCredentials)
    job_id: str | None = None
    expires_at: datetime | None = None
    #: Whether it must answer a challenge first, where its tenant has no rule of its own.
    verify_endpoints: bool = False
    idempotency_key: str | None = None
    request_digest: str | None = None

    def __post_init__(self) -> None:
        """Raises `InvalidField` where the headers do not go together."""
        check_headers(self.signature_header, self.headers, self.url.shown, self.credentials)


def check_headers(
    signature_header: str | None, headers: Mapping[str, str], url_shown: str, credentials: EndpointCredentials
) -> None:
    """Raises `InvalidField` where static headers, the signature's, the URL and the credentials do not go together, or
    a header has no value.
    """
    url, static = urlsplit(url_shown), "authorization" in {name.lower() for name in headers}
    signs = (signature_header or "").lower() == "authorization"
    if "@" in url.netloc and static:
        raise InvalidField("headers/Authorization", "cannot be sent beside the URL's user and password; remove one")
    if "@" in url.netloc and signs:
        raise InvalidField("signature_header", "sets Authorization, and so do the URL's user and password; remove one")
    if credentials.oauth2 is not None:
        for does, other in (
            ("@" in url.netloc, "the URL's user and password"),
            (static, "a static Authorization header"),
            (signs, "signature_header"),
        ):
            if does:
                raise InvalidField("oauth2", f"sets Authorization, and so does {other}; remove one")
    if credentials.identity is not None and url.scheme != "https":
        raise InvalidField("client_certificate", "is shown over https only, and the URL begins with http:")
    for name, value in headers.items():
        if value == REDACTED:
            raise InvalidField(f"headers/{name}", "is *** and has no stored value that it could stand for; send one")
        if signature_header is not None and name.lower() == signature_header.lower():
            raise InvalidField("signature_header", "is among headers too; remove it from one of them")


def new_endpoint_row() -> int:
    """A random row number for an endpoint, known before anything is stored."""
    return (1 << 61) + secrets.randbelow(1 << 61)


def callback_row(tenant: str, job_id: str, url: str) -> int:
    """The row number that a job's callback URL stands for; never one that `new_endpoint_row` gives."""
    parts = b"".join(b"%d:%b" % (len(part.encode()), part.encode()) for part in (tenant, job_id, url))
    return (1 << 62) + (int.from_bytes(sha256(parts).digest()[:8], "big") >> 3)


def insert_endpoint(
    connection: Connection, tables: Tables, keyring: KeyRing, new: NewEndpoint, now: datetime | ColumnElement[Any]
) -> bool:
    """Stores an endpoint, paused where it must answer a challenge first, else enabled, with its secret, state and
    subscriptions; to be run inside a transaction.

    Returns false, and changes nothing of it, when the row or the tenant's idempotency key exists already. A
    deleted endpoint's row is taken over under a higher version.
    """
    endpoints = tables.endpoints
    replaced = connection.scalar(
        delete(endpoints)
        .where(endpoints.c.row_id == new.row_id, endpoints.c.deleted_at.is_not(None))
        .returning(endpoints.c.version)
    )
    unproved = demands_proof(connection, tables, new.tenant, new.verify_endpoints)
    stored = connection.scalar(
        insert_if_absent(connection, endpoints)
        .values(
            row_id=new.row_id,
            tenant=new.tenant,
            version=(replaced or 0) + 1,
            destination_row=destination_row(connection, tables, new.url),
            url_sealed=seal_url(keyring, new.row_id, new.url),
            url_shown=new.url.shown,
            description=new.description,
            event_types=event_types_text(new.event_types),
            status=(EndpointStatus.PAUSED if unproved else EndpointStatus.ENABLED).value,
            awaits_proof=unproved,
            challenge_due_at=now if unproved else None,
            profile=new.profile.value,
            ordered=new.ordered,
            order_hold_s=new.order_hold_s,
            progress_interval_s=new.progress_interval_s,
            heartbeat_s=new.heartbeat_s,
            # Looked at soon, and put off to when it is really due.
            heartbeat_due_at=None if new.heartbeat_s is None else now,
            signatures=signatures_text(new.signatures),
            signature_header=new.signature_header,
            signature_prefix=new.signature_prefix,
            headers_sealed=seal_headers(keyring, new.row_id, new.headers),
            header_names=json.dumps(list(new.headers)),
            rate_limit=new.rate_limit,
            max_in_flight=new.max_in_flight,
            retry_schedule=schedule_text(new.retry_schedule),
            timeout_s=new.timeout_s,
            metadata=json.dumps(dict(new.metadata), ensure_ascii=False),
            **new.credentials.columns(keyring, new.row_id),
            job_id=new.job_id,
            expires_at=new.expires_at,
            catch_up=new.job_id is not None,
            idempotency_key=new.idempotency_key,
            request_digest=new.request_digest,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing()
        .returning(endpoints.c.row_id)
    )
    if stored is None:
        return False
    if not (new.takes_default and signing_secrets.has_default(connection, tables, new.tenant)):
        keys = SigningKeys.beside(new.secret)
        signing_secrets.store_own(connection, tables, keyring, new.row_id, keys, now)
    connection.execute(insert(tables.endpoint_state).values(endpoint_row=new.row_id))
    subscribe(connection, tables, new.row_id)
    return True


def destination_row(connection: Connection, tables: Tables, url: CallbackUrl) -> int:
    """The row of the URL's scheme, host and port, made where there is none yet."""
    destinations = tables.destinations
    known = select(destinations.c.row_id).where(destinations.c.name == url.destination)
    row: int | None = connection.scalar(known)
    if row is None:
        connection.execute(
            insert_if_absent(connection, destinations).values(name=url.destination).on_conflict_do_nothing()
        )
        row = connection.execute(known).scalar_one()
    return row


def subscribe(connection: Connection, tables: Tables, endpoint_row: int) -> None:
    """From now on events that fit the endpoint's `event_types` match it, and no others do."""
    e = tables.endpoints.c
    unsubscribe(connection, tables, endpoint_row)
    endpoint = connection.execute(select(e.tenant, e.job_id, e.event_types).where(e.row_id == endpoint_row)).one()
    connection.execute(
        insert(tables.subscriptions),
        [
            {
                "tenant": endpoint.tenant,
                "pattern": pattern,
                "job_id": endpoint.job_id or "",
                "endpoint_row": endpoint_row,
            }
            for pattern in json.loads(endpoint.event_types)
        ],
    )


def unsubscribe(connection: Connection, tables: Tables, endpoint_row: int) -> None:
    """From now on nothing matches the endpoint; its `event_types` stay for `subscribe`."""
    subscriptions = tables.subscriptions
    connection.execute(delete(subscriptions).where(subscriptions.c.endpoint_row == endpoint_row))


def event_types_text(patterns: Sequence[str]) -> str:
    """Patterns as their column keeps them: a JSON list, in their order, each once."""
    return json.dumps(list(dict.fromkeys(patterns)))


def signatures_text(versions: Sequence[SignatureVersion]) -> str:
    """Signatures as their column keeps them: a JSON list."""
    return json.dumps(list(versions))


@lru_cache(maxsize=8)
def is_asymmetric(signatures: str) -> bool:
    """Whether a column of signatures asks for `v1a` beside `v1`."""
    return SignatureVersion.V1A in json.loads(signatures)


def seal_url(keyring: KeyRing, endpoint_row: int, url: CallbackUrl) -> bytes:
    """The URL, encrypted for this endpoint."""
    return keyring.seal(url.text, "url", endpoint_row)


def open_url(keyring: KeyRing, endpoint_row: int, sealed: bytes) -> str:
    """The URL again, as it was given. Raises `Unreadable`."""
    return keyring.open(sealed, "url", endpoint_row)


def seal_headers(keyring: KeyRing, endpoint_row: int, headers: Mapping[str, str]) -> bytes | None:
    """The static headers, encrypted for this endpoint; null when there are none."""
    return keyring.seal(json.dumps(dict(headers)), "headers", endpoint_row) if headers else None


def open_headers(keyring: KeyRing, endpoint_row: int, sealed: bytes | None) -> dict[str, str]:
    """The static headers again. Raises `Unreadable`."""
    headers: dict[str, str] = json.loads(keyring.open(sealed, "headers", endpoint_row)) if sealed else {}
    return headers


def schedule_text(schedule: Sequence[float] | None) -> str | None:
    """A retry schedule (seconds) as its column keeps it: a JSON list; null = the deployment's."""
    return None if schedule is None else json.dumps(list(schedule))


def read_schedule(text: str | None) -> tuple[float, ...] | None:
    """A retry schedule from its column."""
    return None if text is None else tuple(json.loads(text))

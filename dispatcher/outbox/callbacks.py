"""register_callback: a job's own callback URL, in the same transaction as the job."""

from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, select

from dispatcher.clock import SystemClock
from dispatcher.errors import ConfigurationError, Conflict, InvalidField
from dispatcher.ids import Kind, public_id
from dispatcher.outbox.events import check_text
from dispatcher.outbox.publish import producer_settings
from dispatcher.outbox.session import Bind, Unit, join
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.secrets import Secret
from dispatcher.settings import Settings
from dispatcher.store.deployment import egress_rules, open_keyring
from dispatcher.store.endpoint_credentials import EndpointCredentials
from dispatcher.store.endpoint_fields import EndpointFields, endpoint_defaults
from dispatcher.store.endpoint_rows import NewEndpoint, callback_row, insert_endpoint
from dispatcher.store.keyring import KeyRing
from dispatcher.store.signing_secrets import newest
from dispatcher.store.tables import DatabaseNow, Tables, tables
from dispatcher.store.urls import parse_database_url

_LONGEST = timedelta(days=3650)


class Callback:
    """A registered callback URL: its endpoint's id, and the secret that the client verifies with."""

    def __init__(self, endpoint_id: str) -> None:
        self.endpoint_id = endpoint_id
        self._secret: Secret | None = None

    @property
    def secret(self) -> str:
        """What a receiver pastes: given, made, its tenant's default, or the one stored first.

        Which of them, only the database knows: raises `Conflict` before the session has flushed.
        """
        if self._secret is None:
            raise Conflict("the secret is known once the callback is written: read it after the flush or the commit")
        return self._secret.text

    def __repr__(self) -> str:
        return f"Callback({self.endpoint_id!r})"


@cache
def producer_keyring() -> KeyRing:
    """The key ring that producers in this process seal with. Raises `ConfigurationError`."""
    settings = producer_settings()
    return open_keyring(settings, parse_database_url(settings.database_url).file)


def register_callback(
    session: Unit,
    *,
    job_id: str,
    url: str,
    secret: str | None = None,
    tenant: str = "default",
    expires_in: timedelta | None = None,
    bind: Bind = None,
    **fields: Any,
) -> Callback:
    """Registers a URL that gets this job's events, in the caller's transaction; no await, no commit.

    `fields` are an endpoint's own: `event_types`, `profile`, `signature_header`, … Without a `secret` it is the
    tenant's default, or one that is made.
    The same tenant, job and URL again is the same endpoint, as it stands. The URL's syntax, scheme, port and
    literal address are vetted now, its name when it is connected to.

    Needs `DISPATCHER_SECRET_KEY` (on SQLite: the key file) and the endpoint defaults in the producer's
    environment. Raises `InvalidField`, and `ConfigurationError` before anything is written.
    """
    settings = producer_settings()
    keyring = producer_keyring()
    given = EndpointFields.read(fields)
    _check_is_text("url", url)
    if secret is not None:
        _check_is_text("secret", secret)
    check_text("tenant", tenant, 128)
    check_text("job_id", job_id, 255)
    if expires_in is not None:
        _check_expires_in(expires_in)
    chosen = Secret.parse(secret) if secret is not None else Secret.generate()
    rules = egress_rules(settings)
    vetted = CallbackUrl.parse(url, rules)
    new = NewEndpoint(
        row_id=callback_row(tenant, job_id, url),
        tenant=tenant,
        url=vetted,
        secret=chosen,
        takes_default=secret is None,
        job_id=job_id,
        credentials=EndpointCredentials().changed(given.credentials(), rules, SystemClock().now()),
        verify_endpoints=settings.verify_endpoints,
        **{**endpoint_defaults(settings), **given.columns()},
    )
    declared = tables(settings.schema_name, settings.table_prefix)
    callback = Callback(public_id(Kind.ENDPOINT, new.row_id))

    def write(connection: Connection) -> None:
        if not settings.names_keys:
            _check_key_file(connection, settings)
        _write(connection, declared, keyring, new, expires_in, callback)

    join(session, write, bind)
    return callback


def _write(
    connection: Connection,
    declared: Tables,
    keyring: KeyRing,
    new: NewEndpoint,
    expires_in: timedelta | None,
    callback: Callback,
) -> None:
    now = connection.execute(select(DatabaseNow())).scalar_one()
    if expires_in is not None:
        new = replace(new, expires_at=now + expires_in)
    inserted = insert_endpoint(connection, declared, keyring, new, now)
    own = inserted and not new.takes_default
    callback._secret = new.secret if own else newest(connection, declared, keyring, new.row_id).secret


def _check_is_text(field: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidField(field, f"must be a text, not {type(value).__name__}")


def _check_expires_in(value: object) -> None:
    if not isinstance(value, timedelta) or not timedelta(0) < value <= _LONGEST:
        raise InvalidField("expires_in", f"must be a positive timedelta of at most {_LONGEST.days} days")


def _check_key_file(connection: Connection, settings: Settings) -> None:
    # What is sealed with a key that lies beside another database, no dispatcher of this one can open.
    named = parse_database_url(settings.database_url).file
    if named is not None and connection.dialect.name == "sqlite":
        written = {row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main"}
        if written == {str(named.resolve())}:
            return
    raise ConfigurationError(
        "DISPATCHER_SECRET_KEY is not set, and DISPATCHER_DATABASE_URL names another database than the one that is"
        " written to; set the key that the dispatcher has"
    )

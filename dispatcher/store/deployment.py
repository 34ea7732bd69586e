"""A deployment: settings, database, key ring and clock, together, as doors and engine work on it."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Network
from pathlib import Path

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import ConfigurationError, InvalidSettings
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.hosts import Hosts, literal, loopback_name
from dispatcher.rules.kinds import EventKinds
from dispatcher.rules.proxy import Proxy
from dispatcher.settings import Settings
from dispatcher.store.database import Database, open_database
from dispatcher.store.endpoint_fields import endpoint_defaults
from dispatcher.store.key_command import keys_of
from dispatcher.store.keyring import KeyRing, key_file, key_path
from dispatcher.store.tables import Tables
from dispatcher.store.urls import parse_database_url


@dataclass(frozen=True, slots=True)
class Deployment:
    """What every part that touches the database is given."""

    settings: Settings
    database: Database
    keyring: KeyRing
    clock: Clock

    @property
    def egress(self) -> EgressRules:
        """The egress rules of the settings."""
        return egress_rules(self.settings)

    @property
    def kinds(self) -> EventKinds:
        """The kinds of events by the settings."""
        return EventKinds(self.settings.event_kinds)


def open_deployment(settings: Settings, clock: Clock | None = None) -> Deployment:
    """The deployment of the settings; nothing is connected yet. Raises `InvalidSettings`."""
    used = clock or SystemClock()
    # Read now, so that a wrong one keeps the process from starting rather than each endpoint from being made
    # or events from being fanned out.
    endpoint_defaults(settings)
    EventKinds(settings.event_kinds)
    egress_rules(settings)
    database = open_database(settings, used)
    file = database.url.file
    if not settings.names_keys and file is not None:
        refuse_lost_key(file, database.tables)
    return Deployment(settings, database, open_keyring(settings, file), used)


def open_keyring(settings: Settings, database_file: Path | None) -> KeyRing:
    """The key ring of the settings, or the key file beside a SQLite database.

    Runs the command that prints the keys, where the settings name one. Raises `InvalidSettings`, `ConfigurationError`.
    """
    if settings.secret_key_command is not None:
        return KeyRing(keys_of(settings.secret_key_command.get_secret_value()))
    if settings.secret_keys:
        return KeyRing(settings.secret_keys)
    if database_file is None:
        raise InvalidSettings(
            "DISPATCHER_SECRET_KEY is not set, and secrets are encrypted at rest; make a key with:"
            " openssl rand -base64 32"
        )
    return key_file(database_file)


def refuse_lost_key(database_file: Path, tables: Tables) -> None:
    """Raises `ConfigurationError` where a new key file would be made beside secrets that were sealed with another."""
    if key_path(database_file).exists() or not database_file.exists():
        return
    secrets = (tables.name("endpoint_secrets"), tables.name("tenant_secrets"))
    try:
        with closing(sqlite3.connect(f"{database_file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = [connection.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").fetchone()[0] for name in secrets]
    except sqlite3.OperationalError:
        # No such tables yet, or it cannot be read now; then it is not written either.
        return
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"DISPATCHER_DATABASE_URL: {database_file}: {error}; name another") from error
    if any(found):
        raise ConfigurationError(
            f"the key file {key_path(database_file)} is missing, and {database_file} holds secrets that were encrypted"
            " with it; restore it, or set DISPATCHER_SECRET_KEY"
        )


def egress_rules(settings: Settings) -> EgressRules:
    """The egress rules of the settings. Raises `InvalidSettings`."""
    proxy = None if settings.proxy is None else Proxy.parse(settings.proxy.get_secret_value())
    databases = _servers(settings.database_url)
    services = [_normal(host, port) for host, port in (*databases, *([(proxy.host, proxy.port)] if proxy else []))]
    # A port of the API that nobody named may be somebody else's: not every process that has these settings serves it.
    listening = {settings.work_port, settings.port if "port" in settings.model_fields_set else None}
    # What runs beside this process is reached at every address of this machine.
    listening |= {port for host, port in services if _is_this_machine(host)}
    return EgressRules(
        allow_http=settings.allow_http,
        allow_networks=settings.allow_networks,
        deny_networks=settings.deny_networks,
        allow_hosts=Hosts.parse(settings.allow_hosts, "DISPATCHER_ALLOW_HOSTS"),
        allow_ports=settings.allow_ports,
        deny_ports=settings.deny_ports,
        nat64_prefixes=tuple(prefix for prefix in settings.nat64_prefixes if isinstance(prefix, IPv6Network)),
        own_ports=frozenset(port for port in listening if port),
        own_services=frozenset(services),
        unlocated_ports=frozenset(
            port for host, port in databases if literal(host) is None and not _is_this_machine(host)
        ),
        proxy=proxy,
        no_proxy=Hosts.parse(settings.no_proxy, "DISPATCHER_NO_PROXY"),
    )


@lru_cache(maxsize=8)
def _servers(database_url: str) -> frozenset[tuple[str, int]]:
    # Reading a URL takes longer than all else that is asked for each callback that is registered.
    return frozenset(parse_database_url(database_url).servers)


def _normal(host: str, port: int) -> tuple[str, int]:
    address = literal(host)
    return (host if address is None else str(address)), port


def _is_this_machine(host: str) -> bool:
    address = literal(host)
    return loopback_name(host) if address is None else address.is_loopback or address.is_unspecified

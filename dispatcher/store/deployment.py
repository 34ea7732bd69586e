"""A deployment: settings, database, key ring and clock, together, as doors and engine work on it."""

from dataclasses import dataclass
from pathlib import Path

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import InvalidSettings
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.kinds import EventKinds
from dispatcher.settings import Settings
from dispatcher.store.database import Database, open_database
from dispatcher.store.endpoint_fields import endpoint_defaults
from dispatcher.store.keyring import KeyRing, key_file


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
    database = open_database(settings, used)
    return Deployment(settings, database, open_keyring(settings, database.url.file), used)


def open_keyring(settings: Settings, database_file: Path | None) -> KeyRing:
    """The key ring of the settings, or the key file beside a SQLite database. Raises `InvalidSettings`."""
    if settings.secret_keys:
        return KeyRing(settings.secret_keys)
    if database_file is None:
        raise InvalidSettings(
            "DISPATCHER_SECRET_KEY is not set, and secrets are encrypted at rest; make a key with:"
            " openssl rand -base64 32"
        )
    return key_file(database_file)


def egress_rules(settings: Settings) -> EgressRules:
    """The egress rules of the settings."""
    return EgressRules(allow_http=settings.allow_http, allow_networks=settings.allow_networks)

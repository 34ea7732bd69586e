"""The outbox as an agent server reaches it: its own engine, and this process's settings."""

from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher.clock import SystemClock
from dispatcher.outbox.publish import producer_settings
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment, open_keyring
from dispatcher.store.tables import tables
from dispatcher.store.urls import parse_database_url


def database_of(engine: AsyncEngine) -> Database:
    """The outbox's database behind an engine. Raises `InvalidSettings` for one that cannot hold an outbox."""
    settings = producer_settings()
    url = parse_database_url(engine.url.render_as_string(hide_password=False))
    return Database(url, engine, tables(settings.schema_name, settings.table_prefix), SystemClock())


def deployment_of(engine: AsyncEngine) -> Deployment:
    """The same with the keys that seal secrets, from the settings or from the file beside a SQLite database.

    Raises `InvalidSettings`.
    """
    settings, database = producer_settings(), database_of(engine)
    return Deployment(settings, database, open_keyring(settings, database.url.file), database.clock)

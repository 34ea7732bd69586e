"""One command's time on the deployment: settings, an up-to-date schema, the work, and everything closed again."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from dispatcher import logs
from dispatcher.cli.failures import note
from dispatcher.errors import ConfigurationError, StoreUnavailable
from dispatcher.settings import Settings, load
from dispatcher.store import migrate
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.urls import parse_database_url

ResultT = TypeVar("ResultT")


def on_deployment(work: Callable[[Deployment], Awaitable[ResultT]]) -> ResultT:
    """What `work` gives back, done on the deployment of the settings. Raises `DispatcherError`."""
    settings = load()
    check_file(settings)
    logs.configure("console", "warning", sys.stderr.buffer)
    return asyncio.run(_opened(settings, work))


async def _opened(settings: Settings, work: Callable[[Deployment], Awaitable[ResultT]]) -> ResultT:
    deployment = open_deployment(settings)
    try:
        await bring_up_to_date(deployment.database)
        return await work(deployment)
    except DBAPIError as error:
        raise StoreUnavailable(f"the database refuses: {error.orig}; `dispatcher doctor` says more") from error
    finally:
        await deployment.database.close()


def check_file(settings: Settings) -> None:
    """Mentions that a SQLite file is new: maybe another one was meant.

    Raises `ConfigurationError` for what cannot be used as one.
    """
    file = parse_database_url(settings.database_url).file
    if file is None:
        return
    directory = file.absolute().parent
    if file.exists():
        if file.is_dir():
            raise ConfigurationError(f"DISPATCHER_DATABASE_URL: {file.absolute()} is a directory; name a file")
        if not (os.access(file, os.W_OK) and os.access(directory, os.W_OK)):
            raise ConfigurationError(
                f"DISPATCHER_DATABASE_URL: {file.absolute()}, or its directory, may only be read by this user; SQLite"
                " writes both"
            )
        return
    if not directory.is_dir():
        raise ConfigurationError(
            f"DISPATCHER_DATABASE_URL: there is no directory {directory}; make it, or name another"
        )
    note(f"Making a new database: {file.absolute()}")


async def bring_up_to_date(database: Database) -> None:
    """Runs pending migrations on SQLite; elsewhere an old schema is refused. Raises `SchemaError`."""
    if database.dialect != "sqlite":
        await migrate.check(database)
    elif await migrate.pending(database):
        await migrate.upgrade(database)

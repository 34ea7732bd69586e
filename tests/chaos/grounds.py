"""Fresh databases for the rounds of a campaign: files, and databases on a PostgreSQL of its own."""

import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from dispatcher.clock import SystemClock
from dispatcher.settings import load
from dispatcher.store.database import open_database
from dispatcher.store.migrate import upgrade
from tests.chaos.small_disk import small_disk as mounted
from tests.postgres_server import own_postgres


class Grounds:
    """Where databases are made; a context manager. A server starts with the first that needs it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: dict[bool, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @asynccontextmanager
    async def fresh(
        self, dialect: str, *, migrated: bool = True, apart: bool = False, small_disk: bool = False
    ) -> AsyncIterator[str]:
        """The URL of a new database, gone afterwards; `apart` from those that a fault of the whole server hits.

        `small_disk`: the file is on a file system of its own. Raises `MayNotMount` where there can be none.
        """
        with ExitStack() as stack:
            if dialect == "sqlite":
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
                if small_disk:
                    stack.enter_context(mounted(Path(directory)))
                url = f"sqlite+aiosqlite:///{Path(directory)}/dispatcher.db"
            else:
                url = self._on_server(stack, apart=apart)
            if migrated:
                await _migrate(url)
            yield url

    def _on_server(self, stack: ExitStack, *, apart: bool) -> str:
        if apart not in self._servers:
            self._servers[apart] = self._stack.enter_context(own_postgres()).url
        server, name = self._servers[apart], f"chaos_{secrets.token_hex(6)}"
        # Asked for anew at each end: a fault may have broken every connection.
        stack.callback(_administer, server, "DROP DATABASE {} WITH (FORCE)", name)
        _administer(server, "CREATE DATABASE {} TEMPLATE template0", name)
        return (
            make_url(server).set(drivername="postgresql+asyncpg", database=name).render_as_string(hide_password=False)
        )


def _administer(server: str, statement: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


async def _migrate(url: str) -> None:
    database = open_database(load(database_url=url), SystemClock())
    try:
        await upgrade(database)
    finally:
        await database.close()

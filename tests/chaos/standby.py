"""A PostgreSQL primary with a streaming standby that it waits for at each commit: what a failover starts from."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from sqlalchemy.engine import make_url

from tests.asking import until
from tests.postgres_server import STANDBY, OwnPostgres, own_postgres

PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers; at first the one called primary is the one."""

    primary: OwnPostgres
    standby: OwnPostgres

    @property
    def url(self) -> str:
        """Both hosts, the primary first: the URL of a dispatcher."""
        first, second = make_url(self.primary.url), make_url(self.standby.url)
        return (
            f"postgresql+asyncpg://{first.username}:{first.password}@"
            f"{first.host}:{first.port},{second.host}:{second.port}/{first.database}"
        )

    @property
    def producers_url(self) -> str:
        """The same for SQLAlchemy itself."""
        first, second = make_url(self.primary.url), make_url(self.standby.url)
        hosts = tuple(f"{server.host}:{server.port}" for server in (first, second))
        several = first.set(drivername="postgresql+asyncpg", host=None, port=None)
        several = several.update_query_dict({"host": hosts, "target_session_attrs": "read-write"})
        return several.render_as_string(hide_password=False)

    async def fail_over(self) -> None:
        """Kills the primary with -9 and promotes the standby; returns when that takes writes."""
        await asyncio.to_thread(self.primary.kill)
        await asyncio.to_thread(self.standby.promote)


@asynccontextmanager
async def pair(*, synchronous: bool = True) -> AsyncIterator[Pair]:
    """A primary with its standby; `synchronous`: no commit is acknowledged that the standby does not have on disk."""
    with own_postgres() as primary, own_postgres(standby_of=primary) as standby:
        async with await psycopg.AsyncConnection.connect(primary.url, autocommit=True) as connection:
            if synchronous:
                await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'".encode())
                await connection.execute("SELECT pg_reload_conf()")
            await _until_it_streams(connection, "sync" if synchronous else "async")
        yield Pair(primary, standby)


async def _until_it_streams(connection: "psycopg.AsyncConnection[tuple[object, ...]]", state: str) -> None:
    async def streams() -> object:
        asked = await connection.execute(
            "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = %s", (state,)
        )
        return await asked.fetchone()

    await until(streams, patience_s=PATIENCE_S)

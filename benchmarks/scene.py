"""A fresh database with endpoints and events in it, for one measurement."""

import base64
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.events import DATA, SECRET, TYPE
from dispatcher.engine.dispatcher import open_store
from dispatcher.engine.fanning import BATCH as FAN_OUT_BATCH
from dispatcher.rules.callback_url import CallbackUrl
from dispatcher.rules.secrets import Secret
from dispatcher.settings import load
from dispatcher.store import migrate
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.endpoint_rows import NewEndpoint, insert_endpoint, new_endpoint_row
from tests.postgres_server import own_postgres

_CHUNK = 1000


class Scene:
    """A migrated database; what is published in it waits until a dispatcher works."""

    def __init__(self, directory: Path, deployment: Deployment, environment: dict[str, str]) -> None:
        self.directory = directory
        self._logs = 0
        self.deployment = deployment
        #: For processes that work on it: production's settings, but for receivers on this machine.
        self.environment = environment

    @property
    def log_level(self) -> str:
        """The least level that its processes log."""
        return self.environment.get("DISPATCHER_LOG_LEVEL", "info")

    def new_log(self) -> Path:
        """A file for one process's log."""
        self._logs += 1
        return self.directory / f"log.{self._logs}"

    async def endpoint(self, url: str, *, max_in_flight: int | None, **fields: Any) -> None:
        """Registers an endpoint with these fields."""
        database = self.deployment.database
        new = NewEndpoint(
            row_id=new_endpoint_row(),
            tenant="default",
            url=CallbackUrl.parse(url, self.deployment.egress),
            secret=Secret.parse(SECRET),
            max_in_flight=max_in_flight,
            **fields,
        )
        async with database.begin() as connection:
            await connection.run_sync(insert_endpoint, database.tables, self.deployment.keyring, new, database.now())

    async def endpoints(self, urls: Sequence[tuple[str, *tuple[str, ...]]], *, tenant: str = "default") -> None:
        """Registers an endpoint for each URL and its event types, in few transactions; otherwise as endpoints are."""
        database = self.deployment.database
        for start in range(0, len(urls), _CHUNK):
            async with database.begin() as connection:
                for url, *event_types in urls[start : start + _CHUNK]:
                    new = NewEndpoint(
                        row_id=new_endpoint_row(),
                        tenant=tenant,
                        url=CallbackUrl.parse(url, self.deployment.egress),
                        secret=Secret.parse(SECRET),
                        event_types=tuple(event_types),
                    )
                    await connection.run_sync(
                        insert_endpoint, database.tables, self.deployment.keyring, new, database.now()
                    )

    async def backlog(self, count: int, event_types: Sequence[str] = (TYPE,), *, jobs: int = 0) -> None:
        """Publishes events in few transactions; their types take turns, and so do jobs, if they have any."""
        database = self.deployment.database
        rows = [
            {
                "type": event_types[number % len(event_types)],
                "data": DATA,
                "job_id": f"job_{number % jobs}" if jobs else None,
            }
            for number in range(count)
        ]
        for start in range(0, count, _CHUNK):
            async with database.begin() as connection:
                await connection.execute(insert(database.tables.events), rows[start : start + _CHUNK])

    async def settle(self) -> None:
        """On PostgreSQL: does at once what the server would do beside the measurement, after much has come."""
        async with self.deployment.database.engine.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await autocommit.execute(text("VACUUM ANALYZE"))
            await autocommit.execute(text("CHECKPOINT"))

    async def scalar(self, sql: str) -> Any:
        """The one value that a statement selects."""
        async with self.deployment.database.read() as connection:
            return await connection.scalar(text(sql))

    async def fan_out(self) -> None:
        """Fans out what was published, so that a dispatcher finds deliveries and no queue."""
        store = open_store(self.deployment.database, self.deployment.settings)
        while (await store.fan_out(FAN_OUT_BATCH)).events:
            pass
        await store.close()

    async def check_recorded(self, events: int) -> None:
        """Raises `RuntimeError` unless so many deliveries have succeeded with their attempt on record, and no other."""
        recorded = await self.scalar(
            "SELECT count(*) FROM attempts a JOIN deliveries d ON d.row_id = a.delivery_row"
            " WHERE d.state = 'delivered' AND a.status = 200"
        )
        if recorded != events:
            raise RuntimeError(f"{recorded} of {events} deliveries have their attempt on record")

    async def recorded_per_s(self, *, skip: int) -> float:
        """Attempts recorded per second, all but the first `skip`."""
        rows = "SELECT updated_at FROM deliveries WHERE state = 'delivered' ORDER BY updated_at"
        count = int(await self.scalar("SELECT count(*) FROM deliveries WHERE state = 'delivered'")) - skip
        began_at = await self._moment(f"{rows} LIMIT 1 OFFSET {skip}")
        return count / (await self.last_recorded_at() - began_at)

    async def last_recorded_at(self) -> float:
        """When the last outcome was recorded, as Unix time."""
        return await self._moment("SELECT max(updated_at) FROM deliveries WHERE state = 'delivered'")

    async def _moment(self, sql: str) -> float:
        moment = await self.scalar(sql)
        return float(moment.timestamp() if isinstance(moment, datetime) else moment / 1_000_000)


class Databases:
    """Where scenes are set: files in a directory, and a PostgreSQL server."""

    def __init__(self, directory: Path, postgres_url: str) -> None:
        self._directory = directory
        self._postgres_url = postgres_url

    async def postgres_version(self) -> str:
        """The server's version, with the settings that decide what a commit costs."""
        engine = create_async_engine(make_url(self._postgres_url).set(drivername="postgresql+asyncpg"))
        async with engine.connect() as connection:
            version = await connection.scalar(text("SHOW server_version"))
            synchronous = await connection.scalar(text("SHOW synchronous_commit"))
            fsync = await connection.scalar(text("SHOW fsync"))
        await engine.dispose()
        return f"PostgreSQL {version} (synchronous_commit={synchronous}, fsync={fsync})"

    @asynccontextmanager
    async def scene(self, dialect: str, *, log_level: str = "info") -> AsyncIterator[Scene]:
        """A scene on `postgresql` or `sqlite`, gone afterwards, whose processes log from this level on."""
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            if dialect == "sqlite":
                async with _opened(Path(directory), f"sqlite:///{directory}/bench.db", log_level) as scene:
                    yield scene
                return
            name = f"bench_{secrets.token_hex(6)}"
            await self._administer(f"CREATE DATABASE {name}")
            try:
                url = make_url(self._postgres_url).set(database=name)
                async with _opened(Path(directory), url.render_as_string(hide_password=False), log_level) as scene:
                    yield scene
            finally:
                await self._administer(f"DROP DATABASE {name} WITH (FORCE)")
                # So that one measurement's writes are not paid for in the next.
                await self._administer("CHECKPOINT")

    async def _administer(self, sql: str) -> None:
        url = make_url(self._postgres_url).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(sql))
        await engine.dispose()


@asynccontextmanager
async def _opened(directory: Path, database_url: str, log_level: str) -> AsyncIterator[Scene]:
    given = {
        "DISPATCHER_DATABASE_URL": database_url,
        "DISPATCHER_SECRET_KEY": base64.b64encode(b"benchmarks encrypt with 32 bytes").decode(),
        "DISPATCHER_ALLOW_HTTP": "true",
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
        "DISPATCHER_WORK_PORT": "0",
        "DISPATCHER_LOG_LEVEL": log_level,
    }
    settings = load(
        directory / "no.env",
        database_url=database_url,
        secret_key=given["DISPATCHER_SECRET_KEY"],
        allow_http=True,
        allow_networks="127.0.0.0/8",
    )
    deployment = open_deployment(settings)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    try:
        await migrate.upgrade(deployment.database)
        yield Scene(directory, deployment, {**inherited, **given})
    finally:
        await deployment.database.close()


@asynccontextmanager
async def databases() -> AsyncIterator[Databases]:
    """The PostgreSQL that BENCH_DATABASE_URL names, or one of our own; files beside it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        named = os.environ.get("BENCH_DATABASE_URL")
        if named:
            yield Databases(Path(directory), named)
            return
        with own_postgres() as server:
            yield Databases(Path(directory), server.url)

"""A running API on a real port, and what its routes need to have something to show."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from dispatcher.api.app import create_app
from dispatcher.api.runner import ApiRunner
from dispatcher.service.job_readers import JobReaders
from dispatcher.settings import Settings, load
from dispatcher.store.deployment import Deployment, open_deployment
from tests.api.client import ADMIN_KEY, Api
from tests.api.desk import Desk, open_desk
from tests.clock import FakeClock


def settings_for(url: str) -> Settings:
    return load(
        database_url=url,
        secret_key="QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
        allow_http=True,
        allow_networks="127.0.0.0/8",
        egress_addresses="192.0.2.7,2001:db8::7",
    )


@asynccontextmanager
async def running_api(
    deployment: Deployment,
    on_published: Callable[[], None] | None = None,
    readers: JobReaders | None = None,
    most_connections: int = 1000,
) -> AsyncIterator[Api]:
    app = create_app(deployment, admin_key=ADMIN_KEY, on_published=on_published, readers=readers)
    runner = ApiRunner(app, most_connections=most_connections, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield Api(session, f"http://{host}:{port}", ADMIN_KEY, deployment, app)
    finally:
        await runner.cleanup()


@pytest.fixture
async def deployment(sqlite_url: str) -> AsyncIterator[Deployment]:
    opened = open_deployment(settings_for(sqlite_url))
    yield opened
    await opened.database.close()


@pytest.fixture
async def api(deployment: Deployment) -> AsyncIterator[Api]:
    """The API on SQLite, called with the admin key."""
    async with running_api(deployment) as running:
        yield running


@pytest.fixture
async def either_api(database_url: str) -> AsyncIterator[Api]:
    """The API on each kind of database."""
    opened = open_deployment(settings_for(database_url))
    try:
        async with running_api(opened) as running:
            yield running
    finally:
        await opened.database.close()


@pytest.fixture
def new_key(api: Api) -> Callable[[str], Awaitable[str]]:
    """Makes an API key for a tenant."""

    async def make(tenant: str) -> str:
        answered = await api.post("/v1/keys", {"tenant": tenant})
        assert answered.status == 201
        return str(answered.json["key"])

    return make


@pytest.fixture
async def desk(database_url: str, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_desk(database_url, clock) as opened:
        yield opened


@pytest.fixture
async def sqlite_desk(sqlite_url: str, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_desk(sqlite_url, clock) as opened:
        yield opened

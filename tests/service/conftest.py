"""Scenes on each database, or on SQLite alone where the database makes no difference."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dispatcher.engine.dispatcher import open_store
from dispatcher.settings import Settings, load
from dispatcher.store.deployment import open_deployment
from tests.clock import FakeClock
from tests.service.scene import Scene


def settings_for(url: str, **given: Any) -> Settings:
    return load(database_url=url, secret_key="QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", **given)


@asynccontextmanager
async def open_scene(url: str, clock: FakeClock, **given: Any) -> AsyncIterator[Scene]:
    deployment = open_deployment(settings_for(url, **given), clock)
    store = open_store(deployment.database, deployment.settings)
    try:
        # Longer than any time that a test lets pass: a lease that has ended claims nothing.
        await store.enrol("test", 7 * 86400.0)
        yield Scene(deployment, store, clock)
    finally:
        await store.close()
        await deployment.database.close()


@pytest.fixture
async def scene(database_url: str, clock: FakeClock) -> AsyncIterator[Scene]:
    """A scene; the test runs on each kind of database."""
    async with open_scene(database_url, clock) as opened:
        yield opened


@pytest.fixture
async def sqlite_scene(sqlite_url: str, clock: FakeClock) -> AsyncIterator[Scene]:
    """A scene on SQLite."""
    async with open_scene(sqlite_url, clock) as opened:
        yield opened

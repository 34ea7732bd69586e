"""A client that may connect to this machine."""

from collections.abc import AsyncIterator

import pytest

from dispatcher.transport.client import HttpClient
from tests.transport.posting import LOOPBACK


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    opened = HttpClient(LOOPBACK, connect_timeout_s=5.0)
    yield opened
    await opened.close()

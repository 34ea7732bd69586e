"""Clients of every kind that may connect to this machine: each test of this folder is about all of them."""

from collections.abc import AsyncIterator
from typing import get_args

import pytest

from dispatcher.transport.client import HttpClient, Kind
from tests.transport.posting import Open


@pytest.fixture(params=get_args(Kind))
def kind(request: pytest.FixtureRequest) -> Kind:
    """One after the other, every client there is."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
async def opened(kind: Kind) -> AsyncIterator[Open]:
    """Opens clients, and closes them at the end."""
    opening = Open(kind)
    yield opening
    for client in opening.clients:
        await client.close()


@pytest.fixture
async def client(opened: Open) -> HttpClient:
    return opened()

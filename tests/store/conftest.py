"""The hot store of each database, enrolled, with a deployment around it."""

from collections.abc import AsyncIterator

import pytest

from dispatcher.store.hot import HotStore
from tests.outpost import Outpost


@pytest.fixture
async def store(outpost: Outpost) -> AsyncIterator[HotStore]:
    async with outpost.store() as opened:
        yield opened

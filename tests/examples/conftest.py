"""What the examples are tried with: something in front of each receiver that can be down."""

from collections.abc import AsyncIterator

import pytest

from tests.front import Front


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with Front() as running:
        yield running

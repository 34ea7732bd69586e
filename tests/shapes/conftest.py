"""What every shape needs: something in front of its receiver that can be down."""

from collections.abc import AsyncIterator

import pytest

from tests.front import Front


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with Front() as running:
        yield running

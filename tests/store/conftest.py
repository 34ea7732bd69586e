"""The hot store of each database, enrolled, with a deployment around it."""

from collections.abc import AsyncIterator

import pytest

from dispatcher.store.hot import HotStore
from dispatcher.store.postgres import marks
from tests.outpost import Outpost


@pytest.fixture
async def store(outpost: Outpost) -> AsyncIterator[HotStore]:
    async with outpost.store() as opened:
        yield opened


@pytest.fixture
def marked_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look in full is a dear one: all that follow it in a test go from marks."""
    monkeypatch.setattr(marks, "FEW", 0)
    monkeypatch.setattr(marks, "DEAR_S", 0.0)
    monkeypatch.setattr(marks, "REST", 1e9)

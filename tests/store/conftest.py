"""The hot store of each database, enrolled, with a deployment around it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Ingested
from dispatcher.store.postgres import marks
from dispatcher.store.postgres.born import Born
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


@pytest.fixture
def born(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that events might have been born in flight, whether they were."""
    seen: list[bool] = []
    run = Born.run

    async def noted(self: Born, *given: Any) -> Ingested | None:
        done = await run(self, *given)
        seen.append(done is not None)
        return done

    monkeypatch.setattr(Born, "run", noted)
    return seen

"""The hot store of each database, enrolled, with a deployment around it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from dispatcher.store.hot import HotStore
from dispatcher.store.postgres import marks
from dispatcher.store.postgres.born import Born
from dispatcher.store.postgres.born_of_queue import BornOfQueue
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
    for way in (Born, BornOfQueue):
        monkeypatch.setattr(way, "run", _noted(way.run, seen))
    return seen


def _noted(run: Callable[..., Awaitable[Any]], seen: list[bool]) -> Callable[..., Awaitable[Any]]:
    async def noted(*given: Any) -> Any:
        done = await run(*given)
        seen.append(done is not None)
        return done

    return noted

"""Patience with the database: an outage is waited out and counted, and everything else travels at once."""

import pytest

from dispatcher import metrics
from dispatcher.engine.patience import patiently
from dispatcher.errors import StoreUnavailable


def _outages(stage: str) -> float:
    return metrics.registry.get_sample_value("dispatcher_store_unavailable_total", {"stage": stage}) or 0.0


async def test_it_tries_until_the_database_answers_and_counts_the_outages() -> None:
    tries: list[int] = []

    async def work() -> str:
        tries.append(len(tries))
        if len(tries) < 4:
            raise StoreUnavailable("it restarts")
        return "done"

    assert await patiently("patience of a test", work) == "done"
    assert len(tries) == 4
    assert _outages("patience of a test") == 3


async def test_what_works_at_once_is_done_once() -> None:
    tries = []

    async def work() -> None:
        tries.append(1)

    await patiently("nothing to be patient about", work)
    assert tries == [1]
    assert _outages("nothing to be patient about") == 0


async def test_an_error_that_is_no_outage_is_raised_at_once() -> None:
    tries = []

    async def work() -> None:
        tries.append(1)
        raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="a fault of ours"):
        await patiently("fault", work)
    assert tries == [1]


async def test_a_fault_that_follows_an_outage_is_raised_too() -> None:
    errors: list[Exception] = [StoreUnavailable("it restarts"), ValueError("a fault of ours")]

    async def work() -> None:
        raise errors.pop(0)

    with pytest.raises(ValueError, match="a fault of ours"):
        await patiently("outage, then fault", work)
    assert not errors

"""The wall clock set by an hour under a real dispatcher and load: nothing waits for that hour or comes twice."""

import os

import pytest

from tests.chaos.faults.clock import Set
from tests.chaos.siege import besiege

SEED = int(os.environ.get("CHAOS_SEED") or int.from_bytes(os.urandom(4)))


async def test_a_clock_that_is_set_by_an_hour_holds_nothing_up(database_url: str) -> None:
    found = await besiege(database_url, Set(), strikes=2, seed=SEED)
    assert found.broken == {}, f"CHAOS_SEED={SEED}\n{found.table()}"
    # No lease was lost by it: what was in flight was answered once and recorded.
    assert found.duplicates == 0
    assert found.events


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_a_clock_that_is_set_a_hundred_times_holds_nothing_up(database_url: str) -> None:
    found = await besiege(database_url, Set(), strikes=100, seed=SEED)
    print(f"\nclock-set, {database_url.partition(':')[0]}, CHAOS_SEED={SEED}\n{found.table()}")
    assert found.broken == {}
    assert found.duplicates == 0

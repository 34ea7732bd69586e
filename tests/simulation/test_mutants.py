"""Every planted bug is found, by name, within so many seeds."""

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.scenario import play

#: Those that need a rare meeting of circumstances; the others are found within `SOON` seeds.
RARE = {
    "a lease is taken for endless",
    "the lease is counted from the answer",
    "a batch holds a delivery twice",
    "a process asks too early what it holds",
    "a lease that ended is renewed",
}
SOON, SOME_TIME = 30, 1500


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 40
    assert MUTANTS.keys() >= RARE


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in RARE])
def test_the_simulation_finds(name: str) -> None:
    with MUTANTS[name]():
        assert any(play(seed).world.broken for seed in range(1, SOON + 1))


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(RARE))
def test_the_simulation_finds_in_time(name: str) -> None:
    with MUTANTS[name]():
        assert any(play(seed).world.broken for seed in range(1, SOME_TIME + 1))

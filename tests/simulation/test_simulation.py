"""The engine in simulated bad weather: no seed breaks a promise, and a seed is a run."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from dispatcher.logs import logger
from tests.simulation.mutants import MUTANTS
from tests.simulation.scenario import play
from tests.simulation.stateful import runs_until_found

ROOT = Path(__file__).parents[2]


def test_no_seed_breaks_a_promise() -> None:
    for seed in range(1, 31):
        broken = play(seed).world.broken
        assert not broken, f"python -m tests.simulation --trace {seed}"


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_no_seed_of_many_breaks_a_promise() -> None:
    for seed in range(1, int(os.environ.get("SIMULATION_SEEDS", "10000")) + 1):
        broken = play(seed).world.broken
        assert not broken, f"python -m tests.simulation --trace {seed}"


def test_a_seed_gives_the_same_run_again() -> None:
    for seed in (3, 4, 5):
        assert play(seed).world.lines() == play(seed).world.lines()
    assert play(3).world.lines() != play(4).world.lines()


def test_a_seed_gives_the_same_run_in_every_interpreter() -> None:
    def trace(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.simulation", "--trace", "8"]
        ran = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, check=False
        )
        assert len(ran.stdout.splitlines()) > 100, ran.stderr.decode()
        return sha256(ran.stdout).hexdigest()

    assert trace("1") == trace("2")


def test_a_run_leaves_the_log_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    play(1)
    with caplog.at_level("WARNING"):
        logger("dispatcher.simulation").warning("still.heard")
    assert "still.heard" in caplog.text


def test_a_broken_promise_is_named_in_the_trace() -> None:
    with MUTANTS["a failure is counted twice"]():
        run = play(1)
    assert run.world.broken
    assert run.world.broken[0] in "\n".join(run.world.lines())


def test_hypothesis_finds_a_bug_in_the_same_world_and_none_without_one() -> None:
    assert runs_until_found(5) is None
    with MUTANTS["a stop gives the lease back first"]():
        assert runs_until_found(20) is not None

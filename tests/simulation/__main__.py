"""`python -m tests.simulation`: seeds by the thousand, until one breaks a promise."""

import argparse
import sys
import time
from contextlib import nullcontext

from tests.simulation.mutants import BREAKS, MUTANTS
from tests.simulation.scenario import Run, play
from tests.simulation.stateful import runs_until_found


def main() -> int:
    """Plays seeds; 1 when a promise was broken (with a mutant: when none was)."""
    options = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    options.add_argument("--seeds", type=int, default=1000, help="how many")
    options.add_argument("--from", type=int, default=1, dest="first", help="the first")
    options.add_argument("--mutant", choices=MUTANTS, help="plant this bug, and look for it")
    options.add_argument("--mutants", action="store_true", help="plant each bug in turn; print what it took to find it")
    options.add_argument("--hypothesis", action="store_true", help="let Hypothesis choose instead of seeds")
    options.add_argument("--trace", type=int, metavar="SEED", help="play this seed only, and print all that happens")
    given = options.parse_args()
    if given.mutants:
        return _table(given.first, given.seeds)
    planted = MUTANTS[given.mutant]() if given.mutant else nullcontext()
    with planted:
        if given.trace is not None:
            traced = play(given.trace)
            print(*traced.world.lines(), sep="\n")
            return int(bool(traced.world.broken))
        if given.hypothesis:
            found = runs_until_found(given.seeds)
            print(f"found after {found} runs" if found else f"nothing found in {given.seeds} runs")
            return int((found is None) is (given.mutant is not None))
        run = _search(given.first, given.seeds)
    if run is None:
        return int(given.mutant is not None)
    again = f"--mutant {given.mutant!r} " if given.mutant else ""
    print(*run.world.lines()[-40:], sep="\n")
    print(f"seed {run.seed} broke a promise:", *run.world.broken, sep="\n  ")
    print(f"again: python -m tests.simulation {again}--trace {run.seed}")
    return int(given.mutant is None)


def _search(first: int, count: int) -> Run | None:
    """The first run that broke a promise."""
    begun = time.perf_counter()
    found = None
    played = 0
    for seed in range(first, first + count):
        run = play(seed)
        played += 1
        if run.world.broken:
            found = run
            break
    took_s = time.perf_counter() - begun
    print(f"{played} seeds in {took_s:.1f} s, {played / took_s:.1f} a second")
    return found


def _table(first: int, most: int) -> int:
    missed = 0
    for name, plant in MUTANTS.items():
        with plant():
            found = next((run for run in map(play, range(first, first + most)) if run.broke(BREAKS[name])), None)
        missed += found is None
        seeds = "not found" if found is None else str(found.seed - first + 1)
        print(f"| {name} | {seeds} | {BREAKS[name]} |", flush=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

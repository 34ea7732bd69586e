"""`python -m tests.chaos` (`make chaos`): the long form of the campaign. Runs add up, and print all that was found."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from tests.chaos.campaign import Plan, main_loop, repeat
from tests.chaos.roster import FAULTS
from tests.chaos.tally import Round, State, table

DATABASES = ("sqlite", "postgresql")


def main() -> int:
    """The exit code: 1 when a promise was broken in any round so far."""
    arguments = _arguments()
    if arguments.repeat:
        database, name, number = arguments.repeat.split("/")
        made = asyncio.run(repeat(database, name, int(number), arguments.seed or 0))
        print(table([made]))
        return _verdict([made], arguments.seed or 0)
    state = State(arguments.resume, arguments.seed, otherwise=int.from_bytes(os.urandom(4)))
    plan = Plan(
        databases=DATABASES if arguments.database == "both" else (arguments.database,),
        faults=[FAULTS[name] for name in arguments.faults.split(",")] if arguments.faults else list(FAULTS.values()),
        strikes=arguments.kills,
        twins=not arguments.no_twins,
        defaults=not arguments.no_defaults,
    )
    print(f"seed {state.seed}, {len(state.rounds)} rounds so far in {arguments.resume}", flush=True)
    try:
        main_loop(plan, state, arguments.minutes, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
    print(f"\n{table(state.rounds)}")
    return _verdict(state.rounds, state.seed)


def _verdict(rounds: list[Round], seed: int) -> int:
    broken = [made for made in rounds if made.broken]
    for made in broken:
        print(f"{made.database} {made.fault} #{made.number} broke: {', '.join(made.broken)}")
        for promise, examples in made.examples.items():
            print(f"  {promise}: " + "\n    ".join(examples))
        if made.failed:
            print(made.failed)
        if not made.twin and not made.defaults:
            round_name = f"{made.database}/{made.fault}/{made.number}"
            print(f"  again: python -m tests.chaos --seed {seed} --repeat {round_name}")
    print("A promise was broken." if broken else "Every promise was kept.")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="strikes on each database, shared among its faults")
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    parser.add_argument("--faults", help=f"comma-separated, of: {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, help="of a new campaign; a resumed one has its own")
    parser.add_argument("--resume", type=Path, default=Path(".chaos/campaign.jsonl"), help="the campaign's file")
    parser.add_argument("--minutes", type=float, help="begin no round after so long")
    parser.add_argument("--no-twins", action="store_true", help="do not compare throughput with an undisturbed twin's")
    parser.add_argument("--no-defaults", action="store_true", help="do not measure recovery with the default lease")
    parser.add_argument("--repeat", metavar="DATABASE/FAULT/NUMBER", help="make one round of a campaign again")
    arguments = parser.parse_args()
    unknown = set(arguments.faults.split(",")) - FAULTS.keys() if arguments.faults else set()
    if unknown:
        parser.error(f"no fault is called {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())

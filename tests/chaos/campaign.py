"""The campaign: rounds of every fault on every database, each on fresh ground, until all is done or time is up."""

import asyncio
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from dispatcher.settings import load
from tests.chaos.faults import Fault
from tests.chaos.faults.processes import KilledRestarted, KilledUnreplaced
from tests.chaos.grounds import Grounds
from tests.chaos.roster import FAULTS
from tests.chaos.siege import besiege
from tests.chaos.small_disk import why_not
from tests.chaos.tally import Round, State, round_of
from tests.chaos.twin import compare

#: The most strikes of one round: its journal is all in memory.
MOST_STRIKES = 10
SETTINGS = {"lease": "2s"}
#: Strikes with the default lease, on each database.
DEFAULT_STRIKES = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done in all."""

    databases: Sequence[str]
    faults: Sequence[Fault]
    #: On each database, shared among the faults.
    strikes: int
    twins: bool
    defaults: bool

    def on(self, database: str) -> list[Fault]:
        return [fault for fault in self.faults if database in fault.dialects]


async def campaign(plan: Plan, state: State, until_s: float, tell: Callable[[str], None]) -> None:
    """Goes on where the state says it stopped, until the plan is done or the clock's monotonic time is `until_s`."""
    if any(fault.small_disk for fault in plan.faults) and (reason := why_not()):
        for fault in plan.faults:
            if fault.small_disk:
                tell(f"{fault.name} is left out: {reason}")
        plan = replace(plan, faults=[fault for fault in plan.faults if not fault.small_disk])
    with Grounds() as grounds:
        while time.monotonic() < until_s:
            todo = next(_todo(plan, state), None)
            if todo is None:
                return
            made = await _run(grounds, todo, state.seed)
            state.add(made)
            tell(_line(made))


async def repeat(database: str, name: str, number: int, seed: int) -> Round:
    """Makes one round of a campaign again; its answers depend on timing, its strikes and events do not."""
    with Grounds() as grounds:
        todo = _Todo(database, FAULTS[name], number, MOST_STRIKES)
        return await _run(grounds, todo, seed)


@dataclass(frozen=True, slots=True)
class _Todo:
    database: str
    fault: Fault
    number: int
    strikes: int
    twin: bool = False
    defaults: bool = False


def _todo(plan: Plan, state: State) -> Iterator[_Todo]:
    """What is left, the next first: faults and databases take turns."""
    for database in plan.databases if plan.defaults else ():
        fault: Fault = KilledRestarted() if database == "sqlite" else KilledUnreplaced()
        if not state.has(database, fault.name, defaults=True):
            yield _Todo(database, fault, state.next_number(database, fault.name), DEFAULT_STRIKES, defaults=True)
    behind = []
    for database in plan.databases:
        faults = plan.on(database)
        for fault in faults:
            number, done = state.next_number(database, fault.name), state.strikes(database, fault.name)
            left = ceil(plan.strikes / len(faults)) - done
            if left > 0:
                behind.append((done, _Todo(database, fault, number, min(left, MOST_STRIKES))))
            elif plan.twins and not fault.empty and not state.has(database, fault.name, twin=True):
                behind.append((done, _Todo(database, fault, number, 0, twin=True)))
    yield from (todo for _, todo in sorted(behind, key=lambda entry: entry[0]))


async def _run(grounds: Grounds, todo: _Todo, seed: int) -> Round:
    started = time.monotonic()
    of_round = f"{seed} {todo.database} {todo.fault.name} {todo.number}"
    ratio = back_after_s = None
    try:
        async with grounds.fresh(todo.database, migrated=not todo.fault.empty, small_disk=todo.fault.small_disk) as url:
            if todo.twin:
                async with grounds.fresh(todo.database, apart=todo.fault.whole_server) as twin_url:
                    ratio, back_after_s, found = await compare(url, twin_url, todo.fault, of_round)
            else:
                settings = _defaults() if todo.defaults else SETTINGS
                found = await besiege(url, todo.fault, strikes=todo.strikes, seed=of_round, settings=settings)
    except Exception:  # noqa: BLE001 - a round that fails is a finding, and the others go on
        return Round(
            todo.database,
            todo.fault.name,
            todo.number,
            strikes=todo.strikes,
            twin=todo.twin,
            defaults=todo.defaults,
            took_s=round(time.monotonic() - started, 1),
            failed=traceback.format_exc(),
        )
    made = round_of(
        todo.database,
        todo.fault.name,
        todo.number,
        found,
        defaults=todo.defaults,
        took_s=time.monotonic() - started,
    )
    return replace(made, twin=todo.twin, ratio=ratio, back_after_s=back_after_s)


def _defaults() -> dict[str, str]:
    settings = load()
    return {
        name: f"{int(value.total_seconds() * 1000)}ms"
        for name, value in (("lease", settings.lease), ("poll_interval", settings.poll_interval))
    }


def _line(made: Round) -> str:
    what = "twin" if made.twin else "default lease" if made.defaults else f"{made.strikes} strikes"
    outcome = f"BROKEN: {', '.join(made.broken)}" if made.broken else "kept"
    return f"{made.database} {made.fault} #{made.number}: {what}, {made.took_s:.0f} s, {outcome}"


def main_loop(plan: Plan, state: State, minutes: float | None, tell: Callable[[str], None]) -> None:
    """Runs the campaign in an event loop of its own."""
    until_s = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    asyncio.run(campaign(plan, state, until_s, tell))

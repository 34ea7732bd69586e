"""Planted bugs, by name: each patches the engine, or a statement of the model, for as long as it is entered.

The simulation must find every one by the promise that it breaks (`test_mutants.py`); what it cannot find it does not
check, and a bug that breaks something else is not the bug that it is called.
"""

import asyncio
import dataclasses
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from dispatcher.engine import attempt, claiming, reclaiming, recorder
from dispatcher.engine.attempt import Attempts, Ended
from dispatcher.engine.claiming import Claiming
from dispatcher.engine.fanning import Fanning
from dispatcher.engine.lease import Lease
from dispatcher.engine.patience import patiently
from dispatcher.engine.reclaiming import Reclaiming
from dispatcher.engine.recorder import Recorder
from dispatcher.engine.running import Running
from dispatcher.engine.straight import StraightWay
from dispatcher.errors import StoreUnavailable
from dispatcher.rules import verdict
from dispatcher.rules.verdict import Exchange, Outcome
from dispatcher.states import AttemptError
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.hot import FannedOut, Finished, Recorded
from dispatcher.store.ingest import Ingested
from tests.simulation.model import Model
from tests.simulation.outside import ModelStore
from tests.simulation.rows import LIVE, SENDING, Delivery

Mutant = Callable[[], AbstractContextManager[object]]
MUTANTS: dict[str, Mutant] = {}
#: By mutant: the promise of the simulation's ledger that it breaks.
BREAKS: dict[str, str] = {}
#: What bugs do beside what they should; nobody waits for it.
_BESIDE: deque[asyncio.Task[Any]] = deque(maxlen=100)


def _named(name: str, target: object, attribute: str, *, breaks: str) -> Callable[[Any], Any]:
    """Plants what it decorates in place of `target.attribute`, which breaks a promise."""

    def plant(bug: Any) -> Any:
        MUTANTS[name] = lambda: patch.object(target, attribute, bug)
        BREAKS[name] = breaks
        return bug

    return plant


# Leases.


@_named("the lease is not checked before the POST", Lease, "covers", breaks="only who holds the lease sends")
def _covers_all(self: Lease, dispatcher_row: int) -> bool:
    return True


@_named("a lease is taken for endless", Lease, "covers", breaks="only who holds the lease sends")
def _covers_for_ever(self: Lease, dispatcher_row: int) -> bool:
    return dispatcher_row == self._store.dispatcher_row


@_named("a new lease covers old claims", Lease, "covers", breaks="only who holds the lease sends")
def _covers_old(self: Lease, dispatcher_row: int) -> bool:
    return self._clock.monotonic() < self._ends_s


@_named("the lease is counted from the answer", Lease, "_beat", breaks="only who holds the lease sends")
async def _beat_late(self: Lease) -> bool:
    renewed = await self._store.heartbeat(self._lease_s)
    if renewed:
        self._ends_s = self._clock.monotonic() + self._lease_s
    return renewed


@_named("a lost lease goes unnoticed", Lease, "renew", breaks="nothing stuck")
async def _renew_blindly(self: Lease) -> None:
    await patiently("lease", self._beat)


@_named("a stop gives the lease back first", Claiming, "stop", breaks="a clean stop leaves nothing")
def _stop_without_lease(self: Claiming) -> None:
    _stop(self)
    _BESIDE.append(asyncio.get_running_loop().create_task(self._store.retire()))


# Claims and attempts.


@_named("attempts are recorded before the POST", Attempts, "make", breaks="what happened is on record")
async def _make_early(self: Attempts, claimed: Claimed) -> Ended:
    _BESIDE.append(asyncio.get_running_loop().create_task(_make(self, claimed)))
    return self._conclude(claimed, None, Exchange(200, None), self._clock.now(), 0.0)


@_named("an unknown outcome is taken for delivered", attempt, "judge", breaks="delivered is what was accepted")
def _judge_kindly(exchange: Exchange, **given: Any) -> verdict.Verdict:
    if exchange.error is AttemptError.INTERRUPTED:
        return verdict.Verdict(Outcome.DELIVERED, None, None, None, False, None)
    return verdict.judge(exchange, **given)


@_named("interruptions never count", verdict, "_outcome", breaks="attempts are counted once")
def _forgive(exchange: Exchange, failures: int, interruptions: int, policy: Any) -> Any:
    return _outcome(exchange, failures, 0, policy)


@contextmanager
def _counted_twice() -> Iterator[None]:
    def conclude(*given: Any) -> Finished:
        finished = _conclude(*given)
        return replace(finished, failures=finished.failures + (finished.outcome is Outcome.RETRY))

    with patch.object(attempt, "conclude", conclude), patch.object(reclaiming, "conclude", conclude):
        yield


MUTANTS["a failure is counted twice"] = _counted_twice
BREAKS["a failure is counted twice"] = "attempts are counted once"


@_named("cancelled attempts are not recorded", Claiming, "_attempt", breaks="a clean stop leaves nothing")
async def _attempt_silently(self: Claiming, claimed: Claimed) -> None:
    ended = await self._attempts.make(claimed)
    if ended.finished.error is not AttemptError.INTERRUPTED:
        self._ended(ended)


@_named("attempts in flight take no room", Claiming, "once", breaks="caps hold")
async def _once_more(self: Claiming) -> float | None:
    unrecorded = self._unrecorded
    self._unrecorded = lambda: [*unrecorded(), *sorted(self.held)]
    try:
        return await _once(self)
    finally:
        self._unrecorded = unrecorded


@_named("a stop is heard late", Claiming, "stop", breaks="no claims after the stop")
def _stop_late(self: Claiming) -> None:
    asyncio.get_running_loop().call_later(1.0, _stop, self)


@_named("a stop has no grace", Claiming, "finish", breaks="attempts have their grace")
async def _finish_at_once(self: Claiming, grace_s: float) -> None:
    await _finish(self, 0.0)


@_named("a stop waits for every attempt", Claiming, "finish", breaks="a stop ends in time")
async def _finish_sometime(self: Claiming, grace_s: float) -> None:
    await _finish(self, math.inf)


@_named("the release is forgotten at a stop", claiming, "patiently", breaks="a clean stop leaves nothing")
async def _claim_and_keep(stage: str, work: Callable[[], Awaitable[Any]], **given: Any) -> Any:
    return None if stage == "release" else await patiently(stage, work, **given)


@_named("what was handed over is not begun", Claiming, "returned", breaks="work is prompt")
def _begin_nothing(self: Claiming, batch: ClaimedBatch, *, left: bool) -> None:
    self._lent = 0


@_named("what a publisher's transaction claimed is not begun", StraightWay, "committed", breaks="publishing is prompt")
def _only_end_the_turn(self: StraightWay, done: Ingested) -> None:
    self._end_turn()
    self._claiming._lent = 0


@_named("a retry does not wake the claim", Claiming, "retry_at", breaks="retries are prompt")
def _sleep_on(self: Claiming, delay_s: float) -> None:
    return


@_named("retries are never made due", Claiming, "_make_due", breaks="retries are prompt")
async def _make_nothing_due(self: Claiming) -> int:
    self._look_for_due_at = self._clock.monotonic() + self._poll_interval_s
    return 0


@_named("a lane that was freed wakes nobody", Claiming, "recorded", breaks="retries are prompt")
def _stay_quiet(self: Claiming, *, freed: bool) -> None:
    return


@_named("room that was made wakes nobody", Claiming, "room_made", breaks="work is prompt")
def _make_no_room(self: Claiming, room: int) -> None:
    return


@_named("a contended claim is not tried again", ModelStore, "claim", breaks="retries are prompt")
async def _claim_once(self: ModelStore, *given: Any) -> ClaimedBatch:
    return dataclasses.replace(await _claim_of_store(self, *given), contended=False)


@_named("a commit wakes nobody", Running, "wake", breaks="work is prompt")
def _hear_nothing(self: Running) -> None:
    return


# Fan-out.


@_named("fan-out is skipped after a restart", Fanning, "run", breaks="a start is prompt")
async def _run_when_rung(self: Fanning) -> None:
    await self._pulse._rung.wait()
    await _run_fanning(self)


# Records.


@_named("a batch is dropped when the database is away", recorder, "patiently", breaks="a known outcome is recorded")
async def _record_once(stage: str, work: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await work()
    except StoreUnavailable:
        return Recorded(frozenset(), freed=False)


@_named("patience ends with the first failure", recorder, "patiently", breaks="the engine has no fault")
async def _try_once(stage: str, work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


@_named("a batch holds a delivery twice", Recorder, "_next_batch", breaks="a batch holds a delivery once")
def _next_batch_blindly(self: Recorder) -> list[Ended]:
    batch, self._waiting = self._waiting, []
    return batch


@_named("a stop leaves outcomes behind", Recorder, "close", breaks="a clean stop leaves nothing")
def _close_early(self: Recorder) -> None:
    self._waiting.clear()
    _close(self)


# Reclaiming.


@_named("a process reclaims what it holds", Running, "_held", breaks="a known outcome is recorded")
def _hold_nothing(self: Running) -> set[tuple[int, int]]:
    return set()


@_named(
    "a process reclaims what failed and is not on record", Recorder, "unrecorded", breaks="a known outcome is recorded"
)
def _unrecorded(self: Recorder) -> list[tuple[int, int]]:
    return self.making_room


MUTANTS["a process reclaims what failed and is not on record"] = lambda: patch.object(
    Recorder, "unrecorded", property(_unrecorded)
)


@_named("a process asks too early what it holds", Reclaiming, "reclaim", breaks="a known outcome is recorded")
async def _reclaim_early(self: Reclaiming, **given: Any) -> None:
    asked, held = self._held, self._held()
    self._held = lambda: held
    try:
        await _reclaim(self, **given)
    finally:
        self._held = asked


@_named("reclaimed at the start only", Reclaiming, "reclaim", breaks="a crash heals")
async def _reclaim_once(self: Reclaiming, **given: Any) -> None:
    if "reclaimed" not in vars(self):
        vars(self)["reclaimed"] = True
        await _reclaim(self, **given)


# The statements.


@_named("the store's fence is forgotten", Model, "holds", breaks="every attempt is on record once")
def _hold_any(self: Model, delivery_row: int, attempt: int, dispatcher_row: int) -> bool:
    return delivery_row in self.live and self.live[delivery_row].state is SENDING


@_named("a lane has no order", Model, "waits", breaks="order per lane")
def _wait_for_none(self: Model, delivery: Delivery) -> bool:
    return False


@_named("a lane goes backwards", Model, "head", breaks="order per lane")
def _tail(self: Model, lane: int, endpoint: Any) -> Delivery | None:
    there = [d for d in self.by_lane[lane, endpoint.row] if d.state in LIVE and not d.late]
    return max(there, key=lambda d: d.sequence or 0, default=None)


@_named("a lane is claimed beside its attempt in flight", Model, "_busy", breaks="one in flight per lane")
def _never_busy(self: Model, delivery: Delivery) -> bool:
    return False


@_named("a lane never passes its head", Model, "pass_lanes", breaks="a lane passes its head")
def _pass_none(self: Model, limit: int) -> int:
    return 0


@_named("a claim needs no lease", Model, "claim", breaks="a claim needs a lease")
def _claim_anyway(self: Model, dispatcher_row: int, *given: Any) -> Any:
    before = dict(self.dispatchers)
    self.dispatchers[dispatcher_row] = math.inf
    try:
        return _claim(self, dispatcher_row, *given)
    finally:
        self.dispatchers = before


@_named("caps are not counted", Model, "_in_flight", breaks="caps hold")
def _count_none(self: Model, ended: object, dispatcher_row: int) -> Any:
    return Counter[int](), Counter[int](), Counter[int]()


@_named("a lease that ended is renewed", Model, "heartbeat", breaks="only who holds the lease sends")
def _beat_anyway(self: Model, dispatcher_row: int, lease_s: float) -> bool:
    self.dispatchers[dispatcher_row] = self.now() + lease_s
    return True


@_named("orphans are never found", Model, "orphans", breaks="a crash heals")
def _no_orphans(self: Model, limit: int) -> list[Any]:
    return []


@_named("retries do not wait", Model, "make_due", breaks="retries wait for their time")
def _all_due(self: Model, limit: int) -> tuple[int, float | None]:
    put_off = [d for d in self.live.values() if d.due_at is not None]
    for delivery in put_off:
        delivery.due_at = None
    return len(put_off), None


@_named("state events are superseded", Model, "_progress", breaks="only progress is superseded")
def _any_kind(self: Model, job: Any) -> Iterator[Delivery]:
    return (d for d in self.live.values() if d.job is job and d.state not in (SENDING,))


@_named("progress outlives its job", Model, "_supersede", breaks="terminal last")
def _supersede_none(self: Model, by: Any, obsolete: Any) -> int:
    return 0


@_named("fan-out loses the end of a batch", Model, "fan_out", breaks="nothing lost")
def _fan_out_less(self: Model, limit: int) -> FannedOut:
    self.queue = self.queue[:2]
    return _fan_out(self, limit)


@_named("a release keeps the number", Model, "release", breaks="only what was not begun is released")
def _release_begun(self: Model, *given: Any) -> list[Delivery]:
    released = _release(self, *given)
    for delivery in released:
        delivery.attempts += 1
    return released


_stop, _finish, _once = Claiming.stop, Claiming.finish, Claiming.once
_make, _conclude, _outcome = Attempts.make, attempt.conclude, verdict._outcome
_run_fanning, _close, _reclaim = Fanning.run, Recorder.close, Reclaiming.reclaim
_claim_of_store = ModelStore.claim
_claim, _fan_out, _release = Model.claim, Model.fan_out, Model.release

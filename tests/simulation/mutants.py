"""Planted bugs, by name: each patches the engine, or a statement of the model, for as long as it is entered.

The simulation must find every one (`test_mutants.py`); what it cannot find it does not check.
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

from dispatcher.engine import attempt, claiming, duties, recorder
from dispatcher.engine.attempt import Attempts, Ended
from dispatcher.engine.claiming import Claiming
from dispatcher.engine.dispatcher import Running
from dispatcher.engine.duties import Duties
from dispatcher.engine.fanning import Fanning
from dispatcher.engine.lease import Lease
from dispatcher.engine.patience import patiently
from dispatcher.engine.recorder import Recorder
from dispatcher.errors import StoreUnavailable
from dispatcher.rules import verdict
from dispatcher.rules.verdict import Exchange, Outcome
from dispatcher.states import AttemptError
from dispatcher.store.hot import Claimed, ClaimedBatch, FannedOut, Finished, Recorded
from tests.simulation.model import Model
from tests.simulation.outside import ModelStore
from tests.simulation.rows import LIVE, SENDING, Delivery

Mutant = Callable[[], AbstractContextManager[object]]
MUTANTS: dict[str, Mutant] = {}
#: What bugs do beside what they should; nobody waits for it.
_BESIDE: deque[asyncio.Task[Any]] = deque(maxlen=100)


def _named(name: str, target: object, attribute: str) -> Callable[[Any], Any]:
    """Plants what it decorates in place of `target.attribute`."""

    def plant(bug: Any) -> Any:
        MUTANTS[name] = lambda: patch.object(target, attribute, bug)
        return bug

    return plant


# Leases.


@_named("the lease is not checked before the POST", Lease, "covers")
def _covers_all(self: Lease, dispatcher_row: int) -> bool:
    return True


@_named("a lease is taken for endless", Lease, "covers")
def _covers_for_ever(self: Lease, dispatcher_row: int) -> bool:
    return dispatcher_row == self._store.dispatcher_row


@_named("a new lease covers old claims", Lease, "covers")
def _covers_old(self: Lease, dispatcher_row: int) -> bool:
    return self._clock.monotonic() < self._ends_s


@_named("the lease is counted from the answer", Lease, "_beat")
async def _beat_late(self: Lease) -> bool:
    renewed = await self._store.heartbeat(self._lease_s)
    if renewed:
        self._ends_s = self._clock.monotonic() + self._lease_s
    return renewed


@_named("a lost lease goes unnoticed", Lease, "renew")
async def _renew_blindly(self: Lease) -> None:
    await patiently("lease", self._beat)


@_named("a stop gives the lease back first", Claiming, "stop")
def _stop_without_lease(self: Claiming) -> None:
    _stop(self)
    _BESIDE.append(asyncio.get_running_loop().create_task(self._store.retire()))


# Claims and attempts.


@_named("attempts are recorded before the POST", Attempts, "make")
async def _make_early(self: Attempts, claimed: Claimed) -> Ended:
    _BESIDE.append(asyncio.get_running_loop().create_task(_make(self, claimed)))
    return self._conclude(claimed, None, Exchange(200, None), self._clock.now(), 0.0)


@_named("an unknown outcome is taken for delivered", attempt, "judge")
def _judge_kindly(exchange: Exchange, **given: Any) -> verdict.Verdict:
    if exchange.error is AttemptError.INTERRUPTED:
        return verdict.Verdict(Outcome.DELIVERED, None, None, None, False, None)
    return verdict.judge(exchange, **given)


@_named("interruptions never count", verdict, "_outcome")
def _forgive(exchange: Exchange, failures: int, interruptions: int, policy: Any) -> Any:
    return _outcome(exchange, failures, 0, policy)


@contextmanager
def _counted_twice() -> Iterator[None]:
    def conclude(*given: Any) -> Finished:
        finished = _conclude(*given)
        return replace(finished, failures=finished.failures + (finished.outcome is Outcome.RETRY))

    with patch.object(attempt, "conclude", conclude), patch.object(duties, "conclude", conclude):
        yield


MUTANTS["a failure is counted twice"] = _counted_twice


@_named("cancelled attempts are not recorded", Claiming, "_attempt")
async def _attempt_silently(self: Claiming, claimed: Claimed) -> None:
    ended = await self._attempts.make(claimed)
    if ended.finished.error is not AttemptError.INTERRUPTED:
        self._ended(ended)


@_named("attempts in flight take no room", Claiming, "once")
async def _once_more(self: Claiming) -> float | None:
    unrecorded = self._unrecorded
    self._unrecorded = lambda: [*unrecorded(), *sorted(self.held)]
    try:
        return await _once(self)
    finally:
        self._unrecorded = unrecorded


@_named("a stop is heard late", Claiming, "stop")
def _stop_late(self: Claiming) -> None:
    asyncio.get_running_loop().call_later(1.0, _stop, self)


@_named("a stop has no grace", Claiming, "finish")
async def _finish_at_once(self: Claiming, grace_s: float) -> None:
    await _finish(self, 0.0)


@_named("a stop waits for every attempt", Claiming, "finish")
async def _finish_sometime(self: Claiming, grace_s: float) -> None:
    await _finish(self, math.inf)


@_named("the release is forgotten at a stop", claiming, "patiently")
async def _claim_and_keep(stage: str, work: Callable[[], Awaitable[Any]]) -> Any:
    return None if stage == "release" else await patiently(stage, work)


@_named("a retry does not wake the claim", Claiming, "retry_at")
def _sleep_on(self: Claiming, delay_s: float) -> None:
    return


@_named("retries are never made due", Claiming, "_make_due")
async def _make_nothing_due(self: Claiming) -> int:
    self._look_for_due_at = self._clock.monotonic() + self._poll_interval_s
    return 0


@_named("a lane that was freed wakes nobody", Claiming, "recorded")
def _stay_quiet(self: Claiming, *, freed: bool) -> None:
    return


@_named("room that was made wakes nobody", Claiming, "room_made")
def _make_no_room(self: Claiming, room: int) -> None:
    return


@_named("a contended claim is not tried again", ModelStore, "claim")
async def _claim_once(self: ModelStore, *given: Any) -> ClaimedBatch:
    return dataclasses.replace(await _claim_of_store(self, *given), contended=False)


@_named("a commit wakes nobody", Running, "wake")
def _hear_nothing(self: Running) -> None:
    return


# Fan-out.


@_named("fan-out is skipped after a restart", Fanning, "run")
async def _run_when_rung(self: Fanning) -> None:
    await self._pulse._rung.wait()
    await _run_fanning(self)


# Records.


@_named("a batch is dropped when the database is away", recorder, "patiently")
async def _record_once(stage: str, work: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await work()
    except StoreUnavailable:
        return Recorded(frozenset(), freed=False)


@_named("patience ends with the first failure", recorder, "patiently")
async def _try_once(stage: str, work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


@_named("a batch holds a delivery twice", Recorder, "_next_batch")
def _next_batch_blindly(self: Recorder) -> list[Ended]:
    batch, self._waiting = self._waiting, []
    return batch


@_named("a stop leaves outcomes behind", Recorder, "close")
def _close_early(self: Recorder) -> None:
    self._waiting.clear()
    _close(self)


# Reclaiming.


@_named("a process reclaims what it holds", Running, "_held")
def _hold_nothing(self: Running) -> set[tuple[int, int]]:
    return set()


@_named("a process reclaims what failed and is not on record", Recorder, "unrecorded")
def _unrecorded(self: Recorder) -> list[tuple[int, int]]:
    return self.making_room


MUTANTS["a process reclaims what failed and is not on record"] = lambda: patch.object(
    Recorder, "unrecorded", property(_unrecorded)
)


@_named("a process asks too early what it holds", Duties, "reclaim")
async def _reclaim_early(self: Duties) -> None:
    asked, held = self._held, self._held()
    self._held = lambda: held
    try:
        await _reclaim(self)
    finally:
        self._held = asked


@_named("reclaimed at the start only", Duties, "reclaim")
async def _reclaim_once(self: Duties) -> None:
    if self._retention_cursor == 0:
        self._retention_cursor = -1
        await _reclaim(self)


# The statements.


@_named("the store's fence is forgotten", Model, "holds")
def _hold_any(self: Model, delivery_row: int, attempt: int, dispatcher_row: int) -> bool:
    return delivery_row in self.live and self.live[delivery_row].state is SENDING


@_named("a lane has no order", Model, "waits")
def _wait_for_none(self: Model, delivery: Delivery) -> bool:
    return False


@_named("a lane goes backwards", Model, "head")
def _tail(self: Model, lane: int, endpoint: Any) -> Delivery | None:
    there = [d for d in self.by_lane[lane, endpoint.row] if d.state in LIVE and not d.late]
    return max(there, key=lambda d: d.sequence or 0, default=None)


@_named("a lane is claimed beside its attempt in flight", Model, "_busy")
def _never_busy(self: Model, delivery: Delivery) -> bool:
    return False


@_named("a lane never passes its head", Model, "pass_lanes")
def _pass_none(self: Model, limit: int) -> int:
    return 0


@_named("a claim needs no lease", Model, "claim")
def _claim_anyway(self: Model, dispatcher_row: int, *given: Any) -> Any:
    before = dict(self.dispatchers)
    self.dispatchers[dispatcher_row] = math.inf
    try:
        return _claim(self, dispatcher_row, *given)
    finally:
        self.dispatchers = before


@_named("caps are not counted", Model, "_in_flight")
def _count_none(self: Model, ended: object) -> Any:
    return Counter[int](), Counter[int]()


@_named("a lease that ended is renewed", Model, "heartbeat")
def _beat_anyway(self: Model, dispatcher_row: int, lease_s: float) -> bool:
    self.dispatchers[dispatcher_row] = self.now() + lease_s
    return True


@_named("orphans are never found", Model, "orphans")
def _no_orphans(self: Model, limit: int) -> list[Any]:
    return []


@_named("retries do not wait", Model, "make_due")
def _all_due(self: Model, limit: int) -> tuple[int, float | None]:
    put_off = [d for d in self.live.values() if d.due_at is not None]
    for delivery in put_off:
        delivery.due_at = None
    return len(put_off), None


@_named("state events are superseded", Model, "_progress")
def _any_kind(self: Model, job: Any) -> Iterator[Delivery]:
    return (d for d in self.live.values() if d.job is job and d.state not in (SENDING,))


@_named("progress outlives its job", Model, "_supersede")
def _supersede_none(self: Model, by: Any, obsolete: Any) -> int:
    return 0


@_named("fan-out loses the end of a batch", Model, "fan_out")
def _fan_out_less(self: Model, limit: int) -> FannedOut:
    self.queue = self.queue[:2]
    return _fan_out(self, limit)


@_named("a release keeps the number", Model, "release")
def _release_begun(self: Model, *given: Any) -> list[Delivery]:
    released = _release(self, *given)
    for delivery in released:
        delivery.attempts += 1
    return released


_stop, _finish, _once = Claiming.stop, Claiming.finish, Claiming.once
_make, _conclude, _outcome = Attempts.make, attempt.conclude, verdict._outcome
_run_fanning, _close, _reclaim = Fanning.run, Recorder.close, Duties.reclaim
_claim_of_store = ModelStore.claim
_claim, _fan_out, _release = Model.claim, Model.fan_out, Model.release

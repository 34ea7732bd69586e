"""What a process meets: the database, receivers and policies, each await of which may fail, hang or come too late."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from yarl import URL

from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.errors import StoreUnavailable
from dispatcher.rules.retry import RetryPolicy
from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError, EventKind
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.endpoint_policies import EndpointPolicy
from dispatcher.store.hot import FannedOut, Finished, Orphan, Recorded
from dispatcher.store.ingest import STRAIGHT_BEHIND, Group, Ingested, Straight, in_order
from dispatcher.transport.client import Request
from tests.simulation.model import Model
from tests.simulation.rows import Endpoint, moment
from tests.simulation.weather import TIMEOUT_S, Plan

if TYPE_CHECKING:
    from tests.simulation.process import Process

T = TypeVar("T")
KEY = b"k" * 32


class Call:
    """A statement under way: it takes effect though nobody waits for it any more, or does not."""

    def __init__(self, process: "Process", name: str, effect: Callable[[], Any], plan: Plan) -> None:
        self._process = process
        self._name = name
        self._effect = effect
        self._plan = plan
        self._dropped = False
        self._happened = False
        self._result: Any = None
        self.future: asyncio.Future[Any] = process.loop.create_future()
        if plan.effect_s is not None:
            process.world.after(plan.effect_s, self._happen)
        process.world.after(plan.answer_s, self._answer)

    def drop(self) -> None:
        """Who asked is gone: perhaps the database noticed in time."""
        if not self._happened:
            self._dropped = self._process.world.rng.random() < 0.5

    def _happen(self) -> None:
        if not self._dropped:
            self._happened = True
            self._result = self._effect()
            self._process.world.note(self._process.name, self._name, self._result)

    def _answer(self) -> None:
        self._process.calls.pop(self, None)
        self._process.loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        if self.future.done():
            return
        if self._plan.answered:
            self.future.set_result(self._result)
        else:
            self._process.world.note(self._process.name, "unavailable", self._name)
            self.future.set_exception(StoreUnavailable(f"{self._name} was not answered"))


async def ask(process: "Process", name: str, effect: Callable[[], T]) -> T:
    """Has the database do something. Raises `StoreUnavailable`, also when it was done."""
    plan = process.weather.statement(process.name, name, process.world.time)
    if plan.troubling:
        process.troubled_at = process.world.time + plan.answer_s
    call = Call(process, name, effect, plan)
    process.calls[call] = None
    task = asyncio.current_task()
    process.asking[task] = None
    try:
        result: T = await call.future
        return result
    except asyncio.CancelledError:
        call.drop()
        raise
    finally:
        process.asking.pop(task, None)


class ModelStore:
    """`HotStore` on the model, for one process."""

    def __init__(self, process: "Process", model: Model) -> None:
        self._process = process
        self._model = model
        self._ledger = process.ledger
        self._row = 0

    @property
    def dispatcher_row(self) -> int:
        return self._row

    async def enrol(self, name: str, lease_s: float) -> None:
        self._row = await ask(self._process, "enrol", lambda: self._model.enrol(lease_s))

    async def heartbeat(self, lease_s: float) -> bool:
        row = self._row
        return await ask(self._process, "heartbeat", lambda: self._model.heartbeat(row, lease_s))

    async def retire(self) -> None:
        def effect() -> None:
            self._ledger.retired(self._process, self._row)
            self._model.retire(self._row)

        await ask(self._process, "retire", effect)

    async def fan_out(self, limit: int, straight: Straight | None = None) -> FannedOut:
        row, process = self._row, self._process

        def effect() -> FannedOut:
            fanned = self._model.fan_out(limit)
            if straight is None or not fanned.deliveries or process.weather.rng.random() < 0.1:
                return fanned
            return self._claimed_too(row, fanned, straight)

        done = await ask(process, "fan_out", effect)
        self._ledger.handed(done.claimed.deliveries if done.claimed is not None else ())
        return done

    def _claimed_too(self, row: int, fanned: FannedOut, straight: Straight) -> FannedOut:
        batch = self._model.claim(row, straight.most, straight.ended, self._process.weather.locked())
        self._ledger.claimed(self._process, batch.deliveries, straight.ended)
        return replace(fanned, claimed=batch)

    async def fan_out_one(self) -> FannedOut:
        return await self.fan_out(1)

    async def claim(self, limit: int, ended: Sequence[tuple[int, int]] = ()) -> ClaimedBatch:
        row, over = self._row, tuple(ended)

        def effect() -> ClaimedBatch:
            batch = self._model.claim(row, limit, over, self._process.weather.locked())
            self._ledger.claimed(self._process, batch.deliveries, over)
            return batch

        batch = await ask(self._process, "claim", effect)
        self._ledger.handed(batch.deliveries)
        return batch

    async def record(self, batch: Sequence[Finished]) -> Recorded:
        def effect() -> Recorded:
            self._ledger.recording(self._process, batch)
            recorded = self._model.record(batch)
            self._ledger.recorded()
            return recorded

        return await ask(self._process, "record", effect)

    async def release(self, batch: Sequence[Claimed]) -> None:
        row = self._row
        await ask(self._process, "release", lambda: self._ledger.released(self._model.release(row, batch)))

    async def ingest(self, groups: Sequence[Group], straight: Straight | None) -> Ingested:
        row, process = self._row, self._process

        def effect() -> Ingested:
            events = in_order(groups)
            made = [self._model.commit(e.type, e.kind or EventKind.STATE, e.job_id, e.data, e.id) for e in events]
            for event in made:
                process.world.note(process.name, "ingest", f"{event.id} {event.kind} {event.job_id}")
            new = [event.row for event in made]
            answers = [{event.key: moment(self._model.now()) for event in group} for group in groups]
            if straight is None or process.weather.rng.random() < 0.1:
                # Something is in its way.
                return Ingested(answers, new)
            fanned = self._model.fan_out(len(events) + STRAIGHT_BEHIND)
            return Ingested(answers, new, self._claimed_too(row, fanned, straight))

        done = await ask(process, "ingest", effect)
        self._ledger.handed(done.claimed.deliveries if done.claimed is not None else ())
        return done

    async def make_due(self, limit: int) -> tuple[int, float | None]:
        def effect() -> tuple[int, float | None]:
            put_off = {d.row: d.due_at for d in self._model.live.values() if d.due_at is not None}
            made = self._model.make_due(limit)
            for row, due_at in put_off.items():
                if self._model.deliveries[row].due_at is None:
                    self._ledger.made_due(row, due_at)
            return made

        return await ask(self._process, "make_due", effect)

    async def pass_lanes(self, limit: int) -> int:
        return await ask(self._process, "pass_lanes", lambda: self._model.pass_lanes(limit))

    async def orphans(self, limit: int) -> Sequence[Orphan]:
        return await ask(self._process, "orphans", lambda: self._model.orphans(limit))

    async def claimed(self) -> Sequence[Orphan]:
        row = self._row
        return await ask(self._process, "claimed", lambda: self._model.claimed(row))

    async def busy(self, seconds: float) -> None:
        """Nothing to tell: producers of the model always notify."""

    async def watch(self, queued: Callable[[], None], wake: Callable[[], None]) -> None:
        # On one database the watch knows what it is about.
        self._process.wake = queued if self._process.weather.rng.random() < 0.5 else wake
        await self._process.loop.create_future()

    async def close(self) -> None:
        """Nothing to close."""


class ModelClient:
    """`HttpClient` to the model's receivers."""

    def __init__(self, process: "Process") -> None:
        self._process = process

    async def post(self, request: Request, now: object) -> Exchange:
        """Answers as the weather is; a POST that was begun is on the wire whatever becomes of who sent it."""
        process = self._process
        if asyncio.current_task() in process.asking:
            process.ledger.fail("no statement during a POST", request.headers["webhook-id"])
        attempt = process.ledger.posting(process, request)
        if attempt is None:
            raise OSError("nobody asked for this")
        event_id, endpoint_row = attempt.delivery.event.id, attempt.delivery.endpoint.row
        seconds, exchange = process.weather.answer(event_id, endpoint_row)
        if seconds > request.timeout_s:
            seconds, exchange = request.timeout_s, Exchange(None, AttemptError.TIMEOUT)
        process.world.note(process.name, "POST", attempt)
        if event_id in process.weather.poison:
            process.world.after(0.01, lambda: process.crash() if event_id in process.weather.poison else None)
        known: Exchange | None = None
        try:
            await asyncio.sleep(seconds)
            known = exchange or Exchange(None, AttemptError.INTERNAL)
            if exchange is None:
                raise RuntimeError("the client broke")
            return exchange
        except asyncio.CancelledError:
            if process.in_grace:
                process.ledger.fail("attempts have their grace", attempt)
            raise
        finally:
            if process.up:
                process.world.note(process.name, "answer", f"{attempt}: {known and (known.error or known.status)}")
                process.ledger.posted(attempt, known)

    async def close(self) -> None:
        """Nothing to close."""


class ModelBook(EndpointBook):
    """The engine's book of policies, read from the model."""

    def __init__(self, process: "Process", model: Model) -> None:
        super().__init__(process.deployment)
        self._process = process
        self._model = model

    async def _load(self, endpoint_rows: Collection[int]) -> Mapping[int, EndpointPolicy | Exception]:
        endpoints, schedule = self._model.endpoints, self._process.ledger.schedule
        return await ask(
            self._process, "policy", lambda: {row: policy_of(endpoints[row], schedule) for row in endpoint_rows}
        )


def policy_of(endpoint: Endpoint, schedule: tuple[float, ...]) -> EndpointPolicy:
    """The endpoint's policy as it is now."""
    return EndpointPolicy(
        endpoint_row=endpoint.row,
        endpoint_id=f"ep_{endpoint.row}",
        tenant="default",
        version=endpoint.version,
        profile="standard",
        url=URL(f"http://receiver/{endpoint.row}"),
        keys=(KEY,),
        legacy_key=KEY,
        signature_header=None,
        signature_prefix="",
        headers={},
        retry=RetryPolicy(schedule, 0.0),
        timeout_s=TIMEOUT_S,
        hold_s=endpoint.hold_s,
        good_until=None,
    )

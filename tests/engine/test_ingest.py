"""The committer of a process: who publishes at once shares a transaction, and what it stores may go straight out."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from dispatcher.engine import claiming, fanning
from dispatcher.engine.claiming import Claiming
from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.engine.ingest import ByTheQueue, Ingest
from dispatcher.engine.pulse import Pulse
from dispatcher.engine.straight import StraightWay
from dispatcher.errors import IdempotencyConflict, StoreUnavailable
from dispatcher.outbox.events import new_event
from dispatcher.rules.new_events import NewEvent
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.hot import FannedOut, HotStore
from dispatcher.store.ingest import Group, Ingested, Straight
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost
from tests.receiver import Received, Receiver


def event(data: str = "{}", type: str = "job.step", **given: Any) -> NewEvent:
    return new_event(type, data, max_payload=10_000, **given)


class Watched:
    """A store whose transactions are counted, held up, or not answered."""

    def __init__(self, store: HotStore) -> None:
        self._store = store
        self.sizes: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.unanswered = False

    async def ingest(self, groups: Sequence[Group], straight: Straight | None) -> Ingested:
        self.sizes.append(len(groups))
        self.begun.set()
        await self.gate.wait()
        done = await self._store.ingest(groups, straight)
        if self.unanswered:
            raise StoreUnavailable("the answer was lost")
        return done


@pytest.fixture
async def watched(outpost: Outpost) -> AsyncIterator[Watched]:
    async with outpost.store() as store:
        yield Watched(store)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def ingest(watched: Watched, told: list[str]) -> Ingest:
    return Ingest(watched, ByTheQueue(lambda: told.append("look")))  # type: ignore[arg-type] # as much of one as is used


async def test_who_publishes_while_it_commits_shares_the_next_transaction(
    ingest: Ingest, watched: Watched, outpost: Outpost, told: list[str]
) -> None:
    watched.gate.clear()
    first = asyncio.ensure_future(ingest.publish([event(id="first")]))
    await watched.begun.wait()
    others = [asyncio.ensure_future(ingest.publish([event(id=f"e{number}")])) for number in range(40)]
    await asyncio.sleep(0)
    watched.gate.set()
    answers = await asyncio.gather(first, *others)
    assert watched.sizes == [1, 40]
    assert [row.id for row in await outpost.rows("events")] == ["first", *(f"e{number}" for number in range(40))]
    assert [next(iter(answer)) for answer in answers[1:]] == [("default", f"e{number}") for number in range(40)]
    assert told == ["look", "look"]


async def test_a_conflict_is_told_to_its_publisher_alone(ingest: Ingest, outpost: Outpost) -> None:
    given = [event("1", id="x"), event("2", id="x"), event("1", id="x"), event("3")]
    answers = await asyncio.gather(*(ingest.publish([one]) for one in given), return_exceptions=True)
    assert [isinstance(answer, IdempotencyConflict) for answer in answers] == [False, True, False, False]
    assert [row.data for row in await outpost.rows("events")] == ["1", "3"]


async def test_who_gives_up_before_its_transaction_has_published_nothing(
    ingest: Ingest, watched: Watched, outpost: Outpost
) -> None:
    watched.gate.clear()
    begun = asyncio.ensure_future(ingest.publish([event(id="begun")]))
    await watched.begun.wait()
    gone, staying = (asyncio.ensure_future(ingest.publish([event(id=name)])) for name in ("gone", "staying"))
    await asyncio.sleep(0)
    begun.cancel()
    gone.cancel()
    watched.gate.set()
    await staying
    assert [row.id for row in await outpost.rows("events")] == ["begun", "staying"]


async def test_a_lost_answer_is_told_to_all_that_were_in_it_and_a_repeat_is_no_second_event(
    ingest: Ingest, watched: Watched, outpost: Outpost
) -> None:
    watched.unanswered = True
    given = [event(str(number), id=f"e{number}") for number in range(5)]
    answers = await asyncio.gather(*(ingest.publish([one]) for one in given), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    watched.unanswered = False
    await asyncio.gather(*(ingest.publish([one]) for one in given))
    assert await outpost.count("events") == 5


async def test_nobody_waits_for_an_answer_in_vain_where_what_follows_goes_wrong(watched: Watched) -> None:
    def fails() -> None:
        raise RuntimeError("nobody looks")

    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(lambda _, context: heard.set())
    ingest = Ingest(watched, ByTheQueue(fails))  # type: ignore[arg-type] # as much of one as is used
    async with asyncio.timeout(PATIENCE_S):
        for name in ("a", "b"):
            assert ("default", name) in await ingest.publish([event(id=name)])
        # It is no secret.
        gc.collect()
        await heard.wait()


async def test_a_stop_waits_for_what_is_being_committed_and_no_longer_than_it_may(
    ingest: Ingest, watched: Watched, outpost: Outpost
) -> None:
    publishing = asyncio.ensure_future(ingest.publish([event(id="a")]))
    await watched.begun.wait()
    await ingest.finish(PATIENCE_S)
    assert publishing.done()
    assert await outpost.count("events") == 1
    watched.gate.clear()
    watched.begun.clear()
    held, waiting = (asyncio.ensure_future(ingest.publish([event()])) for _ in range(2))
    await watched.begun.wait()
    await ingest.finish(0.0)
    for answer in await asyncio.gather(held, waiting, return_exceptions=True):
        assert isinstance(answer, StoreUnavailable)


async def test_what_is_published_through_a_dispatcher_goes_straight_out(
    outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    stored: list[Ingested] = []
    committed = StraightWay.committed

    def noted(way: StraightWay, done: Ingested) -> None:
        stored.append(done)
        committed(way, done)

    monkeypatch.setattr(StraightWay, "committed", noted)
    async with outpost.dispatcher() as dispatcher, asyncio.timeout(PATIENCE_S):
        # Unless a loop looks at the database just then, as after a start.
        while not stored or stored[-1].claimed is None:
            await dispatcher.until_idle()
            await dispatcher.ingest.publish([event(job_id="job_1")])
        (claimed,) = stored[-1].claimed.deliveries
        assert claimed.attempt == 1
        requests = await receiver.wait_for(len(stored))
        assert claimed.event_id in [request.headers["webhook-id"] for request in requests]
        await dispatcher.until_idle()
    assert {(row.state, row.attempts) for row in await outpost.deliveries()} == {("delivered", 1)}


def lending(monkeypatch: pytest.MonkeyPatch) -> list[Straight | None]:
    """What publishers are lent from now on."""
    lent: list[Straight | None] = []
    lend = StraightWay.lend

    async def noted(way: StraightWay, events: int) -> Straight | None:
        lent.append(await lend(way, events))
        return lent[-1]

    monkeypatch.setattr(StraightWay, "lend", noted)
    return lent


async def publish_beside(
    begun: asyncio.Event, gate: asyncio.Event, dispatcher: Dispatcher, receiver: Receiver, *, waits: bool
) -> None:
    """Publishes an event while something is under way; it waits for that, or it does not, and arrives."""
    await begun.wait()
    publishing = asyncio.ensure_future(dispatcher.ingest.publish([event()]))
    if not waits:
        await publishing
    assert publishing.done() is not waits
    gate.set()
    await publishing
    await receiver.wait_for(1)
    await dispatcher.until_idle()


@pytest.mark.parametrize(("patience_s", "straight"), [(PATIENCE_S, True), (0.0, False)])
async def test_a_publisher_waits_for_a_short_fan_out_and_for_no_long_one(
    outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, patience_s: float, straight: bool
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    monkeypatch.setattr(fanning, "TURN_S", patience_s)
    lent = lending(monkeypatch)
    fan_out = fanning.Fanning.once
    begun, gate = asyncio.Event(), asyncio.Event()

    async def held(loop: fanning.Fanning) -> int:
        begun.set()
        await gate.wait()
        return await fan_out(loop)

    async with outpost.dispatcher(poll_interval=timedelta(hours=1)) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        monkeypatch.setattr(fanning.Fanning, "once", held)
        assert dispatcher._running is not None
        dispatcher._running._queued.ring()
        await publish_beside(begun, gate, dispatcher, receiver, waits=straight)
    assert [one is not None for one in lent] == [straight]


@pytest.mark.parametrize(
    ("patience_s", "follows", "straight"),
    [
        pytest.param(PATIENCE_S, False, True, id="a short one"),
        pytest.param(0.0, False, False, id="a long one"),
        pytest.param(PATIENCE_S, True, False, id="one that others follow"),
    ],
)
async def test_a_publisher_waits_for_a_short_claim_that_no_other_follows(
    outpost: Outpost,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    patience_s: float,
    follows: bool,
    straight: bool,
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    monkeypatch.setattr(claiming, "LENDING_S", patience_s)
    lent, claim = lending(monkeypatch), Claiming._claim
    begun, gate = asyncio.Event(), asyncio.Event()

    async def held(claiming: Claiming, limit: int, unrecorded: Sequence[tuple[int, int]]) -> ClaimedBatch:
        claiming._rushing = follows
        begun.set()
        await gate.wait()
        return await claim(claiming, limit, unrecorded)

    async with outpost.dispatcher(poll_interval=timedelta(hours=1)) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        monkeypatch.setattr(Claiming, "_claim", held)
        assert dispatcher._running is not None
        dispatcher._running._claimable.ring()
        await publish_beside(begun, gate, dispatcher, receiver, waits=straight)
    assert [one is not None for one in lent] == [straight]


async def test_order_holds_over_publishers_at_once_beside_a_producer_s_own(
    outpost: Outpost, receiver: Receiver
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher() as dispatcher:

        async def publish(job: int) -> None:
            for number in range(8):
                if number % 4 == 3:
                    await outpost.publish("job.step", job_id=f"job_{job}", data=str(number))
                    dispatcher.wake()
                else:
                    await dispatcher.ingest.publish([event(str(number), job_id=f"job_{job}")])

        await asyncio.gather(*(publish(job) for job in range(6)))
        await receiver.wait_for(48)
        await dispatcher.until_idle()
    arrived: dict[str, list[tuple[int, int]]] = {}
    for request in receiver.received():
        body = json.loads(request.body)
        arrived.setdefault(body["job_id"], []).append((body["sequence"], body["data"]))
    assert arrived == {f"job_{job}": [(n + 1, n) for n in range(8)] for job in range(6)}


async def test_no_more_go_straight_than_a_process_has_room_for(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    release = asyncio.Event()
    most = 0

    async def slow(_: Received) -> web.Response:
        nonlocal most
        most = max(most, len(receiver.received()))
        await release.wait()
        return web.Response()

    receiver.answers("/hook", slow)
    async with outpost.dispatcher(max_in_flight=3) as dispatcher:
        for _ in range(6):
            await dispatcher.ingest.publish([event()])
        await receiver.wait_for(3)
        assert [row.state for row in await outpost.deliveries()].count("sending") == 3
        release.set()
        await receiver.wait_for(6)
        await dispatcher.until_idle()
    assert [row.state for row in await outpost.deliveries()] == ["delivered"] * 6


async def test_a_process_that_dies_right_after_the_commit_loses_nothing(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.store(lease_s=5, name="dies") as dies:
        done = await dies.ingest([[event(id="a")]], Straight(10, ()))
        assert done.claimed is not None
        assert len(done.claimed.deliveries) == 1
    clock.advance(10)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.run_duties()
        await dispatcher.until_idle()
    (request,) = receiver.received()
    assert (request.headers["webhook-id"], request.headers["x-delivery-attempt"]) == ("a", "2")
    assert [(row.number, row.error) for row in await outpost.attempts()] == [(1, "interrupted"), (2, None)]


@pytest.mark.parametrize(("room", "events"), [(3, 8), (20, 20)])
async def test_what_a_process_has_no_room_for_another_one_sends_at_once(
    postgres_outpost: Outpost, receiver: Receiver, room: int, events: int
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(receiver.url("/hook"))
    release = asyncio.Event()

    async def slow(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/hook", slow)
    seldom = timedelta(hours=1)
    async with (
        outpost.dispatcher(poll_interval=seldom, max_in_flight=room) as small,
        outpost.dispatcher(poll_interval=seldom) as other,
    ):
        await other.until_idle()
        await small.until_idle()
        await small.ingest.publish([event() for _ in range(events)])
        try:
            await receiver.wait_for(events)
        finally:
            release.set()


class Claims:
    """Hears what `StraightWay` says of a claim."""

    def __init__(self) -> None:
        self.left: bool | None = None

    async def take_turn(self) -> bool:
        return True

    async def lend_between(self) -> Straight | None:
        return Straight(50, ())

    def end_turn(self) -> None:
        """Nobody else's follows."""

    def returned(self, batch: ClaimedBatch, *, left: bool) -> None:
        self.left = left

    def settle(self, result: FannedOut) -> None:
        """Nothing to tell."""


async def test_what_another_s_delivery_took_the_place_of_is_looked_for(outpost: Outpost, clock: FakeClock) -> None:
    paused = await outpost.endpoint("http://127.0.0.1:8000/paused", event_types=("a",))
    await outpost.endpoint("http://127.0.0.1:8000/full", event_types=("b",), max_in_flight=1)
    await outpost.change("endpoint_state", paused.row, paused_until=clock.now() + timedelta(seconds=5))
    claims = Claims()
    way = StraightWay(claims, claims, Pulse())  # type: ignore[arg-type] # as much of both as is used
    async with outpost.store() as store:
        for event_type, left in (("b", False), ("a", True)):
            way.committed(await store.ingest([[event(type=event_type)]], await way.lend(1)))
            assert claims.left is left
        clock.advance(5)
        done = await store.ingest([[event(type="b")]], await way.lend(1))
        assert done.fanned_out is not None
        assert done.claimed is not None
        assert ([one.event_type for one in done.claimed.deliveries], done.fanned_out.deliveries) == (["a"], 1)
        way.committed(done)
    assert claims.left

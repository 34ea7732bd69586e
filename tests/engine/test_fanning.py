"""The fan-out loop: what few events it takes out of the queue are claimed as they are fanned out."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from dispatcher.engine.claiming import STRAIGHT_EVENTS
from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.engine.fanning import IN_A_ROW
from dispatcher.errors import StoreUnavailable
from dispatcher.outbox.events import new_event
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.hot import FannedOut
from dispatcher.store.ingest import Straight
from tests.engine.inside import SELDOM, store_of
from tests.outpost import PATIENCE_S, Outpost
from tests.receiver import Receiver


async def test_a_producers_event_is_claimed_as_it_is_fanned_out(
    outpost: Outpost, receiver: Receiver, passes: list[FannedOut]
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        for number in range(1, 4):
            # The watch hears of it.
            await outpost.publish(job_id="job_1")
            await receiver.wait_for(number)
            await dispatcher.until_idle()
    assert [(result.deliveries, len((result.claimed or ClaimedBatch(())).deliveries)) for result in passes] == [
        (1, 1)
    ] * 3
    assert {(row.state, row.attempts) for row in await outpost.deliveries()} == {("delivered", 1)}


async def test_a_notification_of_events_has_nobody_claim_beside_the_fan_out(
    postgres_outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        # Heard by a subscription, which is a reason to look at everything.
        await outpost.publish()
        await receiver.wait_for(1)
        await dispatcher.until_idle()
        store, claims = store_of(dispatcher), 0
        claim = store.claim

        async def counted(limit: int, ended: Sequence[tuple[int, int]] = ()) -> ClaimedBatch:
            nonlocal claims
            claims += 1
            return await claim(limit, ended)

        monkeypatch.setattr(store, "claim", counted)
        await outpost.publish()
        await receiver.wait_for(2)
        await outpost.sees("SELECT FROM deliveries WHERE state = 'delivered' OFFSET 1")
    assert claims == 0


async def test_many_events_are_claimed_by_those_who_have_room(
    outpost: Outpost, receiver: Receiver, passes: list[FannedOut]
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish(*["job.step"] * 300)
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
    assert len(receiver.received()) == 300
    assert max(result.events for result in passes if result.claimed is not None) <= 20
    assert max(result.events for result in passes) > 100


async def test_many_events_of_several_tenants_are_no_few(
    outpost: Outpost, receiver: Receiver, passes: list[FannedOut]
) -> None:
    # Of each pass a tenant has its share: of three, eighteen events are taken where there may be twenty.
    for tenant in "abc":
        await outpost.endpoint(receiver.url("/hook"), tenant=tenant)
        await outpost.publish(*["job.step"] * 200, tenant=tenant)
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
    assert len(receiver.received()) == 600
    assert sum(result.claimed is not None for result in passes) <= 1


async def test_few_events_again_and_again_are_not_few(outpost: Outpost, monkeypatch: pytest.MonkeyPatch) -> None:
    # As of a tenant with many, whose share of a pass is small beside others who publish now and then.
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        store, straight_ways, left = store_of(dispatcher), [], 3 * IN_A_ROW

        async def eight(limit: int, straight: Straight | None = None) -> FannedOut:
            nonlocal left
            straight_ways.append(straight is not None)
            left -= 1
            return FannedOut(8 if left > 0 else 0, 0)

        monkeypatch.setattr(store, "fan_out", eight)
        await dispatcher.until_idle()
        assert sum(straight_ways[: 2 * IN_A_ROW]) <= IN_A_ROW
        assert not any(straight_ways[IN_A_ROW : 3 * IN_A_ROW])


async def test_an_event_that_cannot_be_fanned_out_leaves_others_their_way(
    outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        store = store_of(dispatcher)
        fan_out, fan_out_one, straight_ways, singly = store.fan_out, store.fan_out_one, [], 0

        async def fails_at_first(limit: int, straight: Straight | None = None) -> FannedOut:
            if not await outpost.count("fanout_queue"):
                return FannedOut(0, 0)
            straight_ways.append(straight is not None)
            if len(straight_ways) == 1:
                raise ValueError("an event that cannot be read")
            return await fan_out(limit, straight)

        async def one() -> FannedOut:
            nonlocal singly
            singly += 1
            return await fan_out_one()

        # Its next pass may take more than one that goes straight.
        await outpost.publish()
        await receiver.wait_for(1)
        await dispatcher.until_idle()
        monkeypatch.setattr(store, "fan_out", fails_at_first)
        monkeypatch.setattr(store, "fan_out_one", one)
        await outpost.publish(*["job.first"] * 2 * STRAIGHT_EVENTS)
        await receiver.wait_for(1 + 2 * STRAIGHT_EVENTS)
        await dispatcher.until_idle()
        await outpost.publish("job.second")
        await receiver.wait_for(2 + 2 * STRAIGHT_EVENTS)
        await dispatcher.until_idle()
    assert straight_ways[0]
    assert any(straight_ways[1:])
    # So many as one of them was among.
    assert singly == STRAIGHT_EVENTS


async def test_what_was_claimed_for_more_than_its_room_leaves_the_rest_to_the_claim_loop(
    outpost: Outpost, receiver: Receiver
) -> None:
    for number in range(4):
        await outpost.endpoint(receiver.url(f"/hook/{number}"))
    async with outpost.dispatcher(poll_interval=SELDOM, max_in_flight=5) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        await outpost.publish(*["job.step"] * 9)
        await receiver.wait_for(36)
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {"delivered"}


class Held:
    """Passes of a dispatcher's fan-out that have claimed something, and are not answered yet."""

    def __init__(self, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
        store = store_of(dispatcher)
        self._fan_out = store.fan_out
        self.claimed, self.answer = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(store, "fan_out", self._held)

    async def _held(self, limit: int, straight: Straight | None = None) -> FannedOut:
        done = await self._fan_out(limit, straight)
        if done.claimed is not None:
            self.claimed.set()
            await self.answer.wait()
        return done


async def test_publishers_that_do_not_go_straight_leave_a_pass_its_claim(
    outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        held = Held(dispatcher, monkeypatch)
        await outpost.publish()
        await held.claimed.wait()
        many = [new_event("job.step", "{}", max_payload=100) for _ in range(STRAIGHT_EVENTS + 1)]
        await dispatcher.ingest.publish(many)
        held.answer.set()
        await receiver.wait_for(len(many) + 1)
        await dispatcher.until_idle()
    assert {(row.state, row.attempts) for row in await outpost.deliveries()} == {("delivered", 1)}


@pytest.mark.parametrize("grace_s", [0, 5])
async def test_a_stop_gives_back_what_a_pass_was_claiming(
    outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, grace_s: int
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    dispatcher = outpost.dispatcher(poll_interval=SELDOM, shutdown_grace=timedelta(seconds=grace_s))
    await dispatcher.start()
    await dispatcher.until_idle()
    held = Held(dispatcher, monkeypatch)
    async with asyncio.timeout(PATIENCE_S):
        await outpost.publish()
        await held.claimed.wait()
        stopping = asyncio.create_task(dispatcher.stop())
        await asyncio.sleep(0)
        held.answer.set()
        await stopping
    row = await outpost.delivery()
    assert (row.state, row.attempts) == ("pending", 0)
    assert not await outpost.attempts()


async def test_a_pass_whose_answer_was_lost_has_what_it_claimed_taken_back(
    outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher(poll_interval=timedelta(milliseconds=50)) as dispatcher:
        async with asyncio.timeout(PATIENCE_S):
            await dispatcher.until_idle()
            store = store_of(dispatcher)
            fan_out = store.fan_out

            async def unanswered(limit: int, straight: Straight | None = None) -> FannedOut:
                done = await fan_out(limit, straight)
                if done.claimed is not None:
                    monkeypatch.setattr(store, "fan_out", fan_out)
                    raise StoreUnavailable("the answer was lost")
                return done

            monkeypatch.setattr(store, "fan_out", unanswered)
            await outpost.publish()
            await receiver.wait_for(1)
            await dispatcher.until_idle()
    assert (await outpost.delivery()).state == "delivered"
    assert {(row.number, row.error) for row in await outpost.attempts()} == {(1, "interrupted"), (2, None)}

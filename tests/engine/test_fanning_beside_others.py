"""The fan-out loop beside other processes: what one of them has fanned out and has no room for, another sends."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import insert, text

from dispatcher.engine import fanning
from dispatcher.rules.own_events import ENDPOINT_DISABLED
from dispatcher.states import Reason
from dispatcher.store import endpoint_status
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.hot import FannedOut
from dispatcher.store.ingest import Straight
from dispatcher.store.tables import QUIET
from tests.engine.inside import SELDOM, store_of
from tests.outpost import PATIENCE_S, Outpost
from tests.receiver import Received, Receiver
from tests.store.steps import verified


async def test_what_a_full_process_fans_out_another_sends(postgres_outpost: Outpost, receiver: Receiver) -> None:
    outpost, release = postgres_outpost, asyncio.Event()

    async def slow(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/slow", slow)
    await outpost.endpoint(receiver.url("/slow"), event_types=("slow",))
    await outpost.endpoint(receiver.url("/fast"), event_types=("fast",))
    async with (
        outpost.dispatcher(poll_interval=SELDOM, max_in_flight=3) as full,
        asyncio.timeout(PATIENCE_S),
    ):
        await full.until_idle()
        await outpost.publish("slow", "slow", "slow")
        await receiver.wait_for(3, "/slow")
        async with outpost.dispatcher(poll_interval=SELDOM) as other:
            # Heard by a subscription.
            await outpost.publish("fast")
            await receiver.wait_for(1, "/fast")
            await other.until_idle()
            fans_out, fans_out_later = store_of(full).fan_out, store_of(other).fan_out
            met, looks_again = asyncio.Event(), asyncio.Event()

            async def first(limit: int, straight: Straight | None = None) -> FannedOut:
                await looks_again.wait()
                return await fans_out(limit, straight)

            async def later(limit: int, straight: Straight | None = None) -> FannedOut:
                # The full one is at work, and has done it when this one looks again.
                if not met.is_set():
                    met.set()
                    return FannedOut(0, 0, contended=True)
                looks_again.set()
                await outpost.sees("SELECT FROM events HAVING count(*) = 5 AND NOT EXISTS (SELECT FROM fanout_queue)")
                return await fans_out_later(limit)

            store_of(full).fan_out = first  # type: ignore[method-assign]
            store_of(other).fan_out = later  # type: ignore[method-assign]
            await outpost.publish("fast")
            await receiver.wait_for(2, "/fast")
            release.set()


async def test_what_a_full_process_fans_out_another_sends_though_it_finds_something_itself(
    postgres_outpost: Outpost, receiver: Receiver
) -> None:
    outpost = postgres_outpost
    for path in ("first", "second"):
        await verified(outpost, receiver.url(f"/{path}"), event_types=(path,))
    async with outpost.store(name="full") as full, outpost.dispatcher(poll_interval=SELDOM) as other:
        async with asyncio.timeout(PATIENCE_S):
            # Heard by a subscription.
            await outpost.publish("first")
            await receiver.wait_for(1, "/first")
            await other.until_idle()
            store = store_of(other)
            fan_out, begun, go_on = store.fan_out, asyncio.Event(), asyncio.Event()

            async def held(limit: int, straight: Straight | None = None) -> FannedOut:
                begun.set()
                await go_on.wait()
                return await fan_out(limit, straight)

            store.fan_out = held  # type: ignore[method-assign]
            await outpost.publish("first")
            await begun.wait()
            # Of both it is told once. It finds the second one only.
            await full.fan_out(10)
            async with outpost.database.begin() as connection:
                await connection.execute(text(f"SET LOCAL {QUIET} = on"))
                await connection.execute(insert(outpost.tables.events).values(type="second", data="{}"))
            go_on.set()
            await receiver.wait_for(1, "/second")
            await receiver.wait_for(2, "/first")


async def test_what_is_held_back_has_nobody_claim_beside_each_event(
    postgres_outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost, claims = postgres_outpost, 0
    monkeypatch.setattr(fanning, "OTHERS_EVERY_S", 2 * PATIENCE_S)
    paused = await verified(outpost, receiver.url("/paused"), event_types=("paused",))
    await verified(outpost, receiver.url("/hook"), event_types=("comes",))
    await outpost.publish("paused")
    async with outpost.store(name="before") as before:
        await before.fan_out(10)
    await outpost.change("endpoints", paused, status="paused")
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await outpost.publish("comes")
        await receiver.wait_for(1)
        await dispatcher.until_idle()
        store = store_of(dispatcher)
        claim = store.claim

        async def noted(*given: Any) -> ClaimedBatch:
            nonlocal claims
            claims += 1
            return await claim(*given)

        monkeypatch.setattr(store, "claim", noted)
        for number in range(2, 8):
            await outpost.publish("comes")
            await receiver.wait_for(number)
    assert claims <= 2


async def test_what_is_told_of_and_passes_no_queue_is_claimed(postgres_outpost: Outpost, receiver: Receiver) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(receiver.url("/told"), event_types=(ENDPOINT_DISABLED, "job.step"))
    ending = await outpost.endpoint(receiver.url("/ending"))
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        # Heard by a subscription.
        await outpost.publish()
        await receiver.wait_for(1, "/told")
        await dispatcher.until_idle()
        # By a process that does not dispatch.
        async with outpost.database.begin() as connection:
            await endpoint_status.disable(connection, outpost.database, ending.row, Reason.FAILING)
        await receiver.wait_for(2, "/told")


async def test_what_another_process_kept_a_pass_from_claiming_is_claimed_once_it_may_be(
    postgres_outpost: Outpost, receiver: Receiver, passes: list[FannedOut]
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher(poll_interval=SELDOM) as dispatcher, asyncio.timeout(PATIENCE_S):
        await dispatcher.until_idle()
        async with outpost.database.engine.connect() as other:
            await other.execute(text("SELECT FROM destinations FOR UPDATE"))
            await outpost.publish()
            await outpost.sees("SELECT FROM deliveries")
            await other.rollback()
        await receiver.wait_for(1)
    (result,) = passes
    assert result.claimed is not None
    assert not result.claimed.deliveries

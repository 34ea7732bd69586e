"""The lease as its own process sees it: what was claimed under it is sent while it lives, and not after."""

import pytest

from dispatcher.engine.attempt import Attempts
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.lease import Lease
from dispatcher.errors import StoreUnavailable
from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError
from dispatcher.transport.client import HttpClient
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Receiver


async def test_a_lease_covers_what_was_claimed_under_it_until_it_ends(outpost: Outpost, clock: FakeClock) -> None:
    async with outpost.store() as store:
        lease = Lease(store, clock, 10.0)
        assert not lease.covers(store.dispatcher_row)
        await lease.take()
        clock.advance(9)
        assert lease.covers(store.dispatcher_row)
        await lease.renew()
        clock.advance(9)
        assert lease.covers(store.dispatcher_row)
        clock.advance(1)
        assert not lease.covers(store.dispatcher_row)


async def test_a_lease_that_was_taken_anew_does_not_cover_what_was_claimed_before(
    outpost: Outpost, clock: FakeClock
) -> None:
    async with outpost.store() as store:
        lease = Lease(store, clock, 10.0)
        await lease.take()
        row = store.dispatcher_row
        clock.advance(11)
        await lease.renew()
        assert store.dispatcher_row != row
        assert lease.covers(store.dispatcher_row)
        assert not lease.covers(row)


@pytest.mark.parametrize("lives", [True, False])
async def test_an_attempt_is_sent_only_while_its_lease_lives(outpost: Outpost, receiver: Receiver, lives: bool) -> None:
    await outpost.endpoint(receiver.url())
    await outpost.publish()
    client = HttpClient(outpost.deployment.egress, connect_timeout_s=5.0)
    attempts = Attempts(outpost.deployment, client, EndpointBook(outpost.deployment), covers=lambda row: lives)
    async with outpost.store() as store:
        await store.fan_out(1)
        [claimed] = (await store.claim(1)).deliveries
        finished = (await attempts.make(claimed)).finished
    await client.close()
    assert len(receiver.received()) == lives
    assert finished.outcome is (Outcome.DELIVERED if lives else Outcome.INTERRUPTED)
    assert finished.error is (None if lives else AttemptError.INTERRUPTED)


async def test_each_row_that_is_taken_is_told(outpost: Outpost, clock: FakeClock) -> None:
    told: list[int] = []

    async def tell(row: int) -> None:
        told.append(row)

    async with outpost.store() as store:
        lease = Lease(store, clock, 10.0, tell)
        await lease.take()
        first = store.dispatcher_row
        clock.advance(11)
        await lease.renew()
        assert told == [first, store.dispatcher_row]


async def test_a_row_whose_telling_fails_is_told_again_and_kept(outpost: Outpost, clock: FakeClock) -> None:
    told: list[int] = []

    async def tell(row: int) -> None:
        told.append(row)
        if len(told) == 2:
            raise StoreUnavailable("the database did not answer")

    async with outpost.store() as store:
        lease = Lease(store, clock, 10.0, tell)
        await lease.take()
        clock.advance(11)
        await lease.renew()
        # Taken anew once more, what was claimed under it meanwhile would be void.
        assert told[1:] == [store.dispatcher_row] * 2

"""One attempt of whatever is stored: it ends as an outcome, and nothing that it meets ends anybody else's."""

from collections.abc import AsyncIterator

import pytest

from dispatcher.engine.attempt import Attempts, Ended
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from dispatcher.transport.client import HttpClient
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Receiver


@pytest.fixture
async def client(outpost: Outpost) -> AsyncIterator[HttpClient]:
    opened = HttpClient(outpost.deployment.egress, connect_timeout_s=5.0)
    yield opened
    await opened.close()


@pytest.fixture
async def store(outpost: Outpost) -> AsyncIterator[HotStore]:
    async with outpost.store() as opened:
        yield opened


async def _claimed(outpost: Outpost, store: HotStore) -> Claimed:
    await outpost.publish()
    await store.fan_out(10)
    (claimed,) = (await store.claim(10)).deliveries
    return claimed


async def _make(outpost: Outpost, client: HttpClient, claimed: Claimed) -> Ended:
    book = EndpointBook(outpost.deployment)
    return await Attempts(outpost.deployment, client, book, covers=lambda _: True).make(claimed)


async def test_an_endpoint_that_was_deleted_since_the_claim_is_not_sent_to_and_the_delivery_is_cancelled(
    outpost: Outpost, store: HotStore, client: HttpClient, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    claimed = await _claimed(outpost, store)
    await outpost.change("endpoints", endpoint.row, deleted_at=clock.now())
    ended = await _make(outpost, client, claimed)
    await store.record([ended.finished])
    row = await outpost.delivery()
    assert (row.state, row.reason) == (DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)
    assert not receiver.received()


async def test_a_fault_of_ours_is_a_failed_attempt_that_is_tried_again(
    outpost: Outpost, store: HotStore, client: HttpClient, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    await outpost.endpoint(receiver.url("/hook"), retry_schedule=(60.0,))
    claimed = await _claimed(outpost, store)
    await client.close()
    ended = await _make(outpost, client, claimed)
    assert (ended.finished.outcome, ended.finished.error, ended.finished.delay_s) == (
        Outcome.RETRY,
        AttemptError.INTERNAL,
        60.0,
    )
    assert "delivery.failed_inside" in caplog.text


async def test_a_secret_that_cannot_be_decrypted_is_no_retry_but_a_dead_letter(
    outpost: Outpost, store: HotStore, client: HttpClient, receiver: Receiver
) -> None:
    await outpost.endpoint(receiver.url("/hook"), retry_schedule=(60.0,))
    claimed = await _claimed(outpost, store)
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.endpoint_secrets.update().values(sealed=b"\x01garbage"))
    ended = await _make(outpost, client, claimed)
    assert (ended.finished.outcome, ended.finished.reason, ended.disables) == (
        Outcome.DEAD,
        Reason.UNREADABLE,
        None,
    )
    assert not receiver.received()


async def test_a_profile_of_a_later_release_is_a_dead_letter_and_the_others_go_on(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    later = await outpost.endpoint(receiver.url("/later"), retry_schedule=())
    await outpost.endpoint(receiver.url("/now"))
    await outpost.change("endpoints", later.row, profile="smoke-signals")
    await outpost.publish("a", "b", job_id="job_1")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert [request.path for request in receiver.received()] == ["/now", "/now"]
    assert [(letter.endpoint_row, letter.reason) for letter in await outpost.letters()] == [
        (later.row, Reason.UNREADABLE)
    ] * 2


ODD_JSON = ("[" * 900 + "]" * 900, r'{"x": "\ud800"}', "1" + "0" * 5000, '{"a": 1, "a": 2}')


async def test_odd_json_that_the_database_takes_ends_with_a_reason_and_keeps_nothing_from_being_delivered(
    outpost: Outpost, receiver: Receiver
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    for data in ODD_JSON:
        await outpost.publish("odd", data=data)
    await outpost.publish("good")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    *odd, good = await outpost.deliveries()
    assert good.state == DeliveryState.DELIVERED
    ends = [(row.state, row.reason) for row in odd]
    assert set(ends) <= {(DeliveryState.DELIVERED, None), (DeliveryState.DEAD, Reason.UNREADABLE)}
    sent = [request for request in receiver.received() if b'"odd"' in request.body]
    assert len(sent) == ends.count((DeliveryState.DELIVERED, None))

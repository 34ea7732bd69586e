"""The book of policies: read once, read anew when the endpoint changed or a key stopped signing, and bounded."""

import asyncio

import pytest
from sqlalchemy import event

from dispatcher.engine import endpoint_book
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.service import secret_rotation
from dispatcher.service.models import RotateSecret
from dispatcher.store.keyring import Unreadable
from tests.clock import FakeClock
from tests.outpost import Outpost


async def test_a_policy_is_read_once_however_many_ask_for_it(sqlite_outpost: Outpost) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint()
    book = EndpointBook(outpost.deployment)
    statements = []

    def note(*args: object) -> None:
        statements.append(args[2])

    event.listen(outpost.database.engine.sync_engine, "before_cursor_execute", note)
    policies = await asyncio.gather(*(book.current(endpoint.row, 1) for _ in range(20)))
    assert len({id(policy) for policy in policies}) == 1
    assert len([statement for statement in statements if "endpoint_secrets" in str(statement)]) == 1
    assert book.known(endpoint.row, 1) is policies[0]


async def test_a_policy_that_was_read_at_an_older_version_is_not_known_at_a_newer(sqlite_outpost: Outpost) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint()
    book = EndpointBook(outpost.deployment)
    await book.current(endpoint.row, 1)
    await outpost.change("endpoints", endpoint.row, version=2, timeout_s=3.0)
    assert book.known(endpoint.row, 2) is None
    policy = await book.current(endpoint.row, 2)
    assert policy is not None
    assert (policy.version, policy.timeout_s) == (2, 3.0)
    # What was claimed before the change is sent as the endpoint is now.
    assert book.known(endpoint.row, 1) is policy


async def test_a_policy_is_read_anew_when_its_old_key_stops_signing(outpost: Outpost, clock: FakeClock) -> None:
    endpoint = await outpost.endpoint()
    await secret_rotation.rotate_secret(
        outpost.deployment, endpoint.id, RotateSecret.read({"overlap_s": 60}), tenant=None
    )
    book = EndpointBook(outpost.deployment)
    during = await book.current(endpoint.row, 1)
    assert during is not None
    assert len(during.keys) == 2
    clock.advance(59)
    assert book.known(endpoint.row, 1) is during
    clock.advance(1)
    assert book.known(endpoint.row, 1) is None
    after = await book.current(endpoint.row, 1)
    assert after is not None
    assert after.keys == during.keys[:1]


async def test_an_endpoint_that_is_gone_has_no_policy(sqlite_outpost: Outpost, clock: FakeClock) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint()
    book = EndpointBook(outpost.deployment)
    await book.current(endpoint.row, 1)
    await outpost.change("endpoints", endpoint.row, version=2, deleted_at=clock.now())
    assert await book.current(endpoint.row, 2) is None
    assert book.known(endpoint.row, 1) is None


async def test_the_policy_that_was_not_used_for_longest_is_forgotten_first(
    sqlite_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_book, "CAPACITY", 2)
    first, second, third = [(await sqlite_outpost.endpoint()).row for _ in range(3)]
    book = EndpointBook(sqlite_outpost.deployment)
    await book.current(first, 1)
    await book.current(second, 1)
    assert book.known(first, 1) is not None
    await book.current(third, 1)
    assert [book.known(row, 1) is not None for row in (first, second, third)] == [True, False, True]


async def test_policies_that_cannot_be_read_leave_nothing_behind(sqlite_outpost: Outpost) -> None:
    outpost = sqlite_outpost
    book = EndpointBook(outpost.deployment)
    rows = [(await outpost.endpoint()).row for _ in range(3)]
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.endpoint_secrets.update().values(sealed=b"\x01garbage"))
    for row in rows:
        with pytest.raises(Unreadable):
            await book.current(row, 1)
    assert not book._reading

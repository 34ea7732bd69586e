"""The book of policies: read once, read anew when the endpoint changed or a key stopped signing, and bounded."""

import asyncio
from typing import Any

import pytest
from rich.pretty import pretty_repr
from sqlalchemy import event, text

from dispatcher.engine import endpoint_book
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.service import secret_rotation
from dispatcher.service.models import RotateSecret
from dispatcher.store import endpoint_policies
from dispatcher.store.endpoint_policies import EndpointPolicy, load_policies
from dispatcher.store.keyring import KeyRing, Unreadable
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost


class Slowly:
    """Reads policies, and answers when it is told to."""

    def __init__(self) -> None:
        self.read, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, *given: Any) -> Any:
        found = await load_policies(*given)
        self.read.set()
        await self.go_on.wait()
        return found


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


async def test_what_signs_no_more_gives_way_to_what_is_read_whatever_its_version(
    sqlite_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint()
    await secret_rotation.rotate_secret(
        outpost.deployment, endpoint.id, RotateSecret.read({"overlap_s": 60}), tenant=None
    )
    book = EndpointBook(outpost.deployment)
    before = await book.current(endpoint.row, 1)
    assert before is not None
    # As where the database was restored from a backup meanwhile.
    await outpost.change("endpoints", endpoint.row, version=before.version - 1)
    clock.advance(61)
    after = await book.current(endpoint.row, 1)
    assert after is not None
    assert (after.version, len(after.keys)) == (before.version - 1, 1)
    assert book.known(endpoint.row, 1) is after


async def test_a_policy_shows_nothing_that_is_secret(sqlite_outpost: Outpost) -> None:
    endpoint = await sqlite_outpost.endpoint(
        "http://user:pa55word@127.0.0.1:8000/?token=t0ken", headers={"X-Key": "k3y"}
    )
    policy = await EndpointBook(sqlite_outpost.deployment).read(endpoint.row)
    assert policy is not None
    for shown in (repr(policy), str([policy]), pretty_repr(policy)):
        assert policy.endpoint_id in shown
        assert not any(secret in shown for secret in ("pa55word", "t0ken", "k3y", repr(policy.legacy_key)))


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


async def test_policies_that_are_asked_for_at_once_are_read_together(outpost: Outpost) -> None:
    book, statements = EndpointBook(outpost.deployment), []
    rows = [(await outpost.endpoint()).row for _ in range(30)]
    await outpost.change("endpoints", rows[0], retry_schedule='["soon"]')
    await outpost.change("endpoints", rows[1], deleted_at=outpost.clock.now())

    def note(*args: object) -> None:
        statements.append(str(args[2]))

    event.listen(outpost.database.engine.sync_engine, "before_cursor_execute", note)
    found = await asyncio.gather(*(book.current(row, 1) for row in rows), return_exceptions=True)
    event.remove(outpost.database.engine.sync_engine, "before_cursor_execute", note)
    assert isinstance(found[0], Unreadable)
    assert found[1] is None
    assert [one.endpoint_row for one in found[2:] if isinstance(one, EndpointPolicy)] == rows[2:]
    assert len([statement for statement in statements if "FROM endpoint" in statement]) == 2


async def test_a_row_that_the_driver_cannot_read_keeps_no_other_from_being_read(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    book = EndpointBook(outpost.deployment)
    rows = [(await outpost.endpoint()).row for _ in range(3)]
    async with outpost.database.begin() as connection:
        await connection.execute(
            text("UPDATE endpoint_secrets SET retires_at = '99999-01-01' WHERE endpoint_row = :row"), {"row": rows[1]}
        )
    found = await asyncio.gather(*(book.current(row, 1) for row in rows), return_exceptions=True)
    assert [type(one) for one in found] == [EndpointPolicy, Unreadable, EndpointPolicy]


async def test_a_policy_that_changed_while_it_was_read_is_read_again(
    outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = await outpost.endpoint()
    book, slowly = EndpointBook(outpost.deployment), Slowly()
    monkeypatch.setattr(endpoint_book, "load_policies", slowly)
    first = asyncio.ensure_future(book.current(endpoint.row, 1))
    await slowly.read.wait()
    await outpost.change("endpoints", endpoint.row, version=2)
    second = asyncio.ensure_future(book.current(endpoint.row, 2))
    # It waits for the reading that is under way.
    await asyncio.sleep(0)
    slowly.go_on.set()
    assert [policy and policy.version for policy in (await first, await second)] == [1, 2]
    assert not book._reading


async def test_what_was_read_earlier_and_comes_later_takes_no_newer_policys_place(
    outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = await outpost.endpoint()
    book, slowly = EndpointBook(outpost.deployment), Slowly()
    monkeypatch.setattr(endpoint_book, "load_policies", slowly)
    first = asyncio.ensure_future(book.read(endpoint.row))
    await slowly.read.wait()
    monkeypatch.setattr(endpoint_book, "load_policies", load_policies)
    await outpost.change("endpoints", endpoint.row, version=2)
    newer = await book.read(endpoint.row)
    slowly.go_on.set()
    # Nor is it sent by.
    assert await first is newer
    assert book.known(endpoint.row, 2) is newer


async def test_a_reading_that_nobody_waits_for_is_given_up(outpost: Outpost, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(await outpost.endpoint()).row for _ in range(2)]
    book, begun, given_up = EndpointBook(outpost.deployment), asyncio.Event(), asyncio.Event()

    async def never(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    with monkeypatch.context() as patched:
        patched.setattr(endpoint_book, "load_policies", never)
        asking = [asyncio.ensure_future(book.current(row, 1)) for row in rows]
        await begun.wait()
        asking[0].cancel()
        await asyncio.wait(asking[:1])
        assert not given_up.is_set()
        asking[1].cancel()
        await asyncio.wait(asking)
        await given_up.wait()
    policy = await book.current(rows[0], 1)
    assert policy is not None
    assert not book._reading


async def test_where_more_are_asked_for_than_are_read_at_once_each_is_read_once(
    sqlite_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_book, "BATCH", 2)
    read: list[int] = []

    async def noted(*given: Any) -> Any:
        read.extend(given[3])
        return await load_policies(*given)

    monkeypatch.setattr(endpoint_book, "load_policies", noted)
    rows = [(await sqlite_outpost.endpoint()).row for _ in range(5)]
    book = EndpointBook(sqlite_outpost.deployment)
    found = await asyncio.gather(*(book.current(row, 1) for row in rows * 2))
    assert [policy and policy.endpoint_row for policy in found] == rows * 2
    assert sorted(read) == sorted(rows)


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_who_asks_and_is_gone_before_anything_is_read_leaves_nothing_behind(
    sqlite_outpost: Outpost, turns: int
) -> None:
    endpoint = await sqlite_outpost.endpoint()
    book = EndpointBook(sqlite_outpost.deployment)
    asking = asyncio.ensure_future(book.current(endpoint.row, 1))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    async with asyncio.timeout(PATIENCE_S):
        policy = await book.current(endpoint.row, 1)
    assert policy is not None
    await asyncio.sleep(0)
    assert not book._reading


@pytest.mark.parametrize("error", [RecursionError, LookupError])
async def test_whatever_is_wrong_with_one_endpoint_is_no_others_fault(
    sqlite_outpost: Outpost, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    rows = [(await sqlite_outpost.endpoint()).row for _ in range(3)]
    read = endpoint_policies._credentials

    def fails_once(row: Any, keyring: KeyRing) -> Any:
        if row.row_id == rows[1]:
            raise error
        return read(row, keyring)

    monkeypatch.setattr(endpoint_policies, "_credentials", fails_once)
    book = EndpointBook(sqlite_outpost.deployment)
    found = await asyncio.gather(*(book.current(row, 1) for row in rows), return_exceptions=True)
    assert [type(one) for one in found] == [EndpointPolicy, error, EndpointPolicy]

"""Whose turn to be challenged it is: few at one host, no more than strangers' hosts get, and nobody behind them."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.ids import Kind, public_id, row_id
from dispatcher.service import endpoints, quotas
from dispatcher.service.models import CallbackCreate, Endpoint, EndpointCreate, TenantQuotaUpdate
from dispatcher.store import verification
from dispatcher.store.database import Database
from tests.clock import FakeClock
from tests.outpost import Outpost

#: More than anything here wants.
PLENTY = 1000.0


@pytest.fixture
async def demanding(database_url: str, clock: FakeClock) -> AsyncIterator[Outpost]:
    """A deployment that demands proof; the test runs on each database."""
    opened = Outpost(database_url, clock, verify_endpoints=True)
    yield opened
    await opened.close()


async def _registered(outpost: Outpost, url: str) -> Endpoint:
    made, _ = await endpoints.create(outpost.deployment, EndpointCreate(url=url), tenant="default")
    return made


async def test_one_destination_is_challenged_by_few_at_once_and_keeps_nobody_waiting(demanding: Outpost) -> None:
    for n in range(verification.AT_ONCE):
        await _registered(demanding, f"http://127.0.0.1:8000/{n}")
    late = await _registered(demanding, "http://127.0.0.1:8001/")
    async with demanding.database.begin() as connection:
        first = await verification.take_due(connection, demanding.database, PLENTY)
        again = await verification.take_due(connection, demanding.database, PLENTY)
    assert len(first.challenge) == verification.AT_ONE_DESTINATION + 1
    assert late.id in {public_id(Kind.ENDPOINT, row) for row in first.challenge}
    assert not set(first.challenge) & set(again.challenge)


async def test_challenges_come_no_faster_than_strangers_hosts_may_be_sent_to(
    demanding: Outpost, clock: FakeClock
) -> None:
    rate = 2.0
    made = [await _registered(demanding, f"http://127.0.0.1:8000/{n}") for n in range(8)]
    await _registered(demanding, "http://127.0.0.1:8001/")

    async def step() -> int:
        async with demanding.database.begin() as connection:
            due = await verification.take_due(connection, demanding.database, rate)
        there = {row_id(Kind.ENDPOINT, one.id) for one in made}
        return len(there & set(due.challenge))

    assert [await step() for _ in range(3)] == [2, 0, 0]
    clock.advance(0.5)
    assert [await step(), await step()] == [1, 0]
    clock.advance(3600)
    # They share it with who asks by hand.
    async with demanding.database.begin() as connection:
        [destination] = {row.destination_row for row in await demanding.rows("endpoints") if "8000" in row.url_shown}
        assert await verification.may_challenge(connection, demanding.database, destination, rate)
    assert [await step(), await step()] == [1, 0]


async def test_hosts_that_had_their_share_keep_no_other_waiting(demanding: Outpost, clock: FakeClock) -> None:
    for n in range(verification.AT_ONCE):
        await _registered(demanding, f"http://127.0.0.1:{8000 + n}/")
    clock.advance(0.001)
    late = await _registered(demanding, "http://127.0.0.1:9000/")
    async with demanding.database.begin() as connection:
        first = await verification.take_due(connection, demanding.database, 0.001)
        assert len(first.challenge) == verification.AT_ONCE
        # Before the late one's turn, again.
        rows = demanding.tables.endpoints
        early = update(rows).where(rows.c.row_id.in_(first.challenge))
        await connection.execute(early.values(challenge_due_at=clock.now() - timedelta(seconds=1)))
        again = await verification.take_due(connection, demanding.database, 0.001)
    assert [public_id(Kind.ENDPOINT, row) for row in again.challenge] == [late.id]


async def test_what_a_host_had_left_may_be_spent_meanwhile_and_who_gets_none_stays_due(
    postgres_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost, rate = postgres_outpost, 3.0
    await quotas.update(outpost.deployment, "default", TenantQuotaUpdate(verify_endpoints=True))
    for n in range(3):
        await _registered(outpost, f"http://127.0.0.1:8000/{n}")
    spend, faster = verification._spend, 2

    async def spend_second(
        connection: AsyncConnection, database: Database, wanted: Mapping[int, int], rate: float
    ) -> Counter[int]:
        async with database.begin() as other:
            assert await spend(other, database, dict.fromkeys(wanted, faster), rate) == dict.fromkeys(wanted, faster)
        return await spend(connection, database, wanted, rate)

    monkeypatch.setattr(verification, "_spend", spend_second)
    async with outpost.database.begin() as connection:
        taken = await verification.take_due(connection, outpost.database, rate)
    assert len(taken.challenge) == 1
    assert {row.row_id for row in await outpost.rows("endpoints") if row.challenges} == set(taken.challenge)
    due = [row for row in await outpost.rows("endpoints") if row.challenge_due_at <= outpost.clock.now()]
    assert len(due) == 2


async def test_a_clock_that_was_set_back_keeps_no_host_from_being_asked(demanding: Outpost, clock: FakeClock) -> None:
    await _registered(demanding, "http://127.0.0.1:8000/")
    [destination] = await demanding.rows("destinations")
    await demanding.change("destinations", destination.row_id, tokens=0.0, tokens_at=clock.now() + timedelta(days=1))
    async with demanding.database.begin() as connection:
        assert await verification.may_challenge(connection, demanding.database, destination.row_id, 1.0)


async def test_a_crowd_at_one_destination_does_not_hide_the_others(
    demanding: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "LOOKED_AT", 8)
    for n in range(20):
        await _registered(demanding, f"http://127.0.0.1:8000/{n}")
    late = await _registered(demanding, "http://127.0.0.1:8001/")
    steps = []
    for _ in range(4):
        async with demanding.database.begin() as connection:
            steps.append((await verification.take_due(connection, demanding.database, PLENTY)).challenge)
    assert all(len(step) <= verification.AT_ONE_DESTINATION + 1 for step in steps)
    assert late.id in {public_id(Kind.ENDPOINT, row) for step in steps for row in step}


async def test_a_callback_that_was_to_be_disabled_when_the_process_died_is_found_again(
    demanding: Outpost, clock: FakeClock
) -> None:
    await endpoints.create_callback(
        demanding.deployment, "job_1", CallbackCreate(url="http://127.0.0.1:8000/"), tenant="default"
    )
    async with demanding.database.begin() as connection:
        await connection.execute(update(demanding.tables.endpoints).values(challenges=verification.CHALLENGES))
    given_up = []
    for _ in range(2):
        async with demanding.database.begin() as connection:
            given_up.append((await verification.take_due(connection, demanding.database, PLENTY)).given_up)
        clock.advance(verification.LONGEST_S + 1)
    assert given_up[0] == given_up[1]
    assert len(given_up[0]) == 1

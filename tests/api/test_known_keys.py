"""Keys in several processes: once revoked or expired all refuse them; their use is noted; few looks are needed."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import event

from dispatcher.api.auth import Authenticator, Unauthenticated
from dispatcher.service import keys
from dispatcher.service.models import KeyCreate
from dispatcher.store.deployment import Deployment, open_deployment
from tests.api.client import ADMIN_KEY
from tests.api.conftest import settings_for
from tests.clock import FakeClock


@pytest.fixture
async def opened(database_url: str, clock: FakeClock) -> AsyncIterator[Deployment]:
    deployment = open_deployment(settings_for(database_url), clock)
    yield deployment
    await deployment.database.close()


@pytest.fixture
def statements(opened: Deployment) -> Iterator[list[str]]:
    """What the database is asked."""
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        asked.append(statement)

    engine = opened.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield asked
    event.remove(engine, "before_cursor_execute", note)


def nowhere() -> str:
    return "192.0.2.1"


async def test_once_a_revocation_is_answered_no_process_lets_the_key_in(database_url: str) -> None:
    # The clock is the real one: that the answer waits for as long as others believe is what is shown.
    here, there = (open_deployment(settings_for(database_url)) for _ in range(2))
    processes = [Authenticator(here, ADMIN_KEY), Authenticator(there, ADMIN_KEY)]
    made = await keys.create(here, KeyCreate(tenant="acme"))
    for process in processes:
        assert (await process.caller(f"Bearer {made.key}", nowhere)).key_id == made.id
    revoking = asyncio.create_task(keys.revoke(here, made.id))
    believing, late = list(processes), 0
    while not revoking.done():
        # Used all the time, so that it is read anew again and again, just before the revocation too.
        for process in list(believing):
            try:
                await process.caller(f"Bearer {made.key}", nowhere)
                late += 1
            except Unauthenticated:
                believing.remove(process)
        await asyncio.sleep(0)
    await revoking
    for process in processes:
        with pytest.raises(Unauthenticated):
            await process.caller(f"Bearer {made.key}", nowhere)
    for process, deployment in zip(processes, (here, there), strict=True):
        await process.close()
        await deployment.database.close()
    assert late > 0


async def test_a_key_that_expires_is_refused_at_its_time_though_it_was_just_read(
    opened: Deployment, clock: FakeClock
) -> None:
    process = Authenticator(opened, ADMIN_KEY)
    made = await keys.create(opened, KeyCreate(tenant="acme", expires_in_s=10.0))
    clock.advance(9.75)
    await process.caller(f"Bearer {made.key}", nowhere)
    clock.advance(0.125)
    await process.caller(f"Bearer {made.key}", nowhere)
    clock.advance(0.125)
    with pytest.raises(Unauthenticated, match="expired"):
        await process.caller(f"Bearer {made.key}", nowhere)
    await process.close()


async def test_a_key_in_use_is_looked_up_twice_a_second_and_its_use_noted_once_a_minute(
    opened: Deployment, clock: FakeClock, statements: list[str]
) -> None:
    process = Authenticator(opened, ADMIN_KEY)
    made = await keys.create(opened, KeyCreate(tenant="acme"))
    statements.clear()
    seconds = 100
    for _ in range(seconds * 8):
        await process.caller(f"Bearer {made.key}", nowhere)
        await process.close()
        clock.advance(1 / 8)
    looks = [one for one in statements if "digest" in one]
    notes = [one for one in statements if one.startswith("UPDATE")]
    assert len(looks) == 2 * seconds
    assert len(notes) == 2
    (listed,) = (await keys.list_page(opened)).data
    assert listed.last_used_at is not None


async def test_the_admin_key_asks_nobody(opened: Deployment, statements: list[str]) -> None:
    process = Authenticator(opened, ADMIN_KEY)
    assert await process.caller(f"Bearer {ADMIN_KEY}", nowhere) == keys.ADMIN
    await process.close()
    assert statements == []

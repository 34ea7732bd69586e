"""A server that cannot do what it is asked, for reasons of its own: no event is rejected and no outcome forgotten."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text

from dispatcher.errors import StoreUnavailable
from dispatcher.states import DeliveryState
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

#: Of the server: a full disk, no memory, no more locks to be had, a disk that cannot be read.
SHORTAGES = ("53100", "53200", "53400", "58030")
#: Of the schema, as in the middle of somebody's change to it: a column or a table that is gone.
OF_THE_SCHEMA = ("42703", "42P01")


@asynccontextmanager
async def _failing(outpost: Outpost, table: str, code: str) -> AsyncIterator[None]:
    """Meanwhile nothing can be inserted into the table."""
    async with outpost.database.begin() as connection:
        await connection.execute(
            text(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"
            )
        )
        await connection.execute(
            text(f"CREATE TRIGGER fail BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail()")
        )
    yield
    async with outpost.database.begin() as connection:
        await connection.execute(text("DROP FUNCTION fail CASCADE"))


@pytest.mark.parametrize("code", SHORTAGES)
async def test_a_server_that_lacks_something_is_waited_for_by_the_fan_out(postgres_outpost: Outpost, code: str) -> None:
    await postgres_outpost.endpoint()
    await postgres_outpost.publish()
    async with postgres_outpost.store() as store:
        async with _failing(postgres_outpost, "deliveries", code):
            with pytest.raises(StoreUnavailable):
                await store.fan_out(10)
            with pytest.raises(StoreUnavailable):
                await store.fan_out_one()
        assert (await store.fan_out(10)).deliveries == 1
    assert await postgres_outpost.count("rejected_events") == 0


@pytest.mark.parametrize("code", OF_THE_SCHEMA)
async def test_no_event_is_rejected_because_the_schema_is_not_what_it_was(postgres_outpost: Outpost, code: str) -> None:
    await postgres_outpost.endpoint()
    await postgres_outpost.publish()
    async with postgres_outpost.store() as store:
        async with _failing(postgres_outpost, "deliveries", code):
            with pytest.raises(asyncpg.SyntaxOrAccessError):
                await store.fan_out_one()
        assert (await store.fan_out(10)).deliveries == 1
    assert await postgres_outpost.count("rejected_events") == 0


@pytest.mark.parametrize("code", SHORTAGES)
async def test_a_server_that_lacks_something_is_waited_for_with_the_outcomes(
    postgres_outpost: Outpost, clock: FakeClock, code: str
) -> None:
    await postgres_outpost.endpoint()
    await postgres_outpost.publish()
    async with postgres_outpost.store() as store:
        await store.fan_out(10)
        (claimed,) = (await store.claim(10)).deliveries
        async with _failing(postgres_outpost, "attempts", code):
            with pytest.raises(StoreUnavailable):
                await store.record([finished(claimed, at=clock.now())])
        assert not (await store.record([finished(claimed, at=clock.now())])).lost
    assert (await postgres_outpost.delivery()).state == DeliveryState.DELIVERED

"""A kept connection to PostgreSQL: what the server ends when the process behind it stands still; what it is sent."""

import asyncio

import pytest

from dispatcher.store.postgres.connection import OUTAGES, Driver, Role, driver_of, integers, texts
from tests.outpost import Outpost


async def _kept(driver: Driver) -> Driver:
    return driver


async def test_the_server_ends_a_transaction_whose_client_is_not_idle_and_does_not_go_on(
    postgres_outpost: Outpost,
) -> None:
    role = Role(postgres_outpost.database, statement_timeout_s=0.2)
    driver = await role.run(_kept)
    if driver.get_server_version().major < 17:
        pytest.skip("PostgreSQL 17 and later can")
    try:
        # Not through the role, whose own patience is that of a process that lives.
        async with asyncio.timeout(20):
            with pytest.raises(OUTAGES):
                await _go_on_for_ever(driver)
    finally:
        await role.discard()


async def _go_on_for_ever(driver: Driver) -> None:
    await driver.execute("BEGIN")
    while True:
        await driver.execute("SELECT 1")


TEXTS = [
    "",
    "plain",
    "NULL",
    "null",
    None,
    '"',
    "\\",
    'a"b\\"c',
    "{x,y}",
    " led and trailed ",
    ",",
    "é \U0001f600",
    "a\nb\tc",
]


@pytest.mark.parametrize(
    "values",
    [[], [None], [None, None], *([text] for text in TEXTS), TEXTS, ["a", None], [None, "a"], ["a", "b"], ["a,b", "c"]],
)
async def test_texts_arrive_as_they_are(postgres_outpost: Outpost, values: list[str | None]) -> None:
    async with postgres_outpost.database.engine.connect() as connection:
        driver = await driver_of(connection)
        found = await driver.fetchval("SELECT $1::text::text[]", texts(values))
    assert found == (values if any(value is not None for value in values) else [])


@pytest.mark.parametrize("values", [[], [None], [1], [2**62, None, -1], [None, 0]])
async def test_integers_arrive_as_they_are(postgres_outpost: Outpost, values: list[int | None]) -> None:
    async with postgres_outpost.database.engine.connect() as connection:
        driver = await driver_of(connection)
        found = await driver.fetchval("SELECT $1::text::bigint[]", integers(values))
    assert found == (values if any(value is not None for value in values) else [])

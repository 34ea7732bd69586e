"""A kept connection to PostgreSQL: what the server itself ends when the process behind it stands still."""

import asyncio

import pytest

from dispatcher.store.postgres.connection import OUTAGES, Driver, Role
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

"""The fixtures' databases: migrated, one per test, of both kinds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import create_async_engine


async def _table_names(url: str) -> set[str]:
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    finally:
        await engine.dispose()


async def test_a_tests_database_is_migrated(database_url: str) -> None:
    assert {"events", "endpoints", "deliveries", "attempts", "dead_letters"} <= await _table_names(database_url)


async def test_an_empty_database_has_no_table(empty_database_url: str) -> None:
    assert await _table_names(empty_database_url) == set()


@pytest.mark.parametrize("run", [1, 2])
async def test_what_one_test_writes_no_other_sees(database_url: str, run: int) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE mine (run INTEGER)"))
    await engine.dispose()
    assert "mine" in await _table_names(database_url)


def test_a_test_runs_in_a_directory_of_its_own(tmp_path: Path) -> None:
    assert Path.cwd() == tmp_path


@given(st.integers())
def test_properties_can_be_tested_beside_these_fixtures(number: int) -> None:
    assert int(str(number)) == number

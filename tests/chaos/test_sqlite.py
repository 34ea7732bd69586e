"""A SQLite file without room, locked, or read without end, under load: nothing is lost, and it recovers by itself."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.audit import Audit
from tests.chaos.faults.sqlite import DiskFull, HeldByReader, Locked, NoRoomForDispatcher
from tests.chaos.siege import besiege
from tests.chaos.small_disk import MayNotMount, small_disk

SEED = int(os.environ.get("CHAOS_SEED") or int.from_bytes(os.urandom(4)))
#: Longer than the scene's lease.
LONG_S = 1.5


def check(found: Audit) -> None:
    assert found.broken == {}, f"CHAOS_SEED={SEED}\n{found.table()}"
    # An outcome that could not be recorded at once was kept until it could.
    assert found.duplicates == 0
    assert found.events


@pytest.fixture
def small_disk_url(sqlite_template: Path, tmp_path: Path) -> Iterator[str]:
    """A migrated database on a file system of its own with 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        with small_disk(disk):
            yield f"sqlite+aiosqlite:///{shutil.copy(sqlite_template, disk / 'dispatcher.db')}"
    except MayNotMount as error:
        pytest.skip(str(error))


async def test_a_dispatcher_without_room_keeps_its_outcomes_until_there_is_some(sqlite_url: str) -> None:
    check(await besiege(sqlite_url, NoRoomForDispatcher(), strikes=2, seed=SEED))


async def test_a_full_disk_refuses_producers_and_loses_nothing_that_was_committed(small_disk_url: str) -> None:
    check(await besiege(small_disk_url, DiskFull(), strikes=2, seed=SEED))


async def test_a_file_that_somebody_else_has_locked_is_waited_for(sqlite_url: str) -> None:
    check(await besiege(sqlite_url, Locked(LONG_S), strikes=1, seed=SEED))


@pytest.mark.timeout(180)  # some thousand deliveries, until the log of the file is larger than it ever is otherwise
async def test_a_reader_that_does_not_end_stops_nobody(sqlite_url: str) -> None:
    check(await besiege(sqlite_url, HeldByReader(), strikes=1, seed=SEED))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", [NoRoomForDispatcher(), Locked(), HeldByReader()], ids=lambda fault: fault.name)
async def test_it_recovers_again_and_again(sqlite_url: str, fault: NoRoomForDispatcher | Locked | HeldByReader) -> None:
    found = await besiege(sqlite_url, fault, strikes=30, seed=SEED)
    print(f"\n{fault.name}, CHAOS_SEED={SEED}\n{found.table()}")
    check(found)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_a_disk_that_is_full_again_and_again_loses_nothing(small_disk_url: str) -> None:
    found = await besiege(small_disk_url, DiskFull(), strikes=30, seed=SEED)
    print(f"\n{DiskFull.name}, CHAOS_SEED={SEED}\n{found.table()}")
    check(found)

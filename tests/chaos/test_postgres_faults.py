"""PostgreSQL stopped, cut off, black-holed, its sessions ended, its connections taken, under load: nothing is lost,
nothing comes in the wrong order, every attempt is on record, and work goes on by itself."""

import os

import pytest

from dispatcher.clock import SystemClock
from dispatcher.store import migrate
from tests.chaos.audit import Audit
from tests.chaos.faults import Fault
from tests.chaos.faults import postgres as faults
from tests.chaos.siege import besiege
from tests.outpost import Outpost
from tests.postgres_server import OwnPostgres

#: Each run its own; printed where a promise was broken.
SEED = int(os.environ.get("CHAOS_SEED") or int.from_bytes(os.urandom(4)))


def check(found: Audit) -> None:
    assert found.broken == {}, f"CHAOS_SEED={SEED}\n{found.table()}"
    assert found.duplicates <= found.in_flight
    assert found.events


#: Under the load of other tests a deployment takes its time to come back.
pytestmark = pytest.mark.timeout(180)


def forms(*short: Fault, long: tuple[Fault, ...]) -> pytest.MarkDecorator:
    """Faults that the suite inflicts, and others that only the campaign does."""
    return pytest.mark.parametrize(
        "fault",
        [
            *(pytest.param(fault, id=fault.name) for fault in short),
            *(pytest.param(fault, id=fault.name, marks=pytest.mark.campaign) for fault in long),
        ],
    )


@forms(
    faults.SessionsEnded(),
    faults.BlackHoled(),
    long=(faults.Cut(), faults.CutOff(), faults.Slow(), faults.Partitioned()),
)
async def test_a_disturbed_connection_loses_nothing(postgres_url: str, fault: Fault) -> None:
    check(await besiege(postgres_url, fault, strikes=1, seed=SEED, between=(40, 100)))


@forms(faults.Stopped(), long=(faults.Restarted(), faults.ConnectionsUsedUp()))
async def test_a_disturbed_server_loses_nothing(stoppable_postgres: OwnPostgres, fault: Fault) -> None:
    url = stoppable_postgres.url.replace("postgresql://", "postgresql+asyncpg://")
    outpost = Outpost(url, SystemClock())
    await migrate.upgrade(outpost.database)
    await outpost.close()
    check(await besiege(url, fault, strikes=1, seed=SEED, between=(40, 100)))

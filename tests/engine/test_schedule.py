"""The schedule of the duties: each once per deployment, none in another's way, whatever the wall clock does."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from functools import partial

import pytest
from sqlalchemy import literal

from dispatcher.engine.schedule import OFTEN_S, Duty, Schedule, scheduler_of
from dispatcher.errors import StoreUnavailable
from dispatcher.store import duty_rows
from dispatcher.store.columns import UtcTime
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost


async def test_only_one_of_those_who_want_a_duty_gets_it(outpost: Outpost, clock: FakeClock) -> None:
    database = outpost.database
    async with database.begin() as connection:
        await duty_rows.ensure(connection, database, ["sweep"])
        await duty_rows.ensure(connection, database, ["sweep"])

    async def take() -> list[str]:
        async with database.begin() as connection:
            return await duty_rows.take(connection, database, {"sweep": 60.0})

    assert sorted(await asyncio.gather(*(take() for _ in range(5)))) == [[], [], [], [], ["sweep"]]
    clock.advance(59)
    async with database.read() as connection:
        assert not await duty_rows.Look(database, {}).needed(connection, {"sweep": 60.0})
    assert not await take()
    clock.advance(1)
    assert await take()


async def test_a_duty_is_needed_while_its_condition_holds_and_only_when_its_time_has_come(
    outpost: Outpost, clock: FakeClock
) -> None:
    database, every_s = outpost.database, {"early": 1.0, "late": 1.0, "always": 1.0}
    begins_at = clock.now() + timedelta(seconds=5)
    look = duty_rows.Look(
        database,
        {
            "early": lambda _, now: now < literal(begins_at, UtcTime()),
            "late": lambda _, now: now >= literal(begins_at, UtcTime()),
        },
    )

    async def needed() -> list[str]:
        async with database.read() as connection:
            return sorted(await look.needed(connection, every_s))

    async with database.begin() as connection:
        await duty_rows.ensure(connection, database, every_s)
    assert await needed() == ["always", "early"]
    # The statement is made once, and asks at another moment.
    clock.advance(5)
    assert await needed() == ["always", "late"]
    async with database.begin() as connection:
        await duty_rows.take(connection, database, every_s)
    assert await needed() == []
    clock.advance(1)
    assert await needed() == ["always", "late"]


async def test_who_stops_while_taking_a_duty_holds_up_neither_the_others_nor_other_duties(
    postgres_outpost: Outpost,
) -> None:
    database = postgres_outpost.database
    async with database.begin() as connection:
        await duty_rows.ensure(connection, database, ["sweep", "dust"])
    async with database.begin() as paused, database.begin() as connection, asyncio.timeout(PATIENCE_S):
        assert await duty_rows.take(paused, database, {"sweep": 60.0}) == ["sweep"]
        assert await duty_rows.take(connection, database, {"sweep": 60.0, "dust": 60.0}) == ["dust"]


class _SetBack(datetime):
    """Wall time as apscheduler reads it, while the clock may be set back."""

    by = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) - cls.by


async def test_duties_go_on_when_the_wall_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", _SetBack)
    monkeypatch.setattr("dispatcher.engine.schedule.datetime", _SetBack)
    monkeypatch.setattr(_SetBack, "by", timedelta())
    ticks: asyncio.Queue[None] = asyncio.Queue()

    async def tick() -> None:
        ticks.put_nowait(None)

    scheduler = scheduler_of([(tick, 0.05)])
    try:
        async with asyncio.timeout(30):
            await ticks.get()
            _SetBack.by = timedelta(hours=1)
            for _ in range(3):
                await ticks.get()
            _SetBack.by = timedelta(hours=-1)
            for _ in range(3):
                await ticks.get()
    finally:
        scheduler.shutdown(wait=False)


@pytest.mark.parametrize("every_s", [1.0, 10.0])
async def test_a_duty_that_the_database_refuses_takes_no_other_its_turn(
    outpost: Outpost, clock: FakeClock, every_s: float
) -> None:
    done: Counter[str] = Counter()

    async def good(name: str) -> None:
        done[name] += 1

    async def bad() -> None:
        done["bad"] += 1
        raise StoreUnavailable("one statement takes too long")

    duties = [Duty(name, 10.0, partial(good, name)) for name in ("b", "c")]
    schedule = Schedule(
        outpost.database, [Duty("a", 1.0, partial(good, "a")), Duty("bad", every_s, bad), *duties], tick_s=1e6
    )
    async with outpost.database.begin() as connection:
        await duty_rows.ensure(connection, outpost.database, ["bad", "a", "c", "b"])
    for _ in range(30):
        await schedule.tick()
        clock.advance(1)
    assert done == {"a": 30, "bad": 30 / every_s, "b": 3, "c": 3}


async def test_where_the_database_answers_nothing_the_rest_of_the_turn_is_left_out(
    outpost: Outpost, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def refused(name: str) -> None:
        tried.append(name)
        raise StoreUnavailable("it is away")

    schedule = Schedule(outpost.database, [Duty(name, 1.0, partial(refused, name)) for name in "abcd"], tick_s=1e6)
    async with outpost.database.begin() as connection:
        await duty_rows.ensure(connection, outpost.database, "abcd")
    await schedule.tick()
    assert tried == ["a", "b", "c", "d"]

    async def away() -> None:
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(schedule, "_ask", away)
    tried.clear()
    clock.advance(1)
    await schedule.tick()
    assert tried == ["a"]


@pytest.mark.parametrize("every_s", [10.0, 60.0])
async def test_a_stop_does_what_was_taken_by_itself_and_leaves_what_was_taken_with_others(
    outpost: Outpost, monkeypatch: pytest.MonkeyPatch, every_s: float
) -> None:
    done: list[str] = []
    taken: list[str] = []

    async def do(name: str) -> None:
        done.append(name)

    schedule = Schedule(outpost.database, [Duty(name, every_s, partial(do, name)) for name in "ab"], tick_s=1e6)
    take = schedule._taken

    async def stopped_meanwhile(duties: Sequence[Duty]) -> Sequence[Duty]:
        found = await take(duties)
        taken.extend(duty.name for duty in found)
        schedule._stopping = bool(found)
        return found

    monkeypatch.setattr(schedule, "_taken", stopped_meanwhile)
    async with outpost.database.begin() as connection:
        await duty_rows.ensure(connection, outpost.database, "ab")
    await schedule.tick()
    assert done == ["a"]
    # By itself, or with the other one.
    assert taken == (["a"] if every_s > OFTEN_S else ["a", "b"])

"""What is remembered of the database: asked for by one, believed for a time, renewed before that is over."""

import asyncio

import pytest

from dispatcher.errors import StoreUnavailable
from dispatcher.service.remembered import Remembered, Said
from tests.clock import FakeClock


class Asked:
    """A database that is asked, and answers when it is told to."""

    def __init__(self, for_s: float = 10.0) -> None:
        self.names: list[str] = []
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.answers: dict[str, str] = {}
        self.away = False
        self._for_s = for_s

    async def look_up(self, name: str) -> Said[str] | None:
        self.names.append(name)
        self.begun.set()
        answer = self.answers.get(name)
        await self.may_answer.wait()
        if self.away:
            raise StoreUnavailable("it is away")
        return None if answer is None else Said(answer, self._for_s)


async def test_however_many_ask_at_once_one_look_answers_them_all(clock: FakeClock) -> None:
    asked = Asked()
    asked.answers["a"] = "one"
    remembered = Remembered(clock, asked.look_up, most=10)
    assert await asyncio.gather(*(remembered.ask("a") for _ in range(50))) == ["one"] * 50
    assert asked.names == ["a"]


async def test_it_is_believed_from_when_it_was_asked_for_and_not_a_moment_longer(clock: FakeClock) -> None:
    asked = Asked()
    asked.answers["a"] = "one"
    asked.may_answer.clear()
    remembered = Remembered(clock, asked.look_up, most=10)
    asking = asyncio.create_task(remembered.ask("a"))
    await asked.begun.wait()
    # The answer takes four seconds to come; what it says was true when it was asked for.
    clock.advance(4)
    asked.may_answer.set()
    assert await asking == "one"
    clock.advance(5.9)
    assert remembered.at_hand("a") == "one"
    clock.advance(0.1)
    assert remembered.at_hand("a") is None
    await remembered.close()


async def test_who_comes_when_a_look_should_be_over_does_not_take_what_it_says(clock: FakeClock) -> None:
    asked = Asked()
    asked.answers["a"] = "one"
    asked.may_answer.clear()
    remembered = Remembered(clock, asked.look_up, most=10)
    slow = asyncio.create_task(remembered.ask("a"))
    await asked.begun.wait()
    # It has read "one", and its answer is on its way for longer than it may be believed; meanwhile that changed.
    asked.answers["a"] = "two"
    clock.advance(9.9)
    in_time = asyncio.create_task(remembered.ask("a"))
    await asyncio.sleep(0)
    clock.advance(0.1)
    late = asyncio.create_task(remembered.ask("a"))
    await asyncio.sleep(0)
    asked.may_answer.set()
    assert [await slow, await in_time, await late] == ["one", "one", "two"]
    assert asked.names == ["a", "a"]
    assert remembered.at_hand("a") == "two"


async def test_who_uses_it_all_the_time_never_waits_and_sees_a_change_in_time(clock: FakeClock) -> None:
    asked = Asked()
    asked.answers["a"] = "one"
    remembered = Remembered(clock, asked.look_up, most=10)
    await remembered.ask("a")
    asked.answers["a"] = "two"
    seen = []
    for _ in range(30):
        clock.advance(1)
        seen.append(remembered.at_hand("a"))
        await remembered.close()
    assert None not in seen
    assert "one" not in seen[10:]
    assert len(asked.names) == 1 + 30 // 5


async def test_what_is_gone_is_not_believed_and_what_there_is_not_is_not_remembered(clock: FakeClock) -> None:
    asked = Asked()
    remembered = Remembered(clock, asked.look_up, most=10)
    assert await remembered.ask("a") is None
    asked.answers["a"] = "one"
    assert await remembered.ask("a") == "one"
    del asked.answers["a"]
    assert await remembered.ask("a") is None
    assert remembered.at_hand("a") is None


async def test_a_database_that_is_away_is_told_to_who_waits_and_not_to_who_need_not(clock: FakeClock) -> None:
    asked = Asked()
    asked.answers["a"] = "one"
    remembered = Remembered(clock, asked.look_up, most=10)
    await remembered.ask("a")
    asked.away = True
    clock.advance(6)
    assert remembered.at_hand("a") == "one"
    await remembered.close()
    assert remembered.at_hand("a") == "one"
    await remembered.close()
    clock.advance(4)
    assert remembered.at_hand("a") is None
    with pytest.raises(StoreUnavailable):
        await remembered.ask("a")


async def test_who_gives_up_waiting_does_not_end_it_for_the_others(clock: FakeClock) -> None:
    asked = Asked()
    asked.answers["a"] = "one"
    asked.may_answer.clear()
    remembered = Remembered(clock, asked.look_up, most=10)
    first, second = asyncio.create_task(remembered.ask("a")), asyncio.create_task(remembered.ask("a"))
    await asked.begun.wait()
    first.cancel()
    asked.may_answer.set()
    assert await second == "one"


async def test_no_more_are_remembered_than_may_be(clock: FakeClock) -> None:
    asked = Asked()
    remembered = Remembered(clock, asked.look_up, most=3)
    for name in "abcd":
        asked.answers[name] = name
        await remembered.ask(name)
    assert [remembered.at_hand(name) for name in "abcd"] == [None, "b", "c", "d"]

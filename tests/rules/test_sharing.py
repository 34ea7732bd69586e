"""Turns: who goes first, what is kept, and the share of what goes again, as pure functions."""

from collections import Counter

import pytest

from dispatcher.rules.sharing import SPIN, dice, guaranteed_again, in_turn, spin
from dispatcher.store.endpoint_rows import callback_row


def test_tenants_take_turns_and_within_one_its_endpoints() -> None:
    burst = [("a", place, row, f"a{row}") for row, place in enumerate((1, 2, 3, 1, 2, 3))]
    assert in_turn([*burst, ("b", 1, 99, "b")], {}, free=100, slots=100, most=3) == ["a0", "b", "a3"]


def test_who_holds_more_slots_comes_later() -> None:
    candidates = [("a", 1, 1, "a"), ("b", 1, 2, "b"), ("c", 1, 3, "c")]
    assert in_turn(candidates, {"a": 5, "b": 1}, free=50, slots=100, most=2) == ["c", "b"]


@pytest.mark.parametrize(
    ("free", "place", "held", "goes"),
    [
        (11, 80, 80, True),
        (10, 11, 80, False),
        (10, 10, 80, True),
        (6, 6, 80, True),
        (5, 1, 80, False),
        (5, 1, 4, True),
        (1, 1, 0, True),
        (0, 1, 0, False),
    ],
)
def test_the_last_slots_are_for_endpoints_and_then_for_tenants_that_hold_few(
    free: int, place: int, held: int, goes: bool
) -> None:
    assert bool(in_turn([("a", place, 1, "it")], {"a": held}, free=free, slots=100, most=1)) is goes


def test_who_cannot_go_takes_nobodys_place() -> None:
    full = [("c", place, place, "c") for place in range(11, 16)]
    assert in_turn([*full, ("a", 1, 99, "a")], {"c": 10, "a": 80}, free=10, slots=100, most=10) == ["a"]


def test_a_process_with_few_slots_keeps_none() -> None:
    assert len(in_turn([("a", n, n, n) for n in range(1, 10)], {}, free=9, slots=9, most=9)) == 9


@pytest.mark.parametrize("every", [1, 2, 5, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_what_goes_again_has_its_share_of_any_sequence_of_claims(count: int, every: int) -> None:
    claims = [guaranteed_again(count, dice(throw)) for throw in range(0, 1000 * every, every)]
    assert sum(claims) / 1000 == pytest.approx(count * 0.2, rel=0.02)


def test_no_endpoint_is_the_last_in_every_order() -> None:
    endpoints = [(1 << 61) + n * 7919 * (1 << 40) for n in range(10)]
    endpoints += [callback_row("default", f"job_{n}", "https://example.com/") for n in range(10)]
    first = Counter(min(endpoints, key=lambda row: row ^ spin(dice(throw))) for throw in range(1000))
    assert set(first) == set(endpoints)
    assert max(spin(dice(throw)) for throw in range(1000)) < SPIN

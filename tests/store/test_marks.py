"""Low marks: what they say after looks, and after rows came back."""

import pytest

from dispatcher.store.postgres import marks
from dispatcher.store.postgres.marks import Looks, Marks, Place

ONE, OTHER = (3, True), (7, True)


def test_a_look_begins_where_the_last_one_saw_the_first() -> None:
    kept: Marks[Place] = Marks()
    kept.begin([(OTHER, 100), (ONE, 50)])
    assert kept.all() == [(OTHER, 100), (ONE, 50)]


def test_what_is_fresh_and_what_goes_again_have_marks_of_their_own() -> None:
    kept: Marks[Place] = Marks()
    kept.begin([((3, True), 50), ((3, False), 20)])
    kept.came_back([((3, False), 10)])
    assert sorted(kept.all()) == [((3, False), 10), ((3, True), 50)]


def test_a_row_that_came_back_lowers_its_mark_and_a_higher_one_does_not() -> None:
    kept: Marks[Place] = Marks()
    kept.begin([(OTHER, 100)])
    kept.came_back([(OTHER, 40), (OTHER, 60), (OTHER, 500), (ONE, 1)])
    assert sorted(kept.all()) == [(OTHER, 40)]


def test_a_row_that_came_back_during_a_look_is_not_passed_by_it() -> None:
    kept: Marks[Place] = Marks()
    kept.looking()
    kept.came_back([(OTHER, 40)])
    kept.begin([(OTHER, 100)])
    assert sorted(kept.all()) == [(OTHER, 40)]
    kept.looking()
    kept.begin([(OTHER, 100)])
    assert sorted(kept.all()) == [(OTHER, 100)]


def test_the_marks_used_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MOST", 2)
    kept: Marks[str] = Marks()
    for tenant, row in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        kept.begin([(tenant, row)])
    assert sorted(kept.all()) == [("a", 3), ("c", 4)]


def test_looks_are_in_full_until_they_are_dear_and_then_a_twentieth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(marks, "monotonic", lambda: now)
    looks = Looks()
    looks.took(1.0)
    assert looks.in_full()
    looks.left(marks.FEW)
    assert not looks.in_full()
    now += marks.REST * 1.0
    assert looks.in_full()
    looks.took(marks.DEAR_S / 2)
    assert looks.in_full()

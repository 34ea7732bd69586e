"""The demo's checks: what holds is shown and counted, what does not ends the story with what was expected and seen."""

import io

import pytest
from rich.console import Console

from dispatcher.demo.screen import CheckFailed, Screen


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def screen(shown: io.StringIO) -> Screen:
    return Screen(Console(file=shown, highlight=False))


def test_a_check_that_holds_is_shown_and_counted(screen: Screen, shown: io.StringIO) -> None:
    screen.check("two and two are four", expected=4, seen=2 + 2)
    assert "✓ two and two are four" in shown.getvalue()
    assert screen.checks == 1


def test_a_check_that_does_not_hold_is_not_shown_as_true(screen: Screen, shown: io.StringIO) -> None:
    with pytest.raises(CheckFailed) as failed:
        screen.check("two and two are five", expected=5, seen=2 + 2)
    assert shown.getvalue() == ""
    assert screen.checks == 0
    screen.failed(failed.value)
    assert shown.getvalue().splitlines() == ["  ✗ two and two are five", "    expected: 5", "    seen:     4"]


def test_what_looks_like_markup_is_shown_as_it_is(screen: Screen, shown: io.StringIO) -> None:
    screen.command("dispatcher dead-letters list", "[bold]not markup[/bold]")
    assert "[bold]not markup[/bold]" in shown.getvalue()

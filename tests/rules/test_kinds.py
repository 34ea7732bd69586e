"""Kinds: what the event says, then the settings' words from the exact to the widest, then the built-in ones."""

import pytest

from dispatcher.errors import InvalidSettings
from dispatcher.rules.kinds import EventKinds
from dispatcher.states import EventKind

STATE, PROGRESS, TERMINAL = EventKind.STATE, EventKind.PROGRESS, EventKind.TERMINAL


@pytest.mark.parametrize(
    ("event_type", "kind"),
    [
        ("job.progress", PROGRESS),
        ("job.completed", TERMINAL),
        ("job.failed", TERMINAL),
        ("job.canceled", TERMINAL),
        ("job.rejected", TERMINAL),
        ("job.started", STATE),
        ("progress", STATE),
        ("my.job.progress", STATE),
        ("job.progress.detail", STATE),
    ],
)
def test_the_built_in_kinds(event_type: str, kind: EventKind) -> None:
    assert EventKinds({}).of(event_type, None, "job_1") is kind


def test_what_the_event_says_wins() -> None:
    kinds = EventKinds({"job.progress": TERMINAL})
    assert kinds.of("job.progress", "state", "job_1") is STATE
    assert kinds.of("job.progress", None, "job_1") is TERMINAL


def test_without_a_job_there_is_nothing_but_state() -> None:
    kinds = EventKinds({"*": PROGRESS})
    assert kinds.of("job.completed", None, None) is STATE
    assert kinds.of("job.completed", "terminal", None) is STATE


def test_the_exact_type_goes_before_globs_and_the_longest_glob_before_wider_ones() -> None:
    kinds = EventKinds({"*": STATE, "a.*": PROGRESS, "a.b.*": TERMINAL, "a.b.c": STATE})
    assert [kinds.of(name, None, "j") for name in ("a.b.c", "a.b.d", "a.c", "a", "b")] == [
        *(STATE, TERMINAL, PROGRESS, STATE, STATE)
    ]


def test_any_entry_of_the_settings_goes_before_the_built_in_ones() -> None:
    kinds = EventKinds({"job.*": STATE})
    assert kinds.of("job.progress", None, "j") is STATE
    assert kinds.of("job.completed", None, "j") is STATE


def test_more_types_than_are_remembered_are_still_told_apart() -> None:
    kinds = EventKinds({"p.*": PROGRESS})
    for turn in range(2):
        assert all(kinds.of(f"p.{turn}_{n}", None, "j") is PROGRESS for n in range(12_000))
    assert kinds.of("job.failed", None, "j") is TERMINAL


@pytest.mark.parametrize("pattern", ["job.", "*.progress", "job*", ""])
def test_a_pattern_that_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSettings, match="DISPATCHER_EVENT_KINDS"):
        EventKinds({pattern: STATE})

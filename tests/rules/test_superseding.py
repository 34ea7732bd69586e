"""Superseding inside a batch comes out as if its events had been fanned out one by one."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.rules.numbering import Numbered
from dispatcher.rules.superseding import Superseding, superseding
from dispatcher.states import EventKind

P, S, T = EventKind.PROGRESS, EventKind.STATE, EventKind.TERMINAL


def _batch(*events: tuple[EventKind, str], job_row: int = 1) -> list[Numbered]:
    return [Numbered(n, event_type, kind, job_row, n) for n, (kind, event_type) in enumerate(events, 1)]


def test_each_progress_is_superseded_by_the_next_of_its_type() -> None:
    superseded, found = superseding(_batch((P, "a"), (S, "x"), (P, "b"), (P, "a"), (P, "a")), {})
    assert superseded == {1: 4, 4: 5}
    assert found == [Superseding(1, "a", 1, 1), Superseding(1, "b", 3, 3)]


def test_the_first_terminal_event_supersedes_what_waits_and_all_progress_behind_it() -> None:
    superseded, found = superseding(_batch((P, "a"), (P, "b"), (T, "end"), (P, "a"), (T, "end"), (P, "b")), {1: 3})
    assert superseded == {1: 3, 2: 3, 4: 3, 6: 3}
    assert found == [Superseding(1, "a", 1, 1), Superseding(1, "b", 2, 2), Superseding(1, None, 3, 3)]


def test_a_job_that_was_settled_before_supersedes_its_progress_and_a_further_end_changes_nothing() -> None:
    superseded, found = superseding(_batch((P, "a"), (T, "end"), (S, "x")), {1: 77})
    assert superseded == {1: 77}
    assert found == []


def test_jobs_do_not_touch_each_other() -> None:
    batch = [Numbered(1, "a", P, 1, 1), Numbered(2, "a", P, 2, 1), Numbered(3, "end", T, 2, 2)]
    superseded, found = superseding(batch, {2: 3})
    assert superseded == {2: 3}
    assert [(one.job_row, one.event_type) for one in found] == [(1, "a"), (2, "a"), (2, None)]


_EVENTS = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.sampled_from([P, P, S, T]), st.sampled_from("ab")), max_size=12
)


@given(_EVENTS, st.lists(st.booleans(), min_size=12, max_size=12))
def test_how_events_are_cut_into_batches_does_not_matter(
    events: list[tuple[int, EventKind, str]], cuts: list[bool]
) -> None:
    last: dict[int, int] = {}
    numbered = []
    for row, (job_row, kind, event_type) in enumerate(events, 1):
        last[job_row] = last.get(job_row, 0) + 1
        numbered.append(Numbered(row, event_type, kind, job_row, last[job_row]))
    assert _all(numbered, [False] * 12) == _all(numbered, [True] * 12) == _all(numbered, cuts)


def _all(events: list[Numbered], cuts: list[bool]) -> dict[int, int]:
    """By which event each one is superseded in the end, if everything waits and one endpoint matches everything."""
    batches: list[list[Numbered]] = [[]]
    for event, cut in zip(events, cuts, strict=False):
        batches[-1].append(event)
        if cut:
            batches.append([])
    settled: dict[int, int] = {}
    waiting: dict[int, Numbered] = {}
    result: dict[int, int] = {}
    for batch in batches:
        for event in batch:
            if event.kind is T:
                settled.setdefault(event.job_row, event.event_row)
        superseded, found = superseding(batch, {e.job_row: settled[e.job_row] for e in batch if e.job_row in settled})
        for newer in sorted(found, key=lambda one: one.sequence):
            for row, older in list(waiting.items()):
                if older.job_row == newer.job_row and newer.event_type in (None, older.event_type):
                    result[row] = newer.event_row
                    del waiting[row]
        result |= superseded
        waiting |= {e.event_row: e for e in batch if e.kind is P and e.event_row not in superseded}
    return result

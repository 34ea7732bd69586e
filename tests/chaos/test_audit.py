"""The audit itself: with a journal made by hand, it finds nothing where nothing is wrong, and each thing that is."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.bad_receiver import Misbehaviour
from tests.chaos.audit import Audit, judge, settled_after
from tests.chaos.evidence import Delivery, Evidence, Known
from tests.chaos.producers import Ledger, Published
from tests.chaos.scene import LOOSE, ORDERED, RETRIES, InFlight, Strike
from tests.chaos.witness import Answer, Answered, Arrival

JOB = "job"
#: A job's events in publish order; the progress waits when the job ends, and is superseded.
STEP, PROGRESS, NEXT, END = "step", "progress", "next", "end"
TYPES = {STEP: "job.step", PROGRESS: "job.progress", NEXT: "job.step", END: "job.completed"}


@dataclass
class Story:
    """What happened, to be told wrongly in one place."""

    ledger: Ledger = field(default_factory=Ledger)
    journal: list[Arrival | Answered] = field(default_factory=list)
    answers: defaultdict[Known, dict[int, Answer]] = field(default_factory=lambda: defaultdict(dict))
    strikes: list[Strike] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    running: int = 0
    deliveries: dict[Known, Delivery] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)
    lease_s: float = 1.0

    def publish(self, event_id: str, event_type: str = "note", job_id: str | None = None) -> None:
        self.ledger.commit([Published(event_id, event_type, job_id, event_id)])
        self.stored.append(event_id)

    def arrival(self, path: str, event_id: str, attempt: int = 1, previous: int | None = None) -> Arrival:
        """What arrives next, without being sent."""
        event = self.ledger.committed.get(event_id) or Published(event_id, "note", None, event_id)
        sequence = self.ledger.jobs[JOB].index(event_id) + 1 if event.job_id else None
        at_s = float(len(self.journal))
        return Arrival(
            path, event_id, event.type, attempt, event.job_id, sequence, previous, event.data, event_id, at_s
        )

    def send(self, arrival: Arrival, answer: Answer = 200) -> None:
        self.journal += [arrival, Answered(arrival, answer)]
        self.answers[arrival.path, arrival.event_id][arrival.attempt] = answer

    def deliver(self, path: str, event_id: str, previous: int | None = None) -> None:
        """One attempt, accepted and recorded."""
        self.send(self.arrival(path, event_id, previous=previous))
        self.deliveries[path, event_id] = logged("delivered", 200)

    def change(self, path: str, event_id: str, **values: Any) -> None:
        self.deliveries[path, event_id] = replace(self.deliveries[path, event_id], **values)

    def judged(self) -> Audit:
        return judge(
            Evidence(
                ORDERED, (ORDERED, LOOSE), self.ledger, self.journal, self.answers, self.strikes, self.stored,
                self.queued, self.running, self.deliveries, self.errors, self.stops_s, self.lease_s,
            )
        )  # fmt: skip


def logged(state: str, *outcomes: int | str, **values: Any) -> Delivery:
    """A delivery whose attempts ended so."""
    numbers = range(1, len(outcomes) + 1)
    return Delivery(
        state,
        attempts=len(outcomes),
        logged=list(numbers),
        outcomes=dict(zip(numbers, outcomes, strict=True)),
        **values,
    )


@pytest.fixture
def story() -> Story:
    """A note and a job with its end; nothing is wrong."""
    told = Story()
    told.publish("note")
    for event_id, event_type in TYPES.items():
        told.publish(event_id, event_type, JOB)
    for path in (ORDERED, LOOSE):
        told.deliver(path, "note")
        for event_id, previous in ((STEP, 0), (NEXT, 1), (END, 3)):
            told.deliver(path, event_id, previous if path == ORDERED else None)
        told.deliveries[path, PROGRESS] = Delivery("superseded", "superseded", superseded_by=END)
    return told


def test_nothing_is_found_where_nothing_is_wrong(story: Story) -> None:
    found = story.judged()
    assert found.broken == {}
    assert (found.events, found.arrivals, found.superseded, found.duplicates) == (5, 8, 2, 0)


LOSSES: dict[str, Callable[[Story], object]] = {
    "not fanned out": lambda s: s.deliveries.pop((LOOSE, "note")),
    "called delivered, never accepted": lambda s: s.answers[LOOSE, "note"].update({1: 500}),
    "dead without a dead letter": lambda s: s.change(LOOSE, "note", state="dead", reason="exhausted"),
    "dead for no reason that there was": lambda s: s.change(LOOSE, "note", state="dead", reason="gone", buried=True),
    "cancelled": lambda s: s.change(LOOSE, "note", state="cancelled"),
    "superseded though not progress": lambda s: s.change(LOOSE, STEP, state="superseded", superseded_by=END),
    "superseded by nothing": lambda s: s.change(LOOSE, PROGRESS, superseded_by=None),
    "superseded by what is no progress and no end": lambda s: s.change(LOOSE, PROGRESS, superseded_by=NEXT),
}


@pytest.mark.parametrize("how", LOSSES)
def test_a_loss_is_found(story: Story, how: str) -> None:
    LOSSES[how](story)
    assert len(story.judged().lost) == 1


def test_progress_gives_way_to_newer_progress_of_its_type_only() -> None:
    told = Story()
    for event_id, event_type in (("older", "job.progress"), ("newer", "job.progress")):
        told.publish(event_id, event_type, JOB)
    for path in (ORDERED, LOOSE):
        told.deliveries[path, "older"] = Delivery("superseded", superseded_by="newer")
        told.deliver(path, "newer", previous=0)
    assert told.judged().broken == {}
    told.deliveries[LOOSE, "newer"] = Delivery("superseded", superseded_by="older")
    assert told.judged().lost == ["('/loose', 'newer') was superseded by older"]


def test_a_phantom_is_found(story: Story) -> None:
    story.stored.append("rolled back")
    story.send(story.arrival(LOOSE, "never stored"))
    assert len(story.judged().phantoms) == 2


def test_a_repeat_of_what_was_accepted_and_recorded_is_found(story: Story) -> None:
    story.send(story.arrival(LOOSE, "note", attempt=2))
    story.deliveries[LOOSE, "note"] = logged("delivered", 200, 200)
    found = story.judged()
    assert (found.duplicates, len(found.unexplained)) == (1, 1)
    # And once more, as a round that went on.
    assert len(found.miscounted) == 1


def test_one_attempt_that_comes_twice_is_found_whatever_was_interrupted(story: Story) -> None:
    story.strikes.append(Strike(100.0, frozenset({InFlight(LOOSE, "note", 1)})))
    story.deliveries[LOOSE, "note"] = logged("delivered", "interrupted", 200)
    story.send(story.arrival(LOOSE, "note", attempt=2))
    story.send(story.arrival(LOOSE, "note", attempt=2))
    assert len(story.judged().unexplained) == 1


def test_an_acceptance_that_nobody_recorded_explains_one_duplicate_however_often_its_repeat_is_refused(
    story: Story,
) -> None:
    story.strikes.append(Strike(100.0, frozenset({InFlight(LOOSE, "note", 1)})))
    for attempt, answer in ((2, 500), (3, Misbehaviour.RESET), (4, 200)):
        story.send(story.arrival(LOOSE, "note", attempt), answer)
    story.deliveries[LOOSE, "note"] = logged("delivered", "interrupted", "http_status", "connection_reset", 200)
    found = story.judged()
    assert found.broken == {}
    assert (found.in_flight, found.duplicates) == (1, 1)


def test_two_acceptances_that_nobody_recorded_are_two_duplicates(story: Story) -> None:
    story.strikes += [Strike(100.0, frozenset({InFlight(LOOSE, "note", number)})) for number in (1, 2)]
    for attempt in (2, 3):
        story.send(story.arrival(LOOSE, "note", attempt))
    story.deliveries[LOOSE, "note"] = logged("delivered", "interrupted", "interrupted", 200)
    found = story.judged()
    assert found.broken == {}
    assert (found.in_flight, found.duplicates) == (2, 2)


def test_where_it_cannot_be_known_what_a_strike_interrupted_the_log_says_it(story: Story) -> None:
    story.send(story.arrival(LOOSE, "note", attempt=2))
    story.deliveries[LOOSE, "note"] = logged("delivered", "interrupted", 200)
    assert story.judged().unexplained
    story.strikes.append(Strike(100.0, None))
    found = story.judged()
    assert found.broken == {}
    assert (found.in_flight, found.duplicates) == (1, 1)


def test_what_was_redelivered_may_be_accepted_again_and_once_only(story: Story) -> None:
    story.send(story.arrival(LOOSE, "note", attempt=2))
    story.deliveries[LOOSE, "note"] = logged("delivered", 200, 200, put_back_after=[1])
    assert story.judged().broken == {}
    story.send(story.arrival(LOOSE, "note", attempt=3))
    story.deliveries[LOOSE, "note"] = logged("delivered", 200, 200, 200, put_back_after=[1])
    assert len(story.judged().unexplained) == 1


def _swap(story: Story) -> None:
    at = [n for n, entry in enumerate(story.journal) if isinstance(entry, Arrival) and entry.path == ORDERED]
    first, second = at[1], at[2]
    journal = story.journal
    journal[first : first + 2], journal[second : second + 2] = (
        journal[second : second + 2],
        journal[first : first + 2],
    )


def _leave_out(story: Story) -> None:
    story.journal[:] = [e for e in story.journal if (e if isinstance(e, Arrival) else e.arrival).event_id != NEXT]


def _beside(story: Story) -> None:
    # The answer to the first comes after the second.
    at = next(n for n, e in enumerate(story.journal) if isinstance(e, Answered) and e.arrival.event_id == STEP)
    story.journal[at], story.journal[at + 1] = story.journal[at + 1], story.journal[at]


def _before_settled(story: Story) -> None:
    at = next(n for n, e in enumerate(story.journal) if isinstance(e, Answered) and e.arrival.event_id == STEP)
    entry = story.journal[at]
    assert isinstance(entry, Answered)
    story.journal[at] = replace(entry, status=500)


def _wrong_previous(story: Story) -> None:
    at = next(n for n, e in enumerate(story.journal) if isinstance(e, Arrival) and e.event_id == NEXT)
    entry = story.journal[at]
    assert isinstance(entry, Arrival)
    story.journal[at] = replace(entry, previous=2)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (_swap, "came after"),
        (_leave_out, "came before next"),
        (_beside, "was in flight"),
        (_before_settled, "was settled"),
        (_wrong_previous, "says 2 came before it"),
    ],
)
def test_disorder_in_a_lane_is_found(story: Story, plant: Callable[[Story], None], said: str) -> None:
    plant(story)
    assert any(said in violation for violation in story.judged().order_violations)


def test_an_endpoint_without_lanes_may_be_sent_anything_at_any_time(story: Story) -> None:
    story.journal.reverse()
    story.journal[:] = [e for e in story.journal if (e if isinstance(e, Arrival) else e.arrival).path == LOOSE]
    assert story.judged().order_violations == []


def test_what_was_on_its_way_when_its_process_was_paused_breaks_no_order(story: Story) -> None:
    late = story.arrival(ORDERED, STEP, attempt=2, previous=0)
    story.send(late)
    assert len(story.judged().order_violations) == 1
    story.strikes.append(Strike(late.at_s - 1, frozenset({InFlight(ORDERED, STEP, 2)})))
    assert story.judged().order_violations == []


def test_progress_published_after_its_jobs_end_is_never_sent(story: Story) -> None:
    story.publish("late", "job.progress", JOB)
    for path in (ORDERED, LOOSE):
        story.deliveries[path, "late"] = Delivery("superseded", superseded_by=END)
    assert story.judged().broken == {}
    story.deliver(LOOSE, "late")
    assert len(story.judged().order_violations) == 1


def test_progress_that_waited_when_its_job_ended_is_not_sent_behind_the_end(story: Story) -> None:
    story.send(story.arrival(ORDERED, PROGRESS, previous=1))
    assert any("after its job's end" in violation for violation in story.judged().order_violations)


def test_progress_that_was_under_way_when_its_job_ended_may_come_in_behind_it_once_without_lanes(story: Story) -> None:
    story.send(story.arrival(LOOSE, PROGRESS), 500)
    story.change(LOOSE, PROGRESS, attempts=1, logged=[1], outcomes={1: "http_status"})
    assert story.judged().broken == {}
    story.send(story.arrival(LOOSE, PROGRESS, attempt=2))
    assert len(story.judged().order_violations) == 1


def test_what_is_stuck_is_found(story: Story) -> None:
    story.change(LOOSE, "note", state="sending")
    story.change(ORDERED, "note", state="pending")
    story.queued.append("note")
    story.running = 1
    assert len(story.judged().stuck) == 4


MISCOUNTS: dict[str, Delivery] = {
    "an attempt that is not logged": replace(logged("delivered", 200), attempts=2),
    "a number that is left out": replace(logged("delivered", 200), attempts=2, logged=[2], outcomes={2: 200}),
    "one that is logged twice": replace(logged("delivered", 200), logged=[1, 1]),
    "another outcome than there was": logged("delivered", "timeout"),
    "an attempt that nobody saw": logged("delivered", 200, 200),
    "interrupted though nothing interrupted it": logged("delivered", "interrupted"),
}


@pytest.mark.parametrize("how", MISCOUNTS)
def test_a_wrong_attempt_log_is_found(story: Story, how: str) -> None:
    story.deliveries[LOOSE, "note"] = MISCOUNTS[how]
    assert len(story.judged().miscounted) == 1


def test_an_attempt_that_was_never_sent_takes_a_strike_or_a_stop_where_the_lease_is_long(story: Story) -> None:
    story.publish("given up")
    for path in (ORDERED, LOOSE):
        story.send(story.arrival(path, "given up"), 500)
    before_s = float(len(story.journal))
    for path in (ORDERED, LOOSE):
        story.send(story.arrival(path, "given up", attempt=3))
        story.deliveries[path, "given up"] = logged("delivered", "http_status", "interrupted", 200)
    # A dispatcher on a slow machine may lose a short lease, and nobody sees why.
    assert story.judged().broken == {}
    story.lease_s = 10.0
    assert len(story.judged().miscounted) == 2
    # Neither what came before the first attempt nor what came after the third explains the second.
    story.strikes += [Strike(0.0, frozenset()), Strike(100.0, frozenset())]
    assert len(story.judged().miscounted) == 2
    story.stops_s.append(before_s - 0.5)
    assert story.judged().broken == {}
    story.stops_s.clear()
    story.strikes.append(Strike(before_s - 0.5, frozenset()))
    assert story.judged().broken == {}


def test_a_delivery_that_is_given_up_too_early_is_found(story: Story) -> None:
    story.answers[LOOSE, "note"].update({1: 500})
    story.deliveries[LOOSE, "note"] = logged("dead", "http_status", reason="exhausted", buried=True)
    assert [what.partition(": ")[2][:9] for what in story.judged().miscounted] == ["too early"]


def test_changed_bytes_are_found(story: Story) -> None:
    story.journal.append(replace(story.arrival(LOOSE, "note"), body_sha256="other"))
    assert len(story.judged().changed_bytes) == 1


def test_an_error_in_a_dispatchers_log_is_found(story: Story) -> None:
    story.errors.append("delivery.failed_inside")
    assert story.judged().broken == {"errors": ["delivery.failed_inside"]}


def test_a_delivery_is_used_up_after_its_retries_and_an_interruption_costs_none() -> None:
    failures: dict[int, Answer] = dict.fromkeys(range(1, RETRIES + 2), 500)
    assert settled_after(failures, set()) == RETRIES + 1
    assert settled_after(failures, {1}) is None
    assert settled_after({1: 200}, {1}) is None
    # The fifth interruption in a row is a failure.
    assert settled_after(failures, {1, 2, 3, 4}) is None
    assert settled_after({}, set(range(1, 5 * (RETRIES + 1) + 1))) == 5 * (RETRIES + 1)


def test_the_time_to_recover_ends_with_the_last_of_what_was_in_flight(story: Story) -> None:
    story.strikes.append(Strike(20.0, frozenset({InFlight(LOOSE, "note", 1), InFlight(ORDERED, "note", 1)})))
    for path, at_s in ((LOOSE, 21.0), (ORDERED, 24.5)):
        story.send(replace(story.arrival(path, "note", attempt=2), at_s=at_s))
    assert story.judged().recoveries_s == (4.5,)
    # Another one in the middle of that makes it begin again.
    story.strikes.append(Strike(24.0, frozenset()))
    assert story.judged().recoveries_s == (0.5, 0.5)


def test_what_never_came_again_was_never_recovered_unless_nobody_wanted_it_any_more(story: Story) -> None:
    story.strikes.append(Strike(20.0, frozenset({InFlight(LOOSE, "note", 1)})))
    assert story.judged().recoveries_s == (float("inf"),)
    story.send(replace(story.arrival(ORDERED, "note", attempt=2), at_s=21.0))
    story.change(LOOSE, "note", state="superseded")
    assert story.judged().recoveries_s == (1.0,)

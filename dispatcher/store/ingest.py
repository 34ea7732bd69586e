"""Ingest: events that several publishers sent at once, stored in one transaction; what both hot stores share of it.

Each publisher's events are a group: stored all or none, and answered by themselves. One group's conflict leaves the
others as they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dispatcher.errors import CallerError, InvalidField, StoreUnavailable
from dispatcher.rules.new_events import NewEvent
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.hot import FannedOut

#: Events that may wait in the queue before those that go straight, and are fanned out with them.
STRAIGHT_BEHIND = 10

Key = tuple[str, str]
Group = Sequence[NewEvent]
#: When each event of a group was created, by tenant and id.
Created = Mapping[Key, datetime]
#: What a group comes to; an error stands for nothing stored.
Answer = Created | CallerError | StoreUnavailable


class Apart(Exception):
    """What was stored must be undone, and the groups stored one by one: an event of a group of several conflicts."""

    def __init__(self, conflict: CallerError) -> None:
        super().__init__(str(conflict))
        self.conflict = conflict


class Held(StoreUnavailable):
    """A transaction of somebody else's, which has not ended, holds an event of the same id, or the whole table."""

    def __init__(self) -> None:
        super().__init__("a transaction that has not ended holds an event of this id; publish it again")


@dataclass(frozen=True, slots=True)
class Straight:
    """What is stored may be claimed by the transaction that stores it."""

    #: Deliveries at most.
    most: int
    #: As for `HotStore.claim`.
    ended: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one transaction stored, and what became of it at once."""

    #: One for each group, in order.
    answers: Sequence[Answer]
    #: The rows of the events that were not there before.
    new: Sequence[int]
    #: What the same transaction fanned out and claimed; null: nothing, the events wait in the queue.
    fanned_out: FannedOut | None = None

    @property
    def claimed(self) -> ClaimedBatch | None:
        """What the same transaction claimed."""
        return None if self.fanned_out is None else self.fanned_out.claimed

    @property
    def queued(self) -> bool:
        """Whether events of its own wait in the queue."""
        return not (self.fanned_out is not None and self.fanned_out.rows.issuperset(self.new))


@dataclass(frozen=True, slots=True)
class Stored:
    """An event that is in the outbox."""

    type: str
    job_id: str | None
    kind: str | None
    data: str
    timestamp: datetime
    created_at: datetime


def independent(groups: Sequence[Group]) -> bool:
    """Whether no group can be stored in part: each is one event, or has only fresh ids."""
    return all(len(group) == 1 or not any(event.repeatable for event in group) for group in groups)


def in_order(groups: Iterable[Group]) -> list[NewEvent]:
    """The events of all groups."""
    return [event for group in groups for event in group]


def answers(groups: Sequence[Group], created: Created, there: Mapping[Key, Stored]) -> list[Answer]:
    """What each group comes to, given what was inserted, and what now stands under the ids that may be repeated.

    Raises `Apart` where a group was inserted in part.
    """
    result: list[Answer] = []
    for group in groups:
        wrong = next((event for event in group if event.key in there and not _same(event, there[event.key])), None)
        if wrong is None:
            result.append({event.key: created.get(event.key) or there[event.key].created_at for event in group})
        elif len(group) > 1:
            raise Apart(wrong.conflict())
        else:
            result.append(wrong.conflict())
    return result


def refused(error: Exception) -> InvalidField:
    """What a publisher is told whose event the database's own checks refuse; never the row, which the error quotes."""
    return InvalidField("data", f"the database refuses this event ({type(error).__name__}); check its text and size")


def _same(event: NewEvent, stored: Stored) -> bool:
    return event.says(stored.type, stored.job_id, stored.kind, stored.data, stored.timestamp)

"""The rows of the model's tables."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from dispatcher.states import AttemptError, DeliveryState, EventKind, Reason

PENDING, SENDING, DELIVERED = DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.DELIVERED
DEAD, SUPERSEDED, CANCELLED = DeliveryState.DEAD, DeliveryState.SUPERSEDED, DeliveryState.CANCELLED
LIVE = (PENDING, SENDING)
NOBODY = 0


_EPOCH = datetime(2026, 1, 1, 12, tzinfo=UTC)


def moment(at: float) -> datetime:
    """A time of the model's clock."""
    return _EPOCH + timedelta(seconds=at)


@dataclass(slots=True)
class Endpoint:
    """An endpoint, matching every event."""

    row: int
    ordered: bool
    max_in_flight: int
    hold_s: float | None
    destination: int
    version: int = 1
    paused: bool = False
    disabled: bool = False
    #: By Retry-After.
    paused_until: float = -math.inf


@dataclass(slots=True)
class Job:
    """A job: how far it is numbered, and what has settled it."""

    row: int
    last_sequence: int = 0
    settled_by: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event, as it was committed."""

    row: int
    id: str
    type: str
    kind: EventKind
    job_id: str | None
    data: str
    created_at: float


@dataclass(slots=True)
class Delivery:
    """A row of `deliveries`, with the log of its attempts: number, error, status."""

    row: int
    event: Event
    endpoint: Endpoint
    job: Job | None
    sequence: int | None
    updated_at: float
    state: DeliveryState = PENDING
    reason: Reason | None = None
    superseded_by: int | None = None
    due_at: float | None = None
    hold_until: float | None = None
    late: bool = False
    #: Neither a retry nor a redelivery.
    fresh: bool = True
    replay: bool = False
    attempts: int = 0
    failures: int = 0
    interruptions: int = 0
    dispatcher_row: int = NOBODY
    previous_sequence: int | None = None
    log: list[tuple[int, AttemptError | None, int | None]] = field(default_factory=list)

    @property
    def lane(self) -> int | None:
        """The job's row, at an ordered endpoint."""
        return self.job.row if self.job is not None and self.endpoint.ordered else None

    @property
    def progress_of(self) -> int | None:
        """The job's row, if it carries progress."""
        return self.job.row if self.job is not None and self.event.kind is EventKind.PROGRESS else None

"""What the service answers about events and what became of them."""

from pydantic import Field

from dispatcher.service.answers import Answer
from dispatcher.service.fields import JsonText, Moment
from dispatcher.states import (
    AttemptError,
    DeliveryState,
    EventKind,
    Reason,
    RunState,
)


class Event(Answer):
    """What happened, as it was published."""

    id: str = Field(examples=["evt_4f9c2d1ab0"])
    tenant: str
    type: str
    job_id: str | None
    kind: EventKind = Field(
        description="`state`: every one is delivered; `progress`: the latest wins; `terminal`: ends its job's progress."
    )
    sequence: int | None = Field(description="Its place among its job's events, from 1; null until it is fanned out.")
    data: JsonText
    timestamp: Moment
    created_at: Moment
    rejected: str | None = Field(
        None, description="Why it was not fanned out, where its row cannot be read as an event; else null."
    )


class Delivery(Answer):
    """One event to one endpoint."""

    id: str = Field(examples=["dlv_0123456789abc"])
    tenant: str
    event_id: str
    endpoint_id: str
    job_id: str | None
    type: str
    sequence: int | None = Field(description="The event's place among its job's events, from 1.")
    state: DeliveryState
    reason: Reason | None
    superseded_by: str | None = Field(description="The event that took its place, if one did.")
    attempts: int
    due_at: Moment | None = Field(description="When it is due; null while it waits: at once.")
    last_status: int | None
    last_error: AttemptError | None
    created_at: Moment
    updated_at: Moment


class Attempt(Answer):
    """One POST of a delivery."""

    id: str = Field(examples=["att_0123456789abc"])
    number: int = Field(description="From 1, over all rounds.")
    started_at: Moment
    duration_ms: float
    status: int | None = Field(description="The answer's HTTP status, if one came.")
    error: AttemptError | None
    response_excerpt: str | None = Field(description="The beginning of the answer's body.")
    request_headers: dict[str, str] = Field(description="What was sent; signatures and static headers read `***`.")


class DeliveryWithLog(Delivery):
    """A delivery with every attempt at it, oldest first."""

    attempt_log: list[Attempt] = Field(
        description="Attempts that have ended. While the state is `sending`, attempt number `attempts` is under way"
        " since `updated_at`; whatever becomes of it, it will be here, as `interrupted` if nobody saw its end."
    )


class EventWithDeliveries(Event):
    """An event with what became of it."""

    deliveries: list[Delivery]


class EventAccepted(Answer):
    """An event that is stored and will be delivered."""

    id: str
    type: str
    job_id: str | None
    created_at: Moment
    warnings: list[str]


class BatchAccepted(Answer):
    """Events that are stored, in the order in which they were given."""

    ids: list[str]


class DeadLetter(Answer):
    """A delivery that was given up."""

    id: str = Field(examples=["dl_0123456789abc"])
    tenant: str
    delivery_id: str
    event_id: str
    endpoint_id: str
    job_id: str | None
    type: str
    reason: Reason
    attempts: int
    last_status: int | None
    last_error: AttemptError | None
    created_at: Moment
    redelivered_at: Moment | None


class DeadLetterCount(Answer):
    """How many dead letters a call took, or would take."""

    matched: int
    dry_run: bool


class RedeliveryAccepted(Answer):
    """A bulk redelivery that dispatchers now work off."""

    id: str | None = Field(description="Null for a dry run.", examples=["rdl_0123456789abc"])
    matched: int
    dry_run: bool


class Redelivery(Answer):
    """How far a bulk redelivery is."""

    id: str
    tenant: str | None
    state: RunState
    matched: int
    done: int = Field(description="Put back so far.")
    delivered: int
    failed: int = Field(description="Put back and dead again.")
    skipped: int = Field(
        description="Could not be put back: disabled or deleted endpoint, in flight already, or progress whose job has"
        " settled or that a newer one took the place of."
    )
    rate_per_s: float | None
    created_at: Moment
    finished_at: Moment | None

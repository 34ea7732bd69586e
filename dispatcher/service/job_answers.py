"""What the service answers about one job: its events, a link to them, and where they stand."""

from pydantic import Field

from dispatcher.service.answers import Answer
from dispatcher.service.fields import JsonText, Moment
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason


class JobEvent(Answer):
    """An event of a job, in its place."""

    id: str = Field(examples=["evt_4f9c2d1ab0"])
    type: str
    sequence: int = Field(description="Its place among the job's events, from 1.")
    timestamp: Moment
    data: JsonText


class JobEvents(Answer):
    """A part of a job's events, in the order of their `sequence`."""

    data: list[JobEvent]
    after: int = Field(description="For the next part, as `after`: the last `sequence` of this one.")
    settled: bool = Field(description="The job has settled, and nothing lies behind `after`.")


class JobLink(Answer):
    """What opens one job's events to whoever has it, without an API key."""

    job_id: str
    tenant: str
    token: str = Field(description="As `?token=`, or as a Bearer key; shown now and never again.", repr=False)
    path: str = Field(description="Of the job's events with the token, below the API's address.", repr=False)
    expires_at: Moment


class WaitingDelivery(Answer):
    """The earliest delivery of a job that an endpoint has not got yet."""

    delivery_id: str = Field(examples=["dlv_0123456789abc"])
    sequence: int
    type: str
    state: DeliveryState
    due_at: Moment | None = Field(description="When it is due; null: at once.")
    attempts: int
    last_status: int | None
    last_error: AttemptError | None


class JobDeadLetter(Answer):
    """A delivery of a job that was given up, and not redelivered since."""

    id: str = Field(examples=["dl_0123456789abc"])
    delivery_id: str
    sequence: int
    type: str
    reason: Reason
    attempts: int
    last_status: int | None
    last_error: AttemptError | None


class JobEndpoint(Answer):
    """What became of a job's events at one endpoint."""

    endpoint_id: str = Field(examples=["ep_0123456789abc"])
    url: str | None = Field(description="Its password and query values read `***`; null: it was deleted long ago.")
    status: EndpointStatus | None = Field(description="Null: it was deleted.")
    disabled_reason: Reason | None
    callback: bool = Field(description="It is a callback of this job.")
    last_sequence: int = Field(description="The highest `sequence` that was attempted; 0: none was.")
    last_status: int | None = Field(description="Of that delivery.")
    last_error: AttemptError | None = Field(description="Of that delivery.")
    pending: int
    sending: int
    delivered: int
    dead: int
    superseded: int
    cancelled: int
    reasons: dict[Reason, int] = Field(description="Why deliveries are dead, superseded or cancelled: how many each.")
    waiting: WaitingDelivery | None = Field(description="The earliest that is pending or sending.")
    dead_letters: list[JobDeadLetter] = Field(description="Newest first; 20 of a job at most.")


class JobStatus(Answer):
    """Where a job's events stand at every endpoint."""

    job_id: str
    tenant: str
    last_sequence: int = Field(description="The `sequence` of its newest event; 0: none is numbered yet.")
    not_fanned_out: int = Field(description="Its events that no dispatcher has looked at yet; 10,000 are looked at.")
    settled: bool
    settled_at: Moment | None
    endpoints: list[JobEndpoint] = Field(
        description="Those that have a delivery of it, and its callbacks; 200 at most."
    )
    more_endpoints: bool

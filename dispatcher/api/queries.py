"""The query parameters of each kind of route; an unknown or repeated one is refused by name."""

from typing import Annotated, TypeVar

from multidict import MultiMapping
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dispatcher.errors import FieldProblem, InvalidField, InvalidFields
from dispatcher.rules.job_links import LONGEST_TOKEN
from dispatcher.service.fields import Moment
from dispatcher.service.jobs import LARGEST_SEQUENCE, LONGEST_WAIT_S
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store.endpoint_fields import invalid_fields, vetted

QueryT = TypeVar("QueryT", bound=BaseModel)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise InvalidField("text", "has a control character or one that is no valid Unicode; leave it out")
    return text


PlainText = Annotated[str, Field(min_length=1, max_length=255), vetted(_printable)]


class TenantQuery(BaseModel):
    """Parameters of every route with a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[
        PlainText | None, Field(description="With the admin key: whose things. A tenant's key sees its own anyway.")
    ] = None


class NoQuery(BaseModel):
    """Parameters of the routes that take none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JwksQuery(BaseModel):
    """Parameters of the public keys for receivers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_id: Annotated[
        PlainText | None, Field(description="Whose keys: each endpoint has its own, and the deployment none.")
    ] = None


class PageQuery(TenantQuery):
    """Parameters of every list."""

    limit: Annotated[int, Field(ge=1, le=200, description="The most entries to answer.")] = 50
    cursor: Annotated[
        PlainText | None, Field(max_length=512, description="`next_cursor` of the page before; unset: the newest.")
    ] = None


class EndpointsQuery(PageQuery):
    """Parameters of the list of endpoints."""

    job_id: Annotated[PlainText | None, Field(description="Only callbacks of this job.")] = None
    status: Annotated[EndpointStatus | None, Field(description="Only endpoints with this status.")] = None


class EventsQuery(PageQuery):
    """Parameters of the list of events."""

    type: Annotated[PlainText | None, Field(description="Only this exact type.")] = None
    job_id: Annotated[PlainText | None, Field(description="Only events of this job.")] = None
    since: Annotated[Moment | None, Field(description="Only what was published at or after this time.")] = None
    until: Annotated[Moment | None, Field(description="Only what was published before this time.")] = None


class DeliveriesQuery(PageQuery):
    """Parameters of the list of deliveries."""

    state: Annotated[DeliveryState | None, Field(description="Only deliveries in this state.")] = None
    endpoint_id: Annotated[PlainText | None, Field(description="Only deliveries to this endpoint.")] = None
    event_id: Annotated[PlainText | None, Field(description="Only deliveries of this event.")] = None
    job_id: Annotated[PlainText | None, Field(description="Only deliveries about this job.")] = None


class DeadLettersQuery(PageQuery):
    """Parameters of the list of dead letters."""

    endpoint_id: Annotated[PlainText | None, Field(description="Only what this endpoint did not get.")] = None
    type: Annotated[PlainText | None, Field(description="Only events of this exact type.")] = None
    reason: Annotated[Reason | None, Field(description="Only what was given up for this reason.")] = None
    job_id: Annotated[PlainText | None, Field(description="Only events of this job.")] = None
    since: Annotated[Moment | None, Field(description="Only what was given up at or after this time.")] = None
    until: Annotated[Moment | None, Field(description="Only what was given up before this time.")] = None
    redelivered: Annotated[bool | None, Field(description="Whether it was redelivered since.")] = None


class JobEventsQuery(TenantQuery):
    """Parameters of a job's events."""

    token: Annotated[
        str | None,
        Field(max_length=LONGEST_TOKEN, description="A link's token, in place of a key.", repr=False),
    ] = None
    after: Annotated[
        int, Field(ge=0, le=LARGEST_SEQUENCE, description="Only events with a higher `sequence`; 0: all.")
    ] = 0
    wait: Annotated[
        float,
        Field(
            ge=0,
            le=LONGEST_WAIT_S,
            allow_inf_nan=False,
            description="Seconds to wait for an event where there is none yet.",
        ),
    ] = 0.0
    limit: Annotated[int, Field(ge=1, le=200, description="The most events to answer; a stream has no limit.")] = 50
    named: Annotated[
        bool, Field(description="Of a stream: give each message its event's type as name, which `onmessage` ignores.")
    ] = False


class StatsQuery(TenantQuery):
    """Parameters of the statistics."""

    per_endpoint: Annotated[bool, Field(description="Counts for each endpoint too.")] = False


def read_query(sent: MultiMapping[str], model: type[QueryT]) -> QueryT:
    """The parameters, typed. Raises `InvalidFields` whose names begin with `?`."""
    given: dict[str, str] = {}
    for name, value in sent.items():
        if name in given:
            raise InvalidField(f"?{name[:80]}", "is given twice; give it once")
        given[name] = value
    try:
        return model.model_validate_strings(given)
    except ValidationError as error:
        raise _refused(error, model) from None


def _refused(error: ValidationError, model: type[BaseModel]) -> InvalidFields:
    known = ", ".join(model.model_fields) or "none"
    return InvalidFields(
        tuple(
            found
            if found.field.lstrip("?") in model.model_fields
            else FieldProblem(found.field, f"is no parameter here; known are: {known}")
            for found in invalid_fields(error, "?").problems
        )
    )

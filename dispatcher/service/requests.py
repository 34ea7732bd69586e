"""What the service is asked: request bodies, vetted field by field, with everything wrong told at once."""

from typing import Annotated, Any, Self

import msgspec
from pydantic import ConfigDict, Field, model_validator

from dispatcher.errors import CallerError, FieldProblem, InvalidField, InvalidFields
from dispatcher.rules.job_links import DEFAULT_S, LONGEST_S
from dispatcher.rules.secrets import Secret
from dispatcher.service.fields import (
    EventId,
    EventType,
    HappenedAt,
    IdempotencyKey,
    JobId,
    Moment,
    Rate,
    SentJson,
    Tenant,
    TraceParent,
)
from dispatcher.service.sent_events import SentEvent, read_event, read_events
from dispatcher.states import EventKind, Reason
from dispatcher.store.endpoint_fields import EndpointFields, GivenFields, PlainText, vetted

#: The most events of one batch.
BATCH_LENGTH = 1000


def _secret(text: str) -> str:
    return Secret.parse(text).text


SecretText = Annotated[str, vetted(_secret)]


class UnreadableJson(CallerError):
    """A request body that is no JSON in UTF-8."""


def _with_aliases(schema: dict[str, Any]) -> None:
    properties = schema["properties"]
    properties["target_url"] = {**properties["url"], "description": "Another name of `url`.", "deprecated": True}
    properties["events"] = {
        **properties["event_types"],
        "description": "Another name of `event_types`.",
        "deprecated": True,
    }
    properties["event_type"] = {
        "type": "string",
        "description": "Another way to write `event_types` with one type.",
        "deprecated": True,
    }
    for alias in ("target_url", "events", "event_type"):
        properties[alias].pop("default", None)
    if "url" in schema.get("required", ()):
        schema["required"].remove("url")
        if not schema["required"]:
            del schema["required"]
        schema["oneOf"] = [{"required": ["url"]}, {"required": ["target_url"]}]


def _for_update(schema: dict[str, Any]) -> None:
    _with_aliases(schema)
    for given in schema["properties"].values():
        given.pop("default", None)


class _EndpointRequest(EndpointFields):
    @model_validator(mode="before")
    @classmethod
    def _read_aliases(cls, payload: Any) -> Any:
        if not isinstance(payload, dict):
            return payload
        fields, problems = dict(payload), []
        for alias, field in (("target_url", "url"), ("events", "event_types"), ("event_type", "event_types")):
            if alias not in payload:
                continue
            value = fields.pop(alias)
            if field in fields:
                problems.append(FieldProblem(alias, f"is another name of {field}; give one of them"))
            else:
                fields[field] = [value] if alias == "event_type" else value
        if problems:
            raise InvalidFields(tuple(problems))
        return fields


_URL = "Where deliveries are POSTed to; kept byte for byte, and encrypted at rest."
_SECRET = "Signs deliveries: `whsec_` and base64, or any text of 8 to 256 characters. Absent: one is made."  # noqa: S105
_SECRET_OR_DEFAULT = _SECRET.replace("Absent:", "Absent: the tenant's default secret, or")


class EndpointCreate(_EndpointRequest):
    """An endpoint to register."""

    model_config = ConfigDict(json_schema_extra=_with_aliases)

    url: PlainText = Field(description=_URL, examples=["https://example.com/hook"], repr=False)
    secret: SecretText | None = Field(
        default=None, description=_SECRET_OR_DEFAULT, examples=["s3cret-text"], repr=False
    )
    tenant: Tenant | None = None


class CallbackCreate(_EndpointRequest):
    """A job's own callback URL."""

    model_config = ConfigDict(json_schema_extra=_with_aliases)

    url: PlainText = Field(description=_URL, examples=["https://example.com/hook"], repr=False)
    secret: SecretText | None = Field(
        default=None, description=_SECRET_OR_DEFAULT, examples=["s3cret-text"], repr=False
    )
    tenant: Tenant | None = None
    expires_in_s: Annotated[float, Field(gt=0, le=3650 * 86400.0, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds after which it matches no new events."
    )


class JobLinkCreate(GivenFields):
    """A link to one job's events."""

    tenant: Tenant | None = None
    expires_in_s: Annotated[float, Field(ge=1, le=LONGEST_S, allow_inf_nan=False)] = Field(
        default=DEFAULT_S, description="How long it holds, in seconds."
    )


class EndpointUpdate(_EndpointRequest):
    """Fields of an endpoint to change; those that are absent stay as they are."""

    model_config = ConfigDict(json_schema_extra=_for_update)

    url: PlainText = Field(default="", description=_URL, examples=["https://example.com/hook"], repr=False)


class RotateSecret(GivenFields):
    """A new secret for an endpoint; both sign while they overlap."""

    secret: SecretText | None = Field(default=None, description=_SECRET, repr=False)
    overlap_s: Annotated[float, Field(ge=0, le=30 * 86400.0, allow_inf_nan=False)] = Field(
        default=86400.0, description="Seconds for which the old secret signs too; 0 switches at once."
    )
    stage: bool = Field(
        default=False, description="Only show it: it signs nothing until it is activated, and then the overlap begins."
    )


class ActivateSecret(GivenFields):
    """A staged secret is to sign."""

    force: bool = Field(default=False, description="Whatever its receiver says: no test event is sent.")


class TenantSecretSet(GivenFields):
    """A tenant's default secret; it and the former one sign while they overlap."""

    secret: SecretText | None = Field(default=None, description=_SECRET, repr=False)
    overlap_s: Annotated[float, Field(ge=0, le=30 * 86400.0, allow_inf_nan=False)] = Field(
        default=86400.0, description="Seconds for which the former secret signs too; 0 switches at once."
    )


class Recover(GivenFields):
    """What an endpoint missed: everything that matches it, was published in a time and was not delivered."""

    since: Moment = Field(description="From when.")
    until: Moment | None = Field(default=None, description="Until when; absent: now.")
    rate_per_s: Rate | None = None


class EventPublish(GivenFields):
    """An event to publish."""

    type: EventType
    data: SentJson
    job_id: JobId | None = None
    kind: Annotated[EventKind, Field(strict=False)] | None = Field(
        default=None, description="What it says about its job; absent: its type decides."
    )
    id: EventId | None = None
    timestamp: HappenedAt | None = Field(default=None, description="When it happened; absent: now.")
    traceparent: TraceParent | None = None
    idempotency_key: IdempotencyKey | None = None
    tenant: Tenant | None = None

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if self.id is not None and self.idempotency_key is not None:
            raise InvalidField("idempotency_key", "stands beside id, which is one already; give one of them")
        return self

    def sent(self) -> SentEvent:
        """It as the service takes it."""
        return SentEvent(**dict(self))


class EventBatch(GivenFields):
    """Events to publish, all or none."""

    events: Annotated[list[EventPublish], Field(min_length=1, max_length=BATCH_LENGTH)]


class DeadLetterFilter(GivenFields):
    """Which dead letters; all of what is given must fit."""

    ids: Annotated[list[PlainText], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="These only.", examples=[["dl_0123456789abc"]]
    )
    endpoint_id: PlainText | None = Field(default=None, description="Of this endpoint.")
    type: PlainText | None = Field(default=None, description="Of events of this type.")
    reason: Annotated[Reason, Field(strict=False)] | None = Field(default=None, description="That died of this.")
    job_id: PlainText | None = Field(default=None, description="About this job.")
    since: Moment | None = Field(default=None, description="That died at this time or later.")
    until: Moment | None = Field(default=None, description="That died before this time.")
    redelivered: bool | None = Field(default=None, description="Whether it was redelivered since.")
    tenant: Tenant | None = None


class DeadLetterRedeliver(DeadLetterFilter):
    """Dead letters to redeliver; without ids or `redelivered`, those that were not redelivered yet."""

    all: bool = Field(default=False, description="Everything, where no filter is given.")
    dry_run: bool = Field(default=False, description="Only count.")
    rate_per_s: Rate | None = None


class DeadLetterDiscard(DeadLetterFilter):
    """Dead letters to forget."""

    all: bool = Field(default=False, description="Everything, where no filter is given.")
    dry_run: bool = Field(default=False, description="Only count.")


def parse_event(raw: bytes) -> SentEvent:
    """An event from a request's body; its data stays the text that was sent.

    Raises `UnreadableJson` for what is no JSON in UTF-8, `InvalidFields` for wrong fields.
    """
    return read_event(raw) or EventPublish.read(_members(raw)).sent()


def parse_event_batch(raw: bytes) -> list[SentEvent]:
    """The events of `{"events": […]}`. Raises like `parse_event`; fields are named `events/3/type`."""
    return read_events(raw, BATCH_LENGTH) or _vetted_batch(raw)


def _vetted_batch(raw: bytes) -> list[SentEvent]:
    members = _members(raw)
    unknown = [FieldProblem(name, "is no field of this; remove it") for name in members if name != "events"]
    if unknown:
        raise InvalidFields(tuple(unknown))
    try:
        items = msgspec.json.decode(members.get("events", b"null"), type=list[msgspec.Raw])
    except msgspec.ValidationError:
        raise InvalidField("events", "is required: a list of events") from None
    if not 1 <= len(items) <= BATCH_LENGTH:
        raise InvalidField("events", f"takes 1 to {BATCH_LENGTH} events, not {len(items)}; split the batch")
    events: list[SentEvent] = []
    problems: list[FieldProblem] = []
    for place, item in enumerate(items):
        at = f"events/{place}/"
        try:
            events.append(EventPublish.read(_members(bytes(item), at), at).sent())
        except InvalidField as error:
            problems += error.problems
    if problems:
        raise InvalidFields(tuple(problems[:50]))
    return events


def _members(raw: bytes, at: str = "") -> dict[str, Any]:
    try:
        raw.decode()
        members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise InvalidField(at.rstrip("/") or "body", "must be a JSON object") from None
    except UnicodeDecodeError:
        raise UnreadableJson("the body is not UTF-8; encode it so") from None
    except msgspec.DecodeError as error:
        raise UnreadableJson(f"the body is no JSON: {error}") from None
    except RecursionError:
        raise UnreadableJson("the body is nested too deeply") from None
    return {name: _value(at + name, value) for name, value in members.items()}


def _value(field: str, value: msgspec.Raw) -> Any:
    name = field.rsplit("/", 1)[-1]
    if name in ("data", "events"):
        return bytes(value).decode()
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidField(field, "is no value that can be read: a number out of range, or a broken text") from None

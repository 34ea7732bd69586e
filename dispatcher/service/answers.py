"""What the service answers: as JSON the same from the API and the command line."""

from typing import Any, Generic, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from dispatcher.service.fields import JsonText, Moment
from dispatcher.states import (
    AttemptError,
    DeliveryState,
    EndpointStatus,
    EventKind,
    Profile,
    Reason,
    RunState,
    SignatureVersion,
)


class Answer(BaseModel):
    """What the service answers; as JSON it is the same from the API and the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def json_bytes(self) -> bytes:
        """UTF-8 JSON, with events' data as it was written."""
        return msgspec.json.encode(self.model_dump())

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """JSON text, with events' data as it was written; `options` are those of `model_dump`."""
        encoded = msgspec.json.encode(self.model_dump(**options))
        return (encoded if indent is None else msgspec.json.format(encoded, indent=indent)).decode()


Item = TypeVar("Item")


class Page(Answer, Generic[Item]):
    """A part of a list, newest first."""

    data: list[Item]
    next_cursor: str | None = Field(description="For the next part, as `cursor`; null: this is the last.")


class ClientCertificate(Answer):
    """A client certificate; neither it nor its key is shown."""

    subject: str = Field(description="Whom it names (RFC 4514).", examples=["CN=dispatcher.example.com"])
    expires_at: Moment
    sha256: str = Field(description="Its fingerprint: SHA-256, in hexadecimal digits.")


class TokenSource(Answer):
    """Where access tokens come from; the secret reads `***`."""

    token_url: str
    client_id: str
    client_secret: str = Field(examples=["***"])
    scope: str | None
    audience: str | None
    auth_method: str


class Endpoint(Answer):
    """A registered callback URL with its policy."""

    id: str = Field(examples=["ep_0123456789abc"])
    tenant: str
    url: str = Field(description="As registered, but its password and query values read `***`.")
    description: str | None
    event_types: list[str]
    status: EndpointStatus = Field(
        description="`enabled`; `paused` matches and keeps, sends nothing; `disabled` matches nothing."
    )
    disabled_reason: Reason | None
    profile: Profile
    ordered: bool
    order_hold_s: float | None
    progress_interval_s: float | None
    heartbeat_s: float | None
    signatures: list[SignatureVersion] = Field(description="What signs: `v1`, and `v1a` where it was chosen.")
    signature_header: str | None
    signature_prefix: str
    headers: dict[str, str] = Field(description="Names of its static headers; values read `***`.")
    rate_limit: float | None
    max_in_flight: int | None
    retry_schedule: list[float] | None
    timeout_s: float | None
    metadata: dict[str, str]
    client_certificate: ClientCertificate | None
    oauth2: TokenSource | None
    job_id: str | None = Field(description="The job that it is bound to, if it is a callback.")
    expires_at: Moment | None
    secret_staged_at: Moment | None = Field(
        description="Since when a new secret waits to be activated; null: none does."
    )
    verified_at: Moment | None = Field(
        description="When its receiver last proved that it wants what is sent to it; where that is demanded, an"
        " endpoint without it is `paused`."
    )
    created_at: Moment
    updated_at: Moment


class EndpointWithSecret(Endpoint):
    """An endpoint, with the secret that is shown this once."""

    secret: str = Field(
        description="What a receiver verifies with, its own or its tenant's default; shown now and never again.",
        repr=False,
    )


class EncryptionRotation(Answer):
    """What a change of the encrypting key came to."""

    key_id: str = Field(description="The key that encrypts now; it tells nothing about the key.")
    total: int = Field(description="Encrypted values, in all.")
    rewrapped: int = Field(description="Brought under that key by this run.")
    remaining: int = Field(description="Still under another key; 0: older keys can be taken out of the ring.")
    unreadable: int = Field(description="Of these: under a key that is not in the ring.")


class PublicKey(Answer):
    """A public key that verifies an endpoint's `v1a` signatures."""

    id: str = Field(description="Its JWK thumbprint (RFC 7638).")
    public_key: str = Field(description="`whpk_` and base64, as Standard Webhooks writes it.")
    staged: bool = Field(description="True: it belongs to a staged secret, and signs nothing yet.")
    retires_at: Moment | None = Field(description="When it stops signing, after a rotation; null: it is the newest.")


class Jwk(Answer):
    """A public key as a JWK (RFC 8037)."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    x: str
    kid: str = Field(description="Its thumbprint (RFC 7638).")
    use: Literal["sig"] = "sig"
    alg: Literal["EdDSA"] = "EdDSA"


class JwkSet(Answer):
    """Public keys as a JWK set (RFC 7517)."""

    keys: list[Jwk]


class TenantSecret(Answer):
    """A tenant's default secret, shown this once."""

    tenant: str
    secret: str = Field(description="What receivers of its endpoints without an own secret verify with.", repr=False)


class TenantQuota(Answer):
    """What a tenant may use at most, how much of it is in use, and whether its endpoints must prove themselves."""

    tenant: str
    max_endpoints: int | None = Field(description="Endpoints at once; null: no limit.")
    events_per_s: float | None = Field(
        description="Events published per second through one process of the API; null: no limit."
    )
    max_payload: int = Field(description="The largest `data` in bytes.")
    verify_endpoints: bool = Field(
        description="Whether its endpoints are sent nothing until they have answered a challenge."
    )
    own: list[str] = Field(description="Which of them were set for this tenant; the others are the deployment's.")
    endpoints: int = Field(description="How many endpoints there are now.")


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


class Key(Answer):
    """An API key; the key itself is kept as a digest only."""

    id: str = Field(examples=["key_0123456789abc"])
    tenant: str | None = Field(description="Whose things it sees; null: every tenant's.")
    scopes: list[str] = Field(description="What it may do.")
    hint: str = Field(description="How the key begins.")
    created_at: Moment
    expires_at: Moment | None = Field(description="Until when it holds; null: until it is revoked.")
    last_used_at: Moment | None = Field(description="To the minute; null: never.")
    revoked_at: Moment | None


class KeyWithSecret(Key):
    """A new API key."""

    key: str = Field(description="Shown now and never again.", repr=False)


class TestResult(Answer):
    """What a test event came to."""

    __test__ = False

    delivered: bool
    status: int | None
    duration_ms: float
    error: AttemptError | None


class VerifyResult(Answer):
    """What a challenge came to."""

    verified: bool = Field(description="Whether the answer repeated the challenge.")
    verified_at: Moment | None
    status: int | None
    duration_ms: float
    error: AttemptError | None


class Waiting(Answer):
    """How many wait, and for how long the oldest has."""

    count: int
    oldest_age_s: float | None = Field(description="Null when there are none.")


class EndpointStats(Answer):
    """What waits for one endpoint."""

    endpoint_id: str
    pending: Waiting
    sending: Waiting
    dead_letters: Waiting


class Stats(Answer):
    """What waits in the whole deployment, or of one tenant."""

    not_fanned_out: Waiting = Field(description="Events that no dispatcher has looked at yet.")
    pending: Waiting = Field(description="Deliveries that wait, those included that are due later.")
    sending: Waiting = Field(description="Deliveries in flight.")
    dead_letters: Waiting = Field(description="Dead letters that were not redelivered.")
    endpoints: list[EndpointStats] | None = Field(description="On request: endpoints for which something waits.")


class Egress(Answer):
    """Where deliveries come from."""

    addresses: list[str]

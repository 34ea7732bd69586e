"""The fields that say how an endpoint is served: vetted once, for the API, the settings' defaults and producers."""

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from dispatcher.errors import FieldProblem, InvalidField, InvalidFields, InvalidSettings
from dispatcher.rules.event_types import check_pattern
from dispatcher.rules.headers import check_signature_header, check_signature_prefix, check_static_headers
from dispatcher.rules.oauth2 import AuthMethod
from dispatcher.settings import Settings
from dispatcher.states import Profile, SignatureVersion
from dispatcher.store import endpoint_credentials
from dispatcher.store.endpoint_rows import ORDER_HOLD_S

_DAY_S = 86400.0


def vetted(check: Callable[..., Any], *arguments: object) -> AfterValidator:
    """A validator from a rule that raises `InvalidField`: its detail becomes the field's problem."""

    def validate(value: Any) -> Any:
        try:
            return check(value, *arguments)
        except InvalidField as error:
            raise PydanticCustomError("refused", "{detail}", {"detail": error.detail}) from None

    return AfterValidator(validate)


def plain_text(text: str) -> str:
    """`text`, which holds no NUL: no database keeps one. Raises `InvalidField`."""
    if "\x00" in text:
        raise InvalidField("text", "must not hold NUL characters; remove \\u0000")
    return text


def _patterns(patterns: list[str]) -> list[str]:
    return list(dict.fromkeys(check_pattern(pattern) for pattern in patterns))


def _with_v1(versions: list[SignatureVersion]) -> list[SignatureVersion]:
    if SignatureVersion.V1 not in versions:
        raise InvalidField("signatures", "must hold v1, which every receiver of Standard Webhooks reads; add it")
    # In this order, each once.
    return [version for version in SignatureVersion if version in versions]


PlainText = Annotated[str, vetted(plain_text)]
Description = Annotated[str, StringConstraints(max_length=500), vetted(plain_text)]
Patterns = Annotated[list[str], Field(min_length=1, max_length=100), vetted(_patterns)]
Headers = Annotated[dict[str, str], vetted(check_static_headers)]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=100), vetted(plain_text)],
        Annotated[str, StringConstraints(max_length=1000), vetted(plain_text)],
    ],
    Field(max_length=50),
]
Seconds = Annotated[float, Field(ge=0, le=30 * _DAY_S, allow_inf_nan=False)]


class GivenFields(BaseModel):
    """Fields that somebody gave: unknown names and wrong types are refused, and what was given is known."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, frozen=True)

    @classmethod
    def read(cls, payload: object, at: str = "") -> Self:
        """The fields from a decoded JSON object. Raises `InvalidFields` with everything that is wrong.

        `at` is put before the names of fields, like `events/3/`.
        """
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            raise invalid_fields(error, at) from None


def invalid_fields(error: ValidationError, at: str = "") -> InvalidFields:
    """Pydantic's findings as ours: each field by its path (`headers/X-Name`), never with its value."""
    problems = []
    for found in error.errors(include_url=False, include_input=False):
        path = "/".join(str(part) for part in found["loc"] if part != "[key]")
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, InvalidField):
            within = f"{at}{path}/" if path else at
            problems += [FieldProblem(within + problem.field, problem.detail) for problem in cause.problems]
            continue
        match found["type"]:
            case "extra_forbidden":
                detail = "is no field of this; remove it, or check its spelling"
            case "missing":
                detail = "is required"
            case "model_type":
                detail = "must be a JSON object"
            case _:
                detail = found["msg"].removeprefix("Value error, ").replace("Input should", "should")
        problems.append(FieldProblem((at + path).rstrip("/") or "body", detail))
    return InvalidFields(tuple(problems))


def _no_control_characters(text: str) -> str:
    if not text.isprintable():
        raise InvalidField("text", "must be one line of printable characters")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=1000), vetted(_no_control_characters)]


class OAuth2Fields(GivenFields):
    """How access tokens are asked for: OAuth2 client credentials."""

    token_url: PlainText = Field(
        description="The token endpoint, under the same rules as a callback URL; password and query values are shown as"
        " `***`.",
        examples=["https://auth.example.com/oauth/token"],
        repr=False,
    )
    client_id: Name
    client_secret: Name = Field(
        description="Secret: shown as `***`; `***` sent back beside the same `token_url` and `client_id` leaves it.",
        repr=False,
    )
    scope: Name | None = None
    audience: Name | None = Field(default=None, description="Asked for by some token endpoints, as `audience`.")
    auth_method: AuthMethod = Field(
        default="client_secret_basic",
        description="How client id and secret are sent: as basic authorization, or in the form.",
    )


class EndpointFields(GivenFields):
    """How an endpoint is served; each field has a default, and `model_fields_set` tells what was given."""

    event_types: Patterns = Field(
        default=["*"],
        description="Exact event types, or `prefix.*` for everything below a prefix; `*` is every type but the"
        " dispatcher's own, which begin with `webhook.`.",
        examples=[["job.completed", "job.step.*"]],
    )
    description: Description | None = Field(default=None, description="A note for people, up to 500 characters.")
    profile: Annotated[Profile, Field(strict=False)] = Field(
        default=Profile.STANDARD,
        description="How an event becomes a body: `standard` wraps data, `flat` lifts its keys to the top, `raw` is"
        " data itself, `a2a-1.0` is an A2A push notification, `cloudevents` and `cloudevents-binary` are CloudEvents in"
        " structured and binary content mode.",
    )
    ordered: bool = Field(default=True, description="Send one job's events one at a time and in order.")
    order_hold_s: Seconds | None = Field(
        default=ORDER_HOLD_S,
        description="Seconds for which a failing delivery holds back its job's later ones; null: until it is settled.",
    )
    progress_interval_s: Annotated[float, Field(gt=0, le=30 * _DAY_S, allow_inf_nan=False)] | None = Field(
        default=None,
        description="The least seconds between two `progress` deliveries of one job; the last one is always sent."
        " null: no limit.",
    )
    heartbeat_s: Annotated[float, Field(ge=10, le=30 * _DAY_S, allow_inf_nan=False)] | None = Field(
        default=None,
        description="After so many seconds (10 or more) without a delivery it is sent a signed `webhook.heartbeat`, so"
        " that silence can be told from a failure. null: never.",
    )
    signatures: Annotated[list[Annotated[SignatureVersion, Field(strict=False)]], vetted(_with_v1)] = Field(
        default=[SignatureVersion.V1],
        description="Signatures in `webhook-signature`: `v1` (HMAC-SHA256) always, `v1a` (ed25519) by choice, which"
        " receivers verify with the endpoint's public keys.",
        examples=[["v1", "v1a"]],
    )
    signature_header: Annotated[str, vetted(check_signature_header)] | None = Field(
        default=None,
        description="A header that carries a hex HMAC-SHA256 of the body, in addition to Standard Webhooks' own.",
        examples=["X-Agent-Signature"],
    )
    signature_prefix: Annotated[str, vetted(check_signature_prefix)] = Field(
        default="", description="Put before that header's value, like `sha256=`.", examples=["sha256="]
    )
    headers: Headers = Field(
        default={},
        description="Static headers of every attempt. Values are secret: shown as `***`, and `***` sent back leaves"
        " them.",
        examples=[{"X-Api-Key": "…"}],
        repr=False,
    )
    rate_limit: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = Field(
        default=None, description="The most attempts per second, in the whole deployment; null: no limit."
    )
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="The most attempts at once, in the whole deployment; null: the deployment's setting."
    )
    retry_schedule: Annotated[list[Seconds], Field(max_length=50)] | None = Field(
        default=None,
        description="Seconds before each retry; `[]`: one attempt only; null: the deployment's schedule.",
        examples=[[5, 300, 1800]],
    )
    timeout_s: Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds for a whole attempt; null: the deployment's setting."
    )
    metadata: Metadata = Field(
        default={}, description="Up to 50 texts of yours by name.", examples=[{"team": "billing"}]
    )
    client_certificate: PlainText | None = Field(
        default=None,
        description="PEM: a certificate, then its chain, for a receiver that asks who connects (mutual TLS). Alone: it"
        " is renewed under the stored key. null: none.",
    )
    client_key: PlainText | None = Field(
        default=None,
        description="PEM: its private key, without a password. Encrypted at rest, and never shown.",
        repr=False,
    )
    oauth2: OAuth2Fields | None = Field(
        default=None,
        description="Access tokens by OAuth2 client credentials, sent as `Authorization: Bearer`. null: none.",
    )

    def columns(self) -> dict[str, Any]:
        """The given fields as `NewEndpoint` takes them."""
        given = {
            name: getattr(self, name)
            for name in EndpointFields.model_fields
            if name in self.model_fields_set and name not in endpoint_credentials.FIELDS
        }
        for name in ("event_types", "retry_schedule", "signatures"):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        return given

    def credentials(self) -> dict[str, Any]:
        """The given fields that are credentials, as `EndpointCredentials` takes them."""
        return self.model_dump(include=self.model_fields_set.intersection(endpoint_credentials.FIELDS))


def endpoint_defaults(settings: Settings) -> dict[str, Any]:
    """What `DISPATCHER_ENDPOINT_DEFAULTS` gives to endpoints that do not say, as `NewEndpoint` takes it.

    Raises `InvalidSettings` that names every wrong field.
    """
    try:
        fields = EndpointFields.read(settings.endpoint_defaults)
        own = sorted(fields.credentials())
        if own:
            # Settings are printed, and what is shown to every receiver proves nothing to any.
            raise InvalidField(own[0], "is an endpoint's own; give it to the endpoint")
        return fields.columns()
    except InvalidField as error:
        raise InvalidSettings(f"DISPATCHER_ENDPOINT_DEFAULTS: {error}") from None

"""What the service answers about callback URLs: their policy, their keys, and whether they take what is sent."""

from typing import Literal

from pydantic import Field

from dispatcher.service.answers import Answer
from dispatcher.service.fields import Moment
from dispatcher.states import (
    AttemptError,
    EndpointStatus,
    Profile,
    Reason,
    SignatureVersion,
)


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


class TestResult(Answer):
    """What a test event came to."""

    __test__ = False

    delivered: bool
    status: int | None
    duration_ms: float
    error: AttemptError | None
    response_excerpt: str | None = Field(
        description="The beginning of the answer's body; or why nothing was sent, where there was no access token."
    )


class VerifyResult(Answer):
    """What a challenge came to."""

    verified: bool = Field(description="Whether the answer repeated the challenge.")
    verified_at: Moment | None
    status: int | None
    duration_ms: float
    error: AttemptError | None = Field(
        description="Why there was no 2xx. Where it is null and `verified` is false, a 2xx came that did not repeat it."
    )

"""What the service answers about who may do what: keys, tenants' secrets and quotas, and the key that encrypts."""

from pydantic import Field

from dispatcher.service.answers import Answer
from dispatcher.service.fields import Moment


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


class EncryptionRotation(Answer):
    """What a change of the encrypting key came to."""

    key_id: str = Field(description="The key that encrypts now; it tells nothing about the key.")
    total: int = Field(description="Encrypted values, in all.")
    rewrapped: int = Field(description="Brought under that key by this run.")
    remaining: int = Field(description="Still under another key; 0: older keys can be taken out of the ring.")
    unreadable: int = Field(description="Of these: under a key that is not in the ring.")

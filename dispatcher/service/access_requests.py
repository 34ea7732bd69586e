"""What the operator is asked for: keys, and what tenants may use."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from dispatcher.errors import InvalidField
from dispatcher.service.fields import Moment, Tenant
from dispatcher.states import Scope
from dispatcher.store.endpoint_fields import GivenFields

#: What a tenant's key can have.
TENANT_SCOPES = (Scope.PUBLISH, Scope.ENDPOINTS, Scope.READ)


class KeyCreate(GivenFields):
    """An API key: of a tenant, or without one for who sees every tenant."""

    tenant: Tenant | None = Field(default=None, description="Whose things it sees; absent: every tenant's.")
    scopes: Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=4)] | None = Field(
        default=None,
        description="What it may do: `publish` events; register and change `endpoints`, and redeliver to them; `read`;"
        " `admin`: everything, of every tenant, so it goes with no `tenant`. Absent: all that a tenant's key can have.",
        examples=[["publish", "read"]],
    )
    expires_at: Moment | None = Field(default=None, description="Until when it holds; absent: until it is revoked.")
    expires_in_s: Annotated[float, Field(ge=1, le=3650 * 86400.0, allow_inf_nan=False)] | None = Field(
        default=None, description="Another way to say it: for so many seconds."
    )

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.tenant is None and self.scopes is None:
            raise InvalidField("tenant", "is required; a key that sees every tenant has none, and names its scopes")
        if self.tenant is not None and Scope.ADMIN in self.allowed:
            raise InvalidField("scopes", "has admin, which is of no tenant; leave admin out, or tenant")
        if self.expires_at is not None and self.expires_in_s is not None:
            raise InvalidField("expires_in_s", "stands beside expires_at; give one of them")
        return self

    @property
    def allowed(self) -> tuple[Scope, ...]:
        """What it may do, each once."""
        given = TENANT_SCOPES if self.scopes is None else self.scopes
        return tuple(scope for scope in Scope if scope in given)


class TenantQuotaUpdate(GivenFields):
    """What of a tenant's quota changes; null: as the settings say."""

    max_endpoints: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default=None, description="Endpoints at once, callbacks that have not expired among them."
    )
    events_per_s: Annotated[float, Field(ge=0.001, le=1_000_000, allow_inf_nan=False)] | None = Field(
        default=None, description="Events published per second through one process of the API, two seconds' at once."
    )
    max_payload: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="The largest `data` in bytes; never more than the deployment takes."
    )
    verify_endpoints: bool | None = Field(
        default=None,
        description="Whether its endpoints, callbacks too, are sent nothing until they have answered a challenge:"
        " stricter or looser than `DISPATCHER_VERIFY_ENDPOINTS`. It holds at once for what is registered, given another"
        " URL or enabled from then on.",
    )

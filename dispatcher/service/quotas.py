"""What a tenant may use at most: endpoints, events per second, bytes of an event; by the settings or its own quota.

With it goes whether its endpoints must prove that they want what is sent to them, which holds wherever they are made.
Quotas hold at the API. Producers write into the database themselves, and the command line is the operator's.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, func, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import OverQuota, TooManyEvents
from dispatcher.rules import pace
from dispatcher.service.models import TenantQuota, TenantQuotaUpdate
from dispatcher.service.remembered import Remembered, Said
from dispatcher.service.scope import tenant_name, within
from dispatcher.settings import Settings
from dispatcher.states import Reason
from dispatcher.store.deployment import Deployment
from dispatcher.store.tables import Tables
from dispatcher.store.tables.declaring import insert_if_absent

#: What a quota is made of.
FIELDS = ("max_endpoints", "events_per_s", "max_payload", "verify_endpoints")
#: How long a process may believe what it read about a quota, in seconds.
BELIEVED_S = 5.0
#: How many seconds' worth of events may be published at once.
BURST_S = 2.0
#: Tenants that are remembered, and tenants whose rate is.
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Quota:
    """What holds for a tenant; null: no limit."""

    max_endpoints: int | None
    events_per_s: float | None
    #: Bytes.
    max_payload: int


class Quotas:
    """Every tenant's quota as this process knows it, and how fast each publishes here."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._remembered: Remembered[Quota] = Remembered(deployment.clock, self._look_up, most=_MOST)
        self._ahead_until: OrderedDict[str, float] = OrderedDict()

    async def of(self, tenant: str) -> Quota:
        """What holds for the tenant, as of `BELIEVED_S` ago or later."""
        quota = self._remembered.at_hand(tenant) or await self._remembered.ask(tenant)
        if quota is None:
            raise LookupError("there is a quota for every tenant")
        return quota

    def admit(self, counts: Mapping[str, int], held: Mapping[str, Quota]) -> None:
        """Counts so many events per tenant, which are about to be published, all or none; `held` are their quotas.

        Raises `TooManyEvents`.
        """
        now = self._deployment.clock.monotonic()
        ahead: dict[str, float] = {}
        for tenant, count in counts.items():
            per_s = held[tenant].events_per_s
            if per_s is None:
                continue
            before, cost_s = self._ahead_until.get(tenant, 0.0), count / per_s
            # However low the rate is, one event may be published at once.
            wait_s = pace.wait_s(before, now, cost_s, max(BURST_S, 1 / per_s))
            if wait_s:
                raise TooManyEvents(f"tenant {tenant} publishes more than the {per_s:g} events/s of its quota", wait_s)
            ahead[tenant] = pace.spent(before, now, cost_s)
        for tenant, until in ahead.items():
            self._ahead_until[tenant] = until
            self._ahead_until.move_to_end(tenant)
        while len(self._ahead_until) > _MOST:
            self._ahead_until.popitem(last=False)

    async def close(self) -> None:
        """Returns when nothing is being read any more."""
        await self._remembered.close()

    async def _look_up(self, tenant: str) -> Said[Quota]:
        async with self._deployment.database.read() as connection:
            own = await _own(connection, self._deployment.database.tables, tenant)
        return Said(_holding(own, self._deployment.settings), BELIEVED_S)


async def show(deployment: Deployment, tenant: str) -> TenantQuota:
    """What holds for a tenant, and what it uses; the caller's right to it was checked. Raises `InvalidField`."""
    named = tenant_name(tenant)
    async with deployment.database.read() as connection:
        return await _view(connection, deployment, named)


async def update(deployment: Deployment, tenant: str, body: TenantQuotaUpdate) -> TenantQuota:
    """Sets what was given; in every process it holds `BELIEVED_S` later at the latest. Raises `InvalidField`."""
    named = tenant_name(tenant)
    quotas = deployment.database.tables.tenant_quotas
    values = {name: getattr(body, name) for name in FIELDS if name in body.model_fields_set}
    async with deployment.database.begin() as connection:
        await hold_room(connection, deployment.database.tables, named)
        if values:
            await connection.execute(quotas.update().where(within(named, quotas.c.tenant)).values(values))
        return await _view(connection, deployment, named)


async def hold_room(connection: AsyncConnection, tables: Tables, tenant: str) -> None:
    """Until the transaction ends, nobody else whom a quota holds registers an endpoint of the tenant."""
    quotas = tables.tenant_quotas

    def insert(sync: Connection) -> None:
        sync.execute(insert_if_absent(sync, quotas).values(tenant=tenant).on_conflict_do_nothing())

    await connection.run_sync(insert)
    await connection.execute(select(quotas.c.tenant).where(within(tenant, quotas.c.tenant)).with_for_update())


async def check_room(connection: AsyncConnection, tables: Tables, tenant: str, most: int) -> None:
    """Raises `OverQuota` where the tenant has more than `most` endpoints, the one just inserted among them."""
    # Counted no further than it matters.
    among = _endpoints(tables, tenant).limit(most + 1).subquery()
    if (await connection.execute(select(func.count()).select_from(among))).scalar_one() > most:
        raise OverQuota(f"tenant {tenant} has the {most} endpoints that its quota allows; delete what it does not need")


async def _view(connection: AsyncConnection, deployment: Deployment, tenant: str) -> TenantQuota:
    tables = deployment.database.tables
    own = await _own(connection, tables, tenant)
    quota = _holding(own, deployment.settings)
    used = select(func.count()).select_from(_endpoints(tables, tenant).subquery())
    return TenantQuota(
        tenant=tenant,
        max_endpoints=quota.max_endpoints,
        events_per_s=quota.events_per_s,
        max_payload=quota.max_payload,
        verify_endpoints=own.get("verify_endpoints", deployment.settings.verify_endpoints),
        own=list(own),
        endpoints=(await connection.execute(used)).scalar_one(),
    )


async def _own(connection: AsyncConnection, tables: Tables, tenant: str) -> dict[str, Any]:
    """What was set for this tenant."""
    quotas = tables.tenant_quotas
    row = (await connection.execute(select(quotas).where(within(tenant, quotas.c.tenant)))).mappings().one_or_none()
    return {} if row is None else {name: row[name] for name in FIELDS if row[name] is not None}


def _holding(own: Mapping[str, Any], settings: Settings) -> Quota:
    return Quota(
        max_endpoints=own.get("max_endpoints", settings.tenant_max_endpoints),
        events_per_s=own.get("events_per_s", settings.tenant_events_per_s),
        max_payload=min(own.get("max_payload", settings.max_payload), settings.max_payload),
    )


def _endpoints(tables: Tables, tenant: str) -> Select[tuple[int]]:
    """A tenant's endpoints, as its quota counts them: callbacks that have expired are gone soon, and stand for none."""
    e = tables.endpoints.c
    expired = and_(e.disabled_reason.is_not(None), e.disabled_reason == Reason.EXPIRED)
    return select(e.row_id).where(within(tenant, e.tenant), e.deleted_at.is_(None), not_(expired))

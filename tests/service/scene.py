"""A deployment with the hot store of its database, so that deliveries come about and end as they really do."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from dispatcher.rules.verdict import Outcome
from dispatcher.service import deliveries, endpoints, events
from dispatcher.service.models import Delivery, EndpointCreate, EndpointWithSecret, EventAccepted, EventPublish
from dispatcher.states import AttemptError, Reason
from dispatcher.store.claimed import Claimed
from dispatcher.store.deployment import Deployment
from dispatcher.store.hot import Finished, HotStore
from tests.clock import FakeClock

URL = "https://example.com/hook?token=abc"


@dataclass(frozen=True, slots=True)
class Scene:
    deployment: Deployment
    store: HotStore
    clock: FakeClock

    async def endpoint(self, tenant: str = "default", **fields: object) -> EndpointWithSecret:
        body = EndpointCreate.read({"url": URL, **fields})
        created, _ = await endpoints.create(self.deployment, body, tenant=tenant)
        return created

    async def publish(self, event_type: str = "job.step", tenant: str = "default", **fields: object) -> EventAccepted:
        body = EventPublish.read({"type": event_type, "data": '{"n":1}', **fields}).sent()
        return await events.publish(self.deployment, body, tenant=tenant)

    async def fan_out(self) -> None:
        while (await self.store.fan_out(1000)).events:
            pass

    async def claim(self) -> list[Claimed]:
        """Begins an attempt at everything that may be sent."""
        claimed: list[Claimed] = []
        while batch := (await self.store.claim(1000)).deliveries:
            claimed += batch
        return claimed

    async def end(self, claimed: list[Claimed], outcome: Outcome) -> None:
        """Ends attempts: delivered, or dead after a 500."""
        delivered = outcome is Outcome.DELIVERED
        await self.store.record(
            [
                Finished(
                    delivery_row=one.delivery_row,
                    endpoint_row=one.endpoint_row,
                    dispatcher_row=self.store.dispatcher_row,
                    attempt=one.attempt,
                    lane=one.lane,
                    outcome=outcome,
                    reason=None if delivered else Reason.EXHAUSTED,
                    error=None if delivered else AttemptError.HTTP_STATUS,
                    status=200 if delivered else 500,
                    failures=0 if delivered else 1,
                    interruptions=0,
                    delay_s=5.0 if outcome is Outcome.RETRY else None,
                    hold_s=900.0,
                    pause_endpoint_s=None,
                    backs_off=False,
                    started_at=self.clock.now(),
                    duration_ms=12.5,
                    excerpt="" if delivered else "no",
                    progress_of=one.progress_of,
                )
                for one in claimed
            ]
        )

    async def die(self) -> None:
        """Everything that was published dies at its first attempt."""
        await self.fan_out()
        while claimed := await self.claim():
            await self.end(claimed, Outcome.DEAD)

    async def deliveries(self, **filters: Any) -> list[Delivery]:
        page = await deliveries.list_page(self.deployment, tenant=None, limit=200, **filters)
        return page.data

    async def patterns(self) -> list[tuple[str, str]]:
        """What events look at: tenant and pattern."""
        listed = self.deployment.database.tables.subscriptions.c
        async with self.deployment.database.read() as connection:
            rows = await connection.execute(select(listed.tenant, listed.pattern).order_by(listed.pattern))
            return [(row.tenant, row.pattern) for row in rows]

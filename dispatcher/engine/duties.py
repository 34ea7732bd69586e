"""The periodic duties: what keeps deliveries going where nobody works at them, and the tables small."""

from collections.abc import Callable, Container

from dispatcher.engine.burial import Burial
from dispatcher.engine.challenging import Challenging
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.expiry import Expiry
from dispatcher.engine.measuring import MEASURE_EVERY_S, Measuring
from dispatcher.engine.reclaiming import Reclaiming
from dispatcher.engine.retaining import Retaining
from dispatcher.engine.schedule import BATCH, STEPS, Duty, Schedule
from dispatcher.engine.telling import Telling
from dispatcher.store import heartbeats, leftovers, own_events, redelivery_runs, verification
from dispatcher.store.deployment import Deployment
from dispatcher.store.hot import HotStore


class Duties(Schedule):
    """Does the duties of one dispatcher's deployment when it is this one's turn."""

    def __init__(
        self,
        deployment: Deployment,
        store: HotStore,
        book: EndpointBook,
        burial: Burial,
        work_made: Callable[[], None],
        held: Callable[[], Container[tuple[int, int]]],
    ) -> None:
        self._store = store
        self._work_made = work_made
        self.reclaiming = Reclaiming(deployment, store, book, work_made, held)
        self.expiry = Expiry(deployment, work_made)
        self.retaining = Retaining(deployment)
        self.measuring = Measuring(deployment)
        telling = Telling(deployment.database, work_made)
        challenging = Challenging(deployment, work_made, beside=self.leave, disable=self.expiry.disable)
        often_s = min(1.0, deployment.settings.lease.total_seconds() / 3)
        duties = (
            Duty("reclaim", often_s, self.reclaiming.reclaim, leftovers.nobodys),
            # What a living dispatcher holds and knows nothing of, or one whose row is gone.
            Duty("reclaim all", 10.0, self.reclaiming.reclaim),
            Duty("pass lanes", 1.0, self._pass_lanes, leftovers.hold_over),
            Duty("redeliver", 1.0, self._redeliver, redelivery_runs.any_running),
            Duty("tell of deaths", 1.0, telling.tell_of_deaths, own_events.untold),
            Duty("heartbeats", 1.0, telling.send_heartbeats, heartbeats.due),
            Duty("challenge", 1.0, challenging.challenge, verification.due),
            Duty("expire callbacks", 10.0, self.expiry.expire_callbacks),
            Duty("expire endpoints", 10.0, self.expiry.expire_endpoints),
            Duty("cancel waiting", 10.0, self.expiry.cancel_waiting),
            Duty("bury unknown", 10.0, burial.of_unknown),
            Duty("retire secrets", 60.0, self.retaining.retire_secrets),
            Duty("retention", 60.0, self.retaining.retain),
            Duty("partitions", 3600.0, self.retaining.make_partitions),
        )
        super().__init__(
            deployment.database, duties, tick_s=often_s, beside=[(self.measuring.measure, MEASURE_EVERY_S)]
        )

    async def _pass_lanes(self) -> None:
        """Lets lanes pass heads that have failed for longer than their endpoint's `order_hold_s`."""
        if await self._store.pass_lanes(BATCH):
            self._work_made()

    async def _redeliver(self) -> None:
        """Steps the bulk redeliveries."""
        async with self._database.read() as connection:
            runs = await redelivery_runs.running(connection, self._database)
        for run in runs:
            for _ in range(STEPS):
                async with self._database.begin() as connection:
                    step = await redelivery_runs.step(connection, self._database, run)
                if step.put_back:
                    self._work_made()
                if step.finished or step.throttled:
                    break

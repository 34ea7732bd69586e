"""Reclaiming: deliveries that stand claimed and nobody works at are taken back, so that they are sent again."""

from collections.abc import Callable, Container, Sequence

from dispatcher import metrics
from dispatcher.engine.attempt import conclude
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.schedule import BATCH, STEPS
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.rules.retry import RetryPolicy
from dispatcher.rules.verdict import Exchange, judge
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store.deployment import Deployment
from dispatcher.store.hot import HotStore, Orphan
from dispatcher.store.keyring import Unreadable

log = logger("dispatcher.duties")


class Reclaiming:
    """Takes deliveries back whose dispatcher died, or whose claim went unanswered; `held` is what this process has."""

    def __init__(
        self,
        deployment: Deployment,
        store: HotStore,
        book: EndpointBook,
        work_made: Callable[[], None],
        held: Callable[[], Container[tuple[int, int]]],
    ) -> None:
        self._clock = deployment.clock
        self._settings = deployment.settings
        self._store = store
        self._book = book
        self._work_made = work_made
        self._held = held

    async def reclaim(self, steps: int = STEPS) -> None:
        """sending → pending for deliveries whose dispatcher's lease has ended; their attempts end as interrupted.

        At most `steps` batches of them.
        """
        for _ in range(steps):
            found = await self._store.orphans(BATCH)
            # After an outage this process's own lease may have ended too: what it still holds has an outcome to come.
            # Asked for now, since a slow statement may have found what was claimed after it was sent.
            held = self._held()
            orphans = [orphan for orphan in found if (orphan.delivery_row, orphan.attempt) not in held]
            if not orphans:
                return
            await self._take_back(orphans)

    async def take_back_unanswered(self) -> None:
        """Gives up what a claim took whose answer was lost: it is this dispatcher's, which knows nothing of it."""
        claimed, held = await self._store.claimed(), self._held()
        unknown = [orphan for orphan in claimed if (orphan.delivery_row, orphan.attempt) not in held]
        if unknown:
            await self._take_back(unknown)

    async def _take_back(self, orphans: Sequence[Orphan]) -> None:
        """sending → pending for deliveries that nobody works at; their attempts end as interrupted."""
        now = self._clock.now()
        batch = []
        for orphan in orphans:
            exchange = Exchange(status=None, error=AttemptError.INTERRUPTED)
            retry, hold_s = await self._policy(orphan.endpoint_row)
            verdict = judge(
                exchange,
                failures=orphan.failures,
                interruptions=orphan.interruptions,
                policy=retry,
                retry_after_max_s=self._settings.retry_after_max.total_seconds(),
            )
            duration_ms = max(0.0, (now - orphan.claimed_at).total_seconds() * 1000)
            batch.append(conclude(orphan, exchange, verdict, hold_s, orphan.claimed_at, duration_ms))
        result = await self._store.record(batch)
        if result.superseded:
            metrics.settled.labels(DeliveryState.SUPERSEDED, Reason.SUPERSEDED).inc(len(result.superseded))
        for finished in batch:
            if finished.delivery_row not in result.lost:
                metrics.attempts.labels(finished.outcome, AttemptError.INTERRUPTED).inc()
                log.warning(
                    "delivery.reclaimed",
                    delivery_id=public_id(Kind.DELIVERY, finished.delivery_row),
                    attempt=finished.attempt,
                    verdict=finished.outcome,
                )
        self._work_made()

    async def _policy(self, endpoint_row: int) -> tuple[RetryPolicy, float | None]:
        try:
            policy = self._book.known(endpoint_row, 0) or await self._book.read(endpoint_row)
        except Unreadable:
            policy = None
        if policy is None:
            return RetryPolicy(self._settings.retry_schedule, self._settings.retry_jitter), None
        return policy.retry, policy.hold_s

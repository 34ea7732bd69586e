"""One attempt: sign → POST → judge. Whatever happens, it ends as an outcome that can be recorded."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from dispatcher import metrics
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.sign import echoed_secrets, sign
from dispatcher.errors import InvalidField, StoreUnavailable
from dispatcher.ids import Kind, public_id
from dispatcher.logs import Level, Line, logger
from dispatcher.redaction import without_echoes
from dispatcher.rules.own_events import HEARTBEAT
from dispatcher.rules.retry import RetryPolicy
from dispatcher.rules.verdict import Exchange, Outcome, Verdict, drop_failed, judge, refused_request
from dispatcher.states import AttemptError, Reason
from dispatcher.store.claimed import Claimed
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_policies import EndpointPolicy
from dispatcher.store.hot import Finished, Orphan
from dispatcher.store.keyring import Unreadable
from dispatcher.transport.client import HttpClient

log = logger("dispatcher.attempt")


class Attempted(Line, gc=False):
    """The line that each attempt leaves in the log."""

    delivery_id: str
    event_id: str
    endpoint_id: str
    type: str
    job_id: str | None
    sequence: int | None
    attempt: int
    max_attempts: int | None
    duration_ms: float
    status: int | None
    error: AttemptError | None
    verdict: Outcome
    reason: Reason | None
    next_in_s: float | None


class Ended(Struct, frozen=True, gc=False):
    """An attempt that ended: what to record, and why an endpoint is to be disabled, if it is."""

    finished: Finished
    disables: Reason | None
    #: From its event's commit to its 2xx, in seconds; null without one.
    waited_s: float | None = None

    @property
    def frees_room(self) -> bool:
        """Whether another attempt may take its place at once: not when its record may pause or disable the endpoint."""
        return self.finished.outcome is Outcome.DELIVERED and not self.finished.pause_endpoint_s


class Attempts:
    """Makes attempts for one dispatcher. `covers` says whether a dispatcher row's lease still lives."""

    def __init__(
        self, deployment: Deployment, client: HttpClient, book: EndpointBook, *, covers: Callable[[int], bool]
    ) -> None:
        self._covers = covers
        self._clock = deployment.clock
        self._client = client
        self._book = book
        self._default_retry = RetryPolicy(deployment.settings.retry_schedule, deployment.settings.retry_jitter)
        self._retry_after_max_s = deployment.settings.retry_after_max.total_seconds()

    async def make(self, claimed: Claimed) -> Ended:
        """Makes the attempt. A cancelled one ends as interrupted, since its POST may have arrived."""
        clock = self._clock
        started_at, started = clock.now(), clock.monotonic()
        if claimed.defect is not None:
            return self._give_up(claimed, claimed.defect)
        policy = self._book.known(claimed.endpoint_row, claimed.endpoint_version)
        try:
            if policy is None:
                policy = await self._book.current(claimed.endpoint_row, claimed.endpoint_version)
                if policy is None:
                    # Deleted since the claim: recording finds that out too, and cancels the delivery.
                    return self.interrupted(claimed)
                # The time that is signed is the time at which the attempt is said to have started.
                started_at = clock.now()
            request = sign(claimed, policy, started_at)
            if self._covers(claimed.dispatcher_row):
                exchange = await self._client.post(request, started_at)
                if exchange.excerpt:
                    exchange = replace(
                        exchange, excerpt=without_echoes(exchange.excerpt, echoed_secrets(policy, request))
                    )
            else:
                # A process that was paused: another may have sent this by now, and what comes after it in its lane.
                exchange = Exchange(status=None, error=AttemptError.INTERRUPTED)
        except (InvalidField, Unreadable) as error:
            return self._give_up(claimed, str(error))
        except (asyncio.CancelledError, StoreUnavailable):
            exchange = Exchange(status=None, error=AttemptError.INTERRUPTED)
        except Exception:
            log.exception("delivery.failed_inside", delivery_id=public_id(Kind.DELIVERY, claimed.delivery_row))
            exchange = Exchange(status=None, error=AttemptError.INTERNAL)
        duration_ms = (clock.monotonic() - started) * 1000
        return self._conclude(claimed, policy, exchange, started_at, duration_ms)

    def interrupted(self, claimed: Claimed) -> Ended:
        """The outcome of an attempt whose end nobody saw."""
        exchange = Exchange(status=None, error=AttemptError.INTERRUPTED)
        return self._conclude(claimed, None, exchange, self._clock.now(), 0.0)

    def _conclude(
        self,
        claimed: Claimed,
        policy: EndpointPolicy | None,
        exchange: Exchange,
        started_at: datetime,
        duration_ms: float,
    ) -> Ended:
        verdict = judge(
            exchange,
            failures=claimed.failures,
            interruptions=claimed.interruptions,
            policy=policy.retry if policy is not None else self._default_retry,
            retry_after_max_s=self._retry_after_max_s,
        )
        if claimed.event_type == HEARTBEAT:
            verdict = drop_failed(verdict)
        finished = conclude(claimed, exchange, verdict, policy.hold_s if policy else None, started_at, duration_ms)
        if verdict.outcome is not Outcome.DELIVERED:
            if log.warns:
                _report("warning", claimed, policy, finished)
            return Ended(finished, verdict.disables)
        if log.informs:
            _report("info", claimed, policy, finished)
        waited_s = (started_at - claimed.created_at).total_seconds() + duration_ms / 1000
        return Ended(finished, None, max(0.0, waited_s))

    def _give_up(self, claimed: Claimed, why: str) -> Ended:
        log.error("delivery.unreadable", delivery_id=public_id(Kind.DELIVERY, claimed.delivery_row), error=why)
        metrics.unreadable.labels("delivery").inc()
        exchange = Exchange(status=None, error=AttemptError.INTERNAL)
        verdict = Verdict(Outcome.DEAD, Reason.UNREADABLE, None, None, False, None)
        if claimed.event_type == HEARTBEAT:
            verdict = drop_failed(verdict)
        finished = conclude(claimed, exchange, verdict, None, self._clock.now(), 0.0)
        if log.warns:
            _report("warning", claimed, None, finished)
        return Ended(finished, None)


def _report(level: Level, claimed: Claimed, policy: EndpointPolicy | None, finished: Finished) -> None:
    log.line(
        Attempted(
            datetime.now(UTC),
            level,
            "delivery.attempted",
            "dispatcher.attempt",
            public_id(Kind.DELIVERY, claimed.delivery_row),
            claimed.event_id,
            public_id(Kind.ENDPOINT, claimed.endpoint_row) if policy is None else policy.endpoint_id,
            claimed.event_type,
            claimed.job_id,
            claimed.sequence,
            claimed.attempt,
            None if policy is None else len(policy.retry.schedule) + 1,
            round(finished.duration_ms, 2),
            finished.status,
            finished.error,
            finished.outcome,
            finished.reason,
            None if finished.delay_s is None else round(finished.delay_s, 3),
        )
    )


def count(batch: Sequence[Ended]) -> None:
    """Counts attempts that ended. Many at once, since one by one it costs as much as signing them."""
    metrics.attempt_seconds.observe_all([ended.finished.duration_ms / 1000 for ended in batch])
    waited_s = [ended.waited_s for ended in batch if ended.waited_s is not None]
    metrics.delivery_seconds.observe_all(waited_s)
    if waited_s:
        metrics.attempts.labels(Outcome.DELIVERED, "").inc(len(waited_s))
    if len(waited_s) == len(batch):
        return
    for finished in (ended.finished for ended in batch if ended.waited_s is None):
        metrics.attempts.labels(finished.outcome, finished.error or "").inc()
        if refused_request(finished.status):
            metrics.refused.inc()


def conclude(
    claimed: Claimed | Orphan,
    exchange: Exchange,
    verdict: Verdict,
    hold_s: float | None,
    started_at: datetime,
    duration_ms: float,
) -> Finished:
    """What to record of an attempt that was judged."""
    outcome = verdict.outcome
    if outcome is Outcome.DELIVERED:
        failures, interruptions = claimed.failures, 0
    else:
        # From the fifth interruption in a row on it counts as a failure, so the verdict says whether it did.
        uncounted = outcome is Outcome.INTERRUPTED
        failures = claimed.failures if uncounted else claimed.failures + 1
        interruptions = claimed.interruptions + 1 if uncounted else 0
    at, watched = (claimed.destination_row, claimed.watched) if isinstance(claimed, Claimed) else (0, False)
    return Finished(
        delivery_row=claimed.delivery_row,
        endpoint_row=claimed.endpoint_row,
        dispatcher_row=claimed.dispatcher_row,
        attempt=claimed.attempt,
        lane=claimed.lane,
        outcome=outcome,
        reason=verdict.reason,
        error=exchange.error,
        status=exchange.status,
        failures=failures,
        interruptions=interruptions,
        delay_s=verdict.delay_s,
        hold_s=hold_s,
        pause_endpoint_s=verdict.pause_endpoint_s,
        backs_off=verdict.backs_off,
        started_at=started_at,
        duration_ms=duration_ms,
        excerpt=exchange.excerpt,
        progress_of=claimed.progress_of,
        destination_row=0 if exchange.of_endpoint_alone else at,
        watched=watched,
    )

"""Patience with the database: what must not be lost is tried again until it is there."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from dispatcher import metrics
from dispatcher.engine.vitals import trying
from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger

log = logger("dispatcher.store")
T = TypeVar("T")


async def patiently(stage: str, work: Callable[[], Awaitable[T]], *, enough: Callable[[], bool] = lambda: False) -> T:
    """Runs `work` until the database answers, with growing pauses of at most two seconds.

    Raises `StoreUnavailable` only where it does not and `enough` says that nobody waits for it any more.
    """

    try:
        with trying():
            return await work()
    except StoreUnavailable as error:
        failures = [error]

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        metrics.store_outages.labels(stage).inc()
        log.warning("store.unavailable", stage=stage, tries=state.attempt_number, error=str(error))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=lambda state: enough(),
        reraise=True,
        before_sleep=report,
    )

    async def run() -> T:
        if failures:
            raise failures.pop()
        with trying():
            return await work()

    return await retrying(run)

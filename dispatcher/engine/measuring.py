"""Measuring: the gauges of the whole deployment, which each process counts for itself."""

from dispatcher import metrics
from dispatcher.errors import StoreUnavailable
from dispatcher.store import gauges
from dispatcher.store.deployment import Deployment

#: Between two counts of all that waits passes so many times what the last one took: while a transaction is left open
#: somewhere, a count reads all that was settled since.
MEASURE_REST = 100
#: Between two counts at the least, in seconds.
MEASURE_EVERY_S = 15.0


class Measuring:
    """Counts what waits in the deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._clock = deployment.clock
        self._database = deployment.database
        self._again_s = 0.0

    async def measure(self) -> None:
        """Refreshes this process's gauges of the whole deployment; seldom where counting takes long."""
        began_s = self._clock.monotonic()
        if began_s < self._again_s:
            return
        try:
            async with self._database.read() as connection:
                measured = await gauges.measure(connection, self._database)
        except StoreUnavailable:
            metrics.store_outages.labels("gauges").inc()
            return
        ended_s = self._clock.monotonic()
        self._again_s = ended_s + MEASURE_REST * (ended_s - began_s)
        for state, count in measured.deliveries.items():
            metrics.backlog.labels(state).set(count)
        metrics.queued.set(measured.queued)
        metrics.dead_letters.set(measured.dead_letters)
        metrics.oldest_waiting_seconds.set(measured.oldest_waiting_s)

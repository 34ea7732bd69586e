"""What a deployment can be watched by, under documented names; one registry, exposed as Prometheus text."""

from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Everything this process exposes.
registry = CollectorRegistry()

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)
_LONG_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 43200, 259200)


class Durations(Histogram):
    """A histogram that is told of many at once."""

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Does what `observe` of each does; for fifty it costs a fifth of that."""
        if not seconds:
            return
        # The first bucket whose upper bound is not below it; the last has none.
        buckets = Count([bisect_left(self._upper_bounds, one) for one in seconds])
        self._sum.inc(sum(seconds))
        for bucket, count in buckets.items():
            self._buckets[bucket].inc(count)


attempts = Counter(
    "dispatcher_attempts_total",
    "Attempts that ended, by outcome (delivered, retry, dead, interrupted) and error (empty: none).",
    ["outcome", "error"],
    registry=registry,
)
settled = Counter(
    "dispatcher_deliveries_settled_total",
    "Deliveries that this process settled, by state and reason (empty: none).",
    ["state", "reason"],
    registry=registry,
)
refused = Counter(
    "dispatcher_requests_refused_total",
    "Answers 400, 401 and 403: the receiver refuses the signature or the request.",
    registry=registry,
)
proxy_failures = Counter(
    "dispatcher_proxy_failures_total",
    "Connections that the egress proxy did not let through: nothing was sent.",
    registry=registry,
)
unreadable = Counter(
    "dispatcher_unreadable_total",
    "Rows that cannot be read: events that were rejected, deliveries that were given up; see the log.",
    ["what"],
    registry=registry,
)
attempt_seconds = Durations(
    "dispatcher_attempt_duration_seconds", "Duration of an attempt.", buckets=_SECONDS, registry=registry
)
delivery_seconds = Durations(
    "dispatcher_time_to_deliver_seconds",
    "From an event's commit (as its row says) to the 2xx.",
    buckets=_LONG_SECONDS,
    registry=registry,
)
in_flight = Gauge(
    "dispatcher_in_flight", "Attempts in flight in this process.", multiprocess_mode="livesum", registry=registry
)
leases_lost = Counter(
    "dispatcher_leases_lost_total",
    "Outcomes that came too late: the lease was lost, nothing was changed.",
    registry=registry,
)
fanned_out = Counter("dispatcher_events_fanned_out_total", "Events that left the outbox.", registry=registry)
deliveries_made = Counter("dispatcher_deliveries_created_total", "Deliveries made by fan-out.", registry=registry)
store_outages = Counter(
    "dispatcher_store_unavailable_total", "Times that the database did not answer.", ["stage"], registry=registry
)
backlog = Gauge(
    "dispatcher_deliveries",
    "Deliveries that are not settled, by state; of the whole deployment.",
    ["state"],
    multiprocess_mode="livemostrecent",
    registry=registry,
)
queued = Gauge(
    "dispatcher_events_queued",
    "Events not fanned out yet; of the whole deployment.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
dead_letters = Gauge(
    "dispatcher_dead_letters",
    "Dead letters that were not redelivered; of the whole deployment.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
oldest_waiting_seconds = Gauge(
    "dispatcher_oldest_waiting_seconds",
    "Age of the oldest delivery that could be sent now; of the whole deployment.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
api_refused = Counter(
    "dispatcher_api_refused_total",
    "Requests to the API that were answered 401, 403 or 429, by problem.",
    ["problem"],
    registry=registry,
)
job_readers = Gauge(
    "dispatcher_job_readers",
    "Long-polls and streams that follow a job's events in this process.",
    multiprocess_mode="livesum",
    registry=registry,
)

"""The database as a model: what `dispatcher.store.hot` promises, in plain Python, event by event and row by row.

Whether a delivery waits behind its lane is not kept but asked for each time; the real stores keep it in a column.
Not modelled: tenants, rate limits, back-off and slow start, callbacks, progress intervals, retention.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from dispatcher.rules.sharing import dice, guaranteed_again, in_turn
from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError, DeliveryState, EventKind, Reason
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.hot import LONGER_THAN_ANY_ATTEMPT_S, FannedOut, Finished, Orphan, Recorded
from tests.simulation.rows import (
    CANCELLED,
    DEAD,
    DELIVERED,
    LIVE,
    NOBODY,
    PENDING,
    SENDING,
    SUPERSEDED,
    Delivery,
    Endpoint,
    Event,
    Job,
    moment,
)


class Model:
    """The tables and the statements. `now` is the database's clock, in seconds; `exclusive`: SQLite, where who
    enrols is alone."""

    def __init__(
        self, now: Callable[[], float], *, per_destination: int, exclusive: bool, per_process: int = 1000
    ) -> None:
        self.now = now
        self.per_process = per_process
        self._claims = 0
        self.per_destination = per_destination
        self.exclusive = exclusive
        self.endpoints: dict[int, Endpoint] = {}
        self.events: dict[int, Event] = {}
        self.jobs: dict[str, Job] = {}
        self.queue: list[Event] = []
        self.deliveries: dict[int, Delivery] = {}
        self.by_lane: dict[tuple[int, int], list[Delivery]] = {}
        #: Pending or sending, by row.
        self.live: dict[int, Delivery] = {}
        self.dispatchers: dict[int, float] = {}
        self._dispatchers_made = 0

    # What producers and operators do.

    def commit(
        self, event_type: str, kind: EventKind, job_id: str | None, data: str, event_id: str | None = None
    ) -> Event:
        """Commits an event, as a producer's transaction does."""
        row = len(self.events) + 1
        kept = EventKind.STATE if job_id is None else kind
        event = Event(row, event_id or f"evt_{row:04}", event_type, kept, job_id, data, self.now())
        self.events[row] = event
        self.queue.append(event)
        return event

    def put_back(self, delivery: Delivery) -> bool:
        """Redelivers; whether it could. Only of what is no progress."""
        if delivery.state in LIVE or delivery.progress_of is not None or delivery.endpoint.disabled:
            return False
        delivery.replay = delivery.replay or delivery.attempts > 0
        delivery.reason = delivery.due_at = delivery.hold_until = None
        delivery.late, delivery.failures, delivery.interruptions = False, 0, 0
        delivery.fresh = False
        self._set(delivery, PENDING)
        return True

    def disable(self, endpoint_row: int, reason: Reason) -> None:
        """Disables an endpoint and cancels what waits for it."""
        endpoint = self.endpoints[endpoint_row]
        endpoint.disabled, endpoint.version = True, endpoint.version + 1
        self.cancel_waiting(reason)

    def cancel_waiting(self, reason: Reason) -> None:
        """Cancels what waits for disabled endpoints, also what came back to waiting since."""
        for delivery in [d for d in self.live.values() if d.endpoint.disabled and d.state is PENDING]:
            delivery.reason = reason
            self._set(delivery, CANCELLED)

    # The statements.

    def enrol(self, lease_s: float) -> int:
        if self.exclusive:
            self.dispatchers.clear()
        self._dispatchers_made += 1
        self.dispatchers[self._dispatchers_made] = self.now() + lease_s
        return self._dispatchers_made

    def lives(self, dispatcher_row: int) -> bool:
        """Whether its lease lives."""
        return self.dispatchers.get(dispatcher_row, -math.inf) > self.now()

    def heartbeat(self, dispatcher_row: int, lease_s: float) -> bool:
        if not self.lives(dispatcher_row):
            return False
        self.dispatchers[dispatcher_row] = self.now() + lease_s
        return True

    def retire(self, dispatcher_row: int) -> None:
        self.dispatchers.pop(dispatcher_row, None)

    def fan_out(self, limit: int) -> FannedOut:
        batch, self.queue = self.queue[:limit], self.queue[limit:]
        made = superseded = 0
        jobs = set()
        for event in batch:
            job = self._number(event)
            if job is not None:
                jobs.add(job.row)
                if event.kind is EventKind.TERMINAL and job.settled_by is None:
                    job.settled_by = event.row
                    superseded += self._supersede(event, self._progress(job))
            for endpoint in self.endpoints.values():
                if not endpoint.disabled:
                    made += 1
                    superseded += self._deliver(event, endpoint, job)
        return FannedOut(
            len(batch),
            made,
            superseded=superseded,
            jobs=frozenset(jobs),
            rows=frozenset(event.row for event in batch),
            ids=[event.id for event in batch],
        )

    def _number(self, event: Event) -> Job | None:
        if event.job_id is None:
            return None
        job = self.jobs.setdefault(event.job_id, Job(len(self.jobs) + 1))
        job.last_sequence += 1
        return job

    def _deliver(self, event: Event, endpoint: Endpoint, job: Job | None) -> int:
        """Makes the delivery; answers how many that superseded, itself included."""
        sequence = job.last_sequence if job is not None else None
        delivery = Delivery(len(self.deliveries) + 1, event, endpoint, job, sequence, self.now())
        self.deliveries[delivery.row] = self.live[delivery.row] = delivery
        if delivery.lane is not None:
            self.by_lane.setdefault((delivery.lane, endpoint.row), []).append(delivery)
        if job is None or event.kind is not EventKind.PROGRESS:
            return 0
        if job.settled_by is not None:
            return self._supersede(self.events[job.settled_by], [delivery])
        older = (d for d in self._progress(job) if d.endpoint is endpoint and d.event.type == event.type)
        return self._supersede(event, [d for d in older if d is not delivery])

    def _progress(self, job: Job) -> Iterator[Delivery]:
        return (d for d in self.live.values() if d.progress_of == job.row and d.state is PENDING)

    def _supersede(self, by: Event, deliveries: Iterable[Delivery]) -> int:
        obsolete = list(deliveries)
        for delivery in obsolete:
            delivery.reason, delivery.superseded_by, delivery.due_at = Reason.SUPERSEDED, by.row, None
            self._set(delivery, SUPERSEDED)
        return len(obsolete)

    def waits(self, delivery: Delivery) -> bool:
        """Whether it is pending behind its lane's head: the first that lives and was not passed."""
        if delivery.lane is None or delivery.late or delivery.state is not PENDING:
            return False
        return self.head(delivery.lane, delivery.endpoint) is not delivery

    def head(self, lane: int, endpoint: Endpoint) -> Delivery | None:
        """The lane's head."""
        there = [d for d in self.by_lane[lane, endpoint.row] if d.state in LIVE and not d.late]
        return min(there, key=lambda d: d.sequence or 0, default=None)

    def _busy(self, delivery: Delivery) -> bool:
        lane = delivery.lane
        return lane is not None and any(d.state is SENDING for d in self.by_lane[lane, delivery.endpoint.row])

    def claim(
        self, dispatcher_row: int, limit: int, ended: Sequence[tuple[int, int]], locked: Collection[int] = ()
    ) -> ClaimedBatch:
        """`locked`: destinations that another process claims for just now."""
        now = self.now()
        waiting: dict[int, list[Delivery]] = {}
        for delivery in self.live.values():
            if delivery.state is PENDING and delivery.due_at is None and not self.waits(delivery):
                waiting.setdefault(delivery.endpoint.row, []).append(delivery)
        willing = sorted(row for row in waiting if self._open(self.endpoints[row], now))
        open_rows = [row for row in willing if self.endpoints[row].destination not in locked]
        contended = len(open_rows) < len(willing)
        if not open_rows:
            return ClaimedBatch((), starved=contended, contended=contended)
        here, there, slots = self._in_flight(set(ended), dispatcher_row)
        spare = {}
        for row in open_rows:
            endpoint = self.endpoints[row]
            left = self.per_destination - there[endpoint.destination]
            spare[row] = max(0, min(endpoint.max_in_flight - here[row], left))
        share = max(1, -(-limit // max(1, sum(map(bool, spare.values())))))
        self._claims += 1
        throw = dice(self._claims)
        candidates: list[tuple[str, int, int, Delivery]] = []
        for row in open_rows:
            mine, room = slots[row], min(spare[row], share)
            free_to_go = sorted((d for d in waiting[row] if not self._busy(d)), key=lambda d: d.row)
            fresh = [d for d in free_to_go if d.fresh][:room]
            again = [d for d in free_to_go if not d.fresh][: max(room - len(fresh), guaranteed_again(room, throw))]
            heads: dict[object, tuple[int, Delivery]] = {}
            for place, delivery in enumerate((again + fresh)[:room], mine + 1):
                lane = ("alone", delivery.row) if delivery.lane is None else delivery.lane
                if lane not in heads or (delivery.sequence or 0) < (heads[lane][1].sequence or 0):
                    heads[lane] = place, delivery
            candidates += [("default", place, delivery.row, delivery) for place, delivery in heads.values()]
        going = []
        for candidate in sorted(candidates, key=lambda candidate: candidate[1:3]):
            destination = candidate[3].endpoint.destination
            if there[destination] < self.per_destination:
                there[destination] += 1
                going.append(candidate)
        held, per_process = slots.total(), self.per_process
        picked = in_turn(going, {"default": held}, free=per_process - held, slots=per_process, most=limit)
        if not self.lives(dispatcher_row):
            picked = []
        claimed = [self._begin(delivery, dispatcher_row) for delivery in picked]
        return ClaimedBatch(claimed, limited=len(claimed) >= min(limit, share), starved=True, contended=contended)

    def _open(self, endpoint: Endpoint, now: float) -> bool:
        return not endpoint.paused and not endpoint.disabled and endpoint.paused_until <= now

    def _in_flight(
        self, ended: set[tuple[int, int]], dispatcher_row: int
    ) -> tuple[Counter[int], Counter[int], Counter[int]]:
        """By endpoint, by destination, and by endpoint in this dispatcher's slots."""
        flying = [d for d in self.live.values() if d.state is SENDING and (d.row, d.attempts) not in ended]
        mine = Counter(d.endpoint.row for d in flying if d.dispatcher_row == dispatcher_row)
        return Counter(d.endpoint.row for d in flying), Counter(d.endpoint.destination for d in flying), mine

    def _begin(self, d: Delivery, dispatcher_row: int) -> Claimed:
        if d.lane is not None and d.previous_sequence is None:
            before = (b.sequence or 0 for b in self.by_lane[d.lane, d.endpoint.row] if b.attempts > 0)
            d.previous_sequence = max((sequence for sequence in before if sequence < (d.sequence or 0)), default=0)
        d.attempts, d.dispatcher_row = d.attempts + 1, dispatcher_row
        self._set(d, SENDING)
        return Claimed(
            delivery_row=d.row,
            endpoint_row=d.endpoint.row,
            endpoint_version=d.endpoint.version,
            dispatcher_row=dispatcher_row,
            attempt=d.attempts,
            failures=d.failures,
            interruptions=d.interruptions,
            lane=d.lane,
            sequence=d.sequence,
            previous_sequence=d.previous_sequence,
            late=d.late,
            replay=d.replay,
            body_profile="standard",
            event_id=d.event.id,
            event_type=d.event.type,
            job_id=d.event.job_id,
            timestamp=moment(d.event.created_at),
            created_at=moment(d.event.created_at),
            traceparent=None,
            data=d.event.data,
            progress_of=d.progress_of,
            destination_row=d.endpoint.destination,
        )

    def holds(self, delivery_row: int, attempt: int, dispatcher_row: int) -> bool:
        """The fence: whether the attempt is still the one under way."""
        d = self.live.get(delivery_row)
        return d is not None and (d.state, d.attempts, d.dispatcher_row) == (SENDING, attempt, dispatcher_row)

    def record(self, batch: Sequence[Finished]) -> Recorded:
        kept = [f for f in batch if self.holds(f.delivery_row, f.attempt, f.dispatcher_row)]
        lanes = [self.by_lane[f.lane, f.endpoint_row] for f in kept if f.lane is not None]
        waited = [d for lane in lanes for d in lane if self.waits(d)]
        superseded = set()
        for finished in kept:
            delivery = self.live[finished.delivery_row]
            delivery.log.append((finished.attempt, finished.error, finished.status))
            self._end(delivery, finished)
            if delivery.state is SUPERSEDED:
                superseded.add(delivery.row)
            if finished.pause_endpoint_s and finished.error not in (AttemptError.INTERRUPTED, AttemptError.INTERNAL):
                until = self.now() + finished.pause_endpoint_s
                delivery.endpoint.paused_until = max(delivery.endpoint.paused_until, until)
        return Recorded(
            frozenset(f.delivery_row for f in batch) - {f.delivery_row for f in kept},
            any(not self.waits(d) for d in waited),
            superseded=frozenset(superseded),
        )

    def _end(self, d: Delivery, finished: Finished) -> None:
        d.dispatcher_row = NOBODY
        if finished.outcome is Outcome.DELIVERED:
            d.failures = d.interruptions = 0
            d.reason = d.due_at = None
            self._set(d, DELIVERED)
            return
        d.failures, d.interruptions = finished.failures, finished.interruptions
        d.fresh = d.fresh and finished.failures == 0
        newer = self.took_its_place(d)
        if newer is not None:
            d.reason, d.superseded_by = Reason.SUPERSEDED, newer
            self._set(d, SUPERSEDED)
        elif finished.outcome is Outcome.DROPPED:
            d.reason = finished.reason
            self._set(d, SUPERSEDED)
        elif finished.outcome is Outcome.DEAD:
            d.reason = finished.reason
            self._set(d, DEAD)
        elif d.endpoint.disabled:
            d.reason = Reason.GONE
            self._set(d, CANCELLED)
        else:
            d.due_at = self.now() + finished.delay_s if finished.delay_s else None
            if d.lane is not None and finished.failures > 0 and d.hold_until is None and finished.hold_s is not None:
                d.hold_until = self.now() + finished.hold_s
            self._set(d, PENDING)

    def took_its_place(self, d: Delivery) -> int | None:
        """The event that took the place of progress that is under way: its job's end, or newer progress."""
        if d.job is None or d.progress_of is None:
            return None
        if d.job.settled_by is not None:
            return d.job.settled_by
        newer = [
            n
            for n in self.deliveries.values()
            if (n.progress_of, n.endpoint, n.event.type) == (d.progress_of, d.endpoint, d.event.type)
            and (n.sequence or 0) > (d.sequence or 0)
        ]
        waiting, attempted = [n for n in newer if n.state is PENDING], [n for n in newer if n.attempts > 0]
        return max(waiting or attempted, key=lambda n: n.sequence or 0).event.row if waiting or attempted else None

    def release(self, dispatcher_row: int, batch: Sequence[Claimed]) -> list[Delivery]:
        released = [self.live[c.delivery_row] for c in batch if self.holds(c.delivery_row, c.attempt, dispatcher_row)]
        for delivery in released:
            newer = self.took_its_place(delivery)
            delivery.attempts, delivery.dispatcher_row = delivery.attempts - 1, NOBODY
            delivery.reason = Reason.SUPERSEDED if newer is not None else None
            delivery.superseded_by = newer
            self._set(delivery, PENDING if newer is None else SUPERSEDED)
        return released

    def make_due(self, limit: int) -> tuple[int, float | None]:
        now = self.now()
        put_off = sorted((d.due_at, d.row) for d in self.live.values() if d.state is PENDING and d.due_at is not None)
        due = [row for due_at, row in put_off if due_at <= now][:limit]
        for row in due:
            self.live[row].due_at = None
        left = put_off[len(due) :]
        return len(due), left[0][0] - now if left else None

    def pass_lanes(self, limit: int) -> int:
        now = self.now()
        passed = 0
        for d in list(self.live.values()):
            if d.state is PENDING and d.hold_until is not None and d.hold_until <= now and not d.late and d.lane:
                behind = (b for b in self.by_lane[d.lane, d.endpoint.row] if b.state in LIVE and not b.late)
                if passed < limit and any((b.sequence or 0) > (d.sequence or 0) for b in behind):
                    d.late = True
                    passed += 1
        return passed

    def orphans(self, limit: int) -> list[Orphan]:
        now = self.now()
        return [
            self._orphan(d)
            for d in self.live.values()
            if d.state is SENDING
            and (d.updated_at < now - LONGER_THAN_ANY_ATTEMPT_S or not self.lives(d.dispatcher_row))
        ][:limit]

    def claimed(self, dispatcher_row: int) -> list[Orphan]:
        mine = (d for d in self.live.values() if d.state is SENDING and d.dispatcher_row == dispatcher_row)
        return [self._orphan(d) for d in mine]

    def _orphan(self, d: Delivery) -> Orphan:
        counted = d.attempts, d.failures, d.interruptions
        return Orphan(d.row, d.endpoint.row, d.dispatcher_row, *counted, d.lane, moment(d.updated_at), d.progress_of)

    def _set(self, delivery: Delivery, state: DeliveryState) -> None:
        delivery.state, delivery.updated_at = state, self.now()
        if state in LIVE:
            self.live[delivery.row] = delivery
        else:
            self.live.pop(delivery.row, None)

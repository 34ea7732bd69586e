"""What the simulation holds against the engine: the promises of the design, checked as each thing happens."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from dispatcher.rules.verdict import INTERRUPTIONS_FORGIVEN, Exchange, Outcome
from dispatcher.states import AttemptError, EventKind, Reason
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import Finished
from dispatcher.transport.client import Request
from tests.simulation.loop import World
from tests.simulation.model import Model
from tests.simulation.rows import DEAD, LIVE, PENDING, SENDING, SUPERSEDED, Delivery

if TYPE_CHECKING:
    from tests.simulation.process import Process


@dataclass(slots=True, eq=False)
class Attempt:
    """An attempt, as it is seen from outside."""

    delivery: Delivery
    number: int
    process: "Process"
    dispatcher_row: int
    #: When its claim's answer reached the engine.
    handed_at: float | None = None
    posted_at: float | None = None
    in_flight: bool = False
    #: What the engine was told of its POST.
    exchange: Exchange | None = None
    #: The database's clock was set while it was under way: no lease can promise anything then.
    excused: bool = False

    def __str__(self) -> str:
        event = self.delivery.event
        return f"{event.id}#{self.number} to {self.delivery.endpoint.row}"


@dataclass(slots=True)
class Ledger:
    """The attempts so far, and the checks. Whatever is wrong goes to `World.broken`."""

    world: World
    model: Model
    max_in_flight: int
    schedule: tuple[float, ...]
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    #: What is on the wire.
    flying: dict[Attempt, None] = field(default_factory=dict)
    #: By delivery: how much of its log belongs to earlier rounds.
    rounds: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    bodies: dict[int, bytes] = field(default_factory=dict)
    settled_lanes: set[tuple[int, int]] = field(default_factory=set)

    def fail(self, promise: str, detail: object) -> None:
        """Notes a broken promise."""
        self.world.broken.append(f"{promise}: {detail}")
        self.world.note("!", "broken", f"{promise}: {detail}")

    def excuse(self) -> None:
        """The database's clock was set."""
        for attempt in self.attempts.values():
            attempt.excused = True

    def valid(self, attempt: Attempt) -> bool:
        """Whether the database says that this attempt is under way."""
        d = attempt.delivery
        return (d.state, d.attempts, d.dispatcher_row) == (SENDING, attempt.number, attempt.dispatcher_row)

    # Claims.

    def claimed(self, process: "Process", batch: Sequence[Claimed], ended: Sequence[tuple[int, int]]) -> None:
        """A claim was committed."""
        for claimed in batch:
            delivery = self.model.deliveries[claimed.delivery_row]
            attempt = Attempt(delivery, claimed.attempt, process, claimed.dispatcher_row)
            if (delivery.row, claimed.attempt) in self.attempts:
                self.fail("attempts are numbered", f"{attempt} was begun before")
            self.attempts[delivery.row, claimed.attempt] = attempt
            self._check_right(attempt)
            self._check_lane(attempt)
        over = set(ended)
        for endpoint_row in {claimed.endpoint_row for claimed in batch}:
            endpoint = self.model.endpoints[endpoint_row]
            counted = sum(
                d.state is SENDING and d.endpoint is endpoint and (d.row, d.attempts) not in over
                for d in self.model.live.values()
            )
            if counted > endpoint.max_in_flight:
                self.fail("caps hold", f"{counted} claimed for endpoint {endpoint_row}")

    def _check_right(self, attempt: Attempt) -> None:
        d = attempt.delivery
        if not self.model.lives(attempt.dispatcher_row):
            self.fail("a claim needs a lease", attempt)
        if d.endpoint.paused or d.endpoint.disabled or d.endpoint.paused_until > self.model.now():
            self.fail("a pause holds", attempt)
        if d.job is not None and d.event.kind is EventKind.PROGRESS and d.job.settled_by is not None:
            self.fail("terminal last", f"{attempt} claimed after its job's end")

    def _check_lane(self, attempt: Attempt) -> None:
        d = attempt.delivery
        if d.lane is None or d.sequence is None:
            return
        for other in self.model.by_lane[d.lane, d.endpoint.row]:
            if other is d or other.sequence is None:
                continue
            if other.state is SENDING:
                self.fail("one in flight per lane", f"{attempt} beside {other.event.id}")
            if not d.late and other.sequence < d.sequence and other.state in LIVE and not other.late:
                self.fail("order per lane", f"{attempt} before {other.event.id}")

    def handed(self, batch: Sequence[Claimed]) -> None:
        """The engine knows what it has claimed."""
        for claimed in batch:
            self.attempts[claimed.delivery_row, claimed.attempt].handed_at = self.world.time

    def released(self, deliveries: Sequence[Delivery]) -> None:
        """Attempts were taken back."""
        for delivery in deliveries:
            attempt = self.attempts.pop((delivery.row, delivery.attempts + 1), None)
            if attempt is None or attempt.posted_at is not None:
                self.fail("only what was not begun is released", attempt or delivery.event.id)

    def made_due(self, row: int, due_at: float) -> None:
        """A retry was made due."""
        if due_at > self.model.now():
            self.fail("retries wait for their time", self.model.deliveries[row].event.id)

    # POSTs.

    def posting(self, process: "Process", request: Request) -> Attempt | None:
        """A POST begins; null: nobody asked for it."""
        event_id, number = request.headers["webhook-id"], int(request.headers["x-delivery-attempt"])
        endpoint_row = int(request.url.name)
        delivery = next(
            (d for d in self.model.deliveries.values() if d.event.id == event_id and d.endpoint.row == endpoint_row),
            None,
        )
        attempt = None if delivery is None else self.attempts.get((delivery.row, number))
        if delivery is None or attempt is None:
            self.fail("no phantom", f"{event_id}#{number} to {endpoint_row}")
            return None
        if attempt.posted_at is not None:
            self.fail("an attempt is one POST", attempt)
        attempt.posted_at, attempt.in_flight = self.world.time, True
        rightful = self.valid(attempt) and self.model.lives(attempt.dispatcher_row)
        if not rightful and not attempt.excused:
            self.fail("only who holds the lease sends", attempt)
        if process.stopping_at is not None and (attempt.handed_at or 0.0) > process.stopping_at:
            self.fail("no claims after the stop", attempt)
        if self.bodies.setdefault(delivery.row, sha256(request.body).digest()) != sha256(request.body).digest():
            self.fail("same bytes", attempt)
        self._check_flight(attempt)
        self.flying[attempt] = None
        return attempt

    def _check_flight(self, attempt: Attempt) -> None:
        d = attempt.delivery
        beside = [other for other in self.flying if self.valid(other) and not other.excused]
        if d.lane is not None:
            lane = d.lane, d.endpoint.row
            for other in beside:
                if (other.delivery.lane, other.delivery.endpoint.row) == lane and not attempt.excused:
                    self.fail("one in flight per lane", f"{attempt} beside {other}")
            if d.event.kind is EventKind.TERMINAL:
                self.settled_lanes.add(lane)
            elif d.event.kind is EventKind.PROGRESS and lane in self.settled_lanes and not attempt.excused:
                self.fail("terminal last", attempt)
        if sum(other.delivery.endpoint is d.endpoint for other in beside) >= d.endpoint.max_in_flight:
            self.fail("caps hold", f"{attempt} at its endpoint")
        if sum(other.delivery.endpoint.destination == d.endpoint.destination for other in beside) >= (
            self.model.per_destination
        ):
            self.fail("caps hold", f"{attempt} at its destination")
        if sum(other.process is attempt.process for other in self.flying) >= self.max_in_flight:
            self.fail("caps hold", f"{attempt} in its process")

    def posted(self, attempt: Attempt, exchange: Exchange | None) -> None:
        """A POST is over; `exchange`: what the engine knows of it."""
        self.flying.pop(attempt, None)
        attempt.in_flight, attempt.exchange = False, exchange

    # Records.

    def recording(self, process: "Process", batch: Sequence[Finished]) -> None:
        """Outcomes are about to be recorded."""
        if len({finished.delivery_row for finished in batch}) < len(batch):
            self.fail("a batch holds a delivery once", [finished.delivery_row for finished in batch])
        for finished in batch:
            attempt = self.attempts.get((finished.delivery_row, finished.attempt))
            if attempt is None:
                if self.model.holds(finished.delivery_row, finished.attempt, finished.dispatcher_row):
                    self.fail("an outcome belongs to an attempt", finished)
            elif self.valid(attempt) and attempt.dispatcher_row == finished.dispatcher_row:
                self._check_outcome(process, attempt, finished)
                self._check_counts(attempt, finished)

    def _check_outcome(self, process: "Process", attempt: Attempt, finished: Finished) -> None:
        known = attempt.exchange
        if (finished.outcome is Outcome.DELIVERED) is not (finished.error is None):
            self.fail("delivered is what was accepted", attempt)
        if finished.error is AttemptError.INTERRUPTED:
            forgotten = known is not None or attempt.in_flight
            its_own = attempt.process is process or self.model.lives(attempt.dispatcher_row)
            if forgotten and its_own and not attempt.excused:
                self.fail("a known outcome is recorded", f"{attempt} was {known or 'in flight'}")
        elif known is None or (known.status, known.error) != (finished.status, finished.error):
            self.fail("what happened is on record", f"{attempt}: {finished.error or finished.status}, was {known}")

    def _check_counts(self, attempt: Attempt, finished: Finished) -> None:
        d = attempt.delivery
        log = [*d.log[self.rounds[d.row] :], (finished.attempt, finished.error, finished.status)]
        failures = interruptions = 0
        for _, error, _ in log:
            if error is AttemptError.INTERRUPTED and interruptions < INTERRUPTIONS_FORGIVEN:
                interruptions += 1
            else:
                interruptions = 0
                failures += error is not None
        if finished.outcome is not Outcome.DELIVERED and (finished.failures, finished.interruptions) != (
            failures,
            interruptions,
        ):
            self.fail("attempts are counted once", f"{attempt}: {finished.failures} failures, were {failures}")
        if finished.reason is Reason.EXHAUSTED and failures != len(self.schedule) + 1:
            self.fail("given up after the schedule", f"{attempt}: {failures} failures")
        if finished.outcome is Outcome.RETRY and (finished.delay_s or 0.0) < self.schedule[failures - 1]:
            self.fail("retries keep their schedule", f"{attempt}: {finished.delay_s}")

    def recorded(self) -> None:
        """Outcomes were recorded: of each delivery that changed, the log is complete."""
        for delivery in self.model.deliveries.values():
            self.check_log(delivery)

    def check_log(self, delivery: Delivery) -> None:
        """Attempts are on record once each, without gaps, up to the one under way."""
        begun = delivery.attempts - (delivery.state is SENDING)
        if len(delivery.log) != begun or (delivery.log and delivery.log[-1][0] != begun):
            self.fail("every attempt is on record once", f"{delivery.event.id}: {delivery.log}, {begun} ended")

    # The end of a process, and of everything.

    def retired(self, process: "Process", dispatcher_row: int) -> None:
        """A stop has given the lease back."""
        if process.troubled:
            return
        for attempt in self.attempts.values():
            if attempt.dispatcher_row == dispatcher_row and self.valid(attempt) and attempt.handed_at is not None:
                self.fail("a clean stop leaves nothing", attempt)

    def settled(self) -> bool:
        """Whether nothing waits any more."""
        return not self.model.queue and not self.model.live

    def check_end(self) -> None:
        """Everything has ended, each with its reason."""
        model = self.model
        for event in model.queue:
            self.fail("nothing lost", f"{event.id} was not fanned out")
        made = {(d.event.row, d.endpoint.row) for d in model.deliveries.values()}
        for endpoint in model.endpoints.values():
            if not endpoint.disabled:
                for event in model.events.values():
                    if (event.row, endpoint.row) not in made:
                        self.fail("nothing lost", f"{event.id} has no delivery to {endpoint.row}")
        for d in model.deliveries.values():
            self.check_log(d)
            if d.state in LIVE:
                why = f"due at {d.due_at}" if d.state is PENDING else "sending"
                self.fail("nothing stuck", f"{d.event.id} to {d.endpoint.row}, {d.state}, {why}, {d.log}")
            elif d.state is SUPERSEDED:
                if d.event.kind is not EventKind.PROGRESS or d.superseded_by is None:
                    self.fail("only progress is superseded", d.event.id)
            elif d.state is DEAD and d.reason is None:
                self.fail("each end has its reason", d.event.id)
            elif d.reason is None and d.log[-1:] != [(d.attempts, None, 200)]:
                self.fail("delivered is what was accepted", f"{d.event.id}: {d.log}")

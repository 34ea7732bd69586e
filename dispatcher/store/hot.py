"""The few statements that carry the load, as one small interface with one implementation per database.

Everything works in sets: fan out a batch, claim a batch, record a batch. What a dispatcher may touch is fenced
by its own row in `dispatchers` and by the attempt's number: a change that finds the lease lost changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from dispatcher.rules.verdict import Outcome
from dispatcher.settings import Settings
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store.claimed import Claimed, ClaimedBatch

if TYPE_CHECKING:
    from dispatcher.store.ingest import Group, Ingested, Straight

_UNREACHED = frozenset(
    {AttemptError.CONNECTION_REFUSED, AttemptError.CONNECT_TIMEOUT, AttemptError.DNS, AttemptError.TLS}
)
#: Why an event is rejected that is in the queue only.
NO_EVENT = "it is in the queue, and its row is gone"
#: What goes wrong behind a connection. A whole attempt has more time than its connection.
_CONNECTED = frozenset(
    {AttemptError.TIMEOUT, AttemptError.CONNECTION_RESET, AttemptError.PROTOCOL, AttemptError.BODY_TOO_LARGE}
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a claim is held back; for the whole deployment, but for the slots of a process."""

    #: Attempts at once to one endpoint that says nothing else.
    per_endpoint: int
    per_destination: int
    #: Attempts at once in one process.
    per_process: int
    #: Of jobs' callbacks to a destination that never answered 2xx: attempts at once, and per second.
    per_unverified: int
    unverified_rate: float

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The limits of the settings."""
        return cls(
            settings.max_in_flight_per_endpoint,
            settings.max_in_flight_per_destination,
            settings.max_in_flight,
            settings.max_in_flight_per_unverified_destination,
            settings.unverified_rate,
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that left the queue without being fanned out."""

    event_row: int
    reason: str


@dataclass(frozen=True, slots=True)
class FannedOut:
    """What one fan-out did: how many events left the queue (the rejected, too), how many deliveries they became."""

    events: int
    deliveries: int
    _: KW_ONLY
    #: Deliveries that were superseded by it, those included that it made so.
    superseded: int = 0
    #: Whether progress was put off that may go when its endpoint's interval has passed.
    held: bool = False
    #: Whether callbacks wait to be told what their jobs ended with.
    catch_up: bool = False
    #: The rows of the jobs whose events it numbered: what readers of those jobs wait for.
    jobs: frozenset[int] = frozenset()
    rejected: Sequence[Rejected] = ()
    #: The events that left the queue, and the ids of those that it found.
    rows: frozenset[int] = field(default=frozenset(), compare=False)
    ids: Sequence[str] = field(default=(), compare=False)
    #: Another connection was fanning out, perhaps too early to see what is to be: look again in a moment.
    contended: bool = False
    #: What the same transaction claimed; null where it claimed nothing, or was not to.
    claimed: ClaimedBatch | None = None
    #: There is something else to claim, which the same transaction did not try.
    others: bool = False

    @property
    def left(self) -> bool:
        """Whether there may be something to claim that was not claimed along with it."""
        claimed = self.claimed or ClaimedBatch(())
        # Others may have been claimed in place of these.
        ours = set(self.ids)
        sent = sum(one.event_id in ours for one in claimed.deliveries)
        # What it superseded may have been the head of a lane, which goes on.
        return self.deliveries > sent or self.superseded > 0 or bool(claimed.homeless)


class Finished(Struct, frozen=True, gc=False):
    """The outcome of an attempt, ready to be recorded."""

    delivery_row: int
    endpoint_row: int
    dispatcher_row: int
    attempt: int
    lane: int | None
    outcome: Outcome
    reason: Reason | None
    error: AttemptError | None
    status: int | None
    #: Of this round, after this attempt.
    failures: int
    #: In a row, after this attempt.
    interruptions: int
    #: Null: due at once.
    delay_s: float | None
    #: How long its lane waits for it after its first failure; null = for ever.
    hold_s: float | None
    pause_endpoint_s: float | None
    backs_off: bool
    started_at: datetime
    duration_ms: float
    excerpt: str
    #: The job's row if it carries progress of a job.
    progress_of: int | None = None
    #: 0: unknown, and what came of the attempt says nothing about a destination.
    destination_row: int = 0
    #: As when it was claimed.
    watched: bool = False

    @property
    def unreached(self) -> bool:
        """Whether no connection came about, which is all that speaks against its destination."""
        return self.error in _UNREACHED

    @property
    def reached(self) -> bool:
        """Whether a connection came about, whatever came over it."""
        return self.status is not None or self.error in _CONNECTED

    @property
    def state(self) -> DeliveryState:
        """The state that the outcome leads to."""
        match self.outcome:
            case Outcome.DELIVERED:
                return DeliveryState.DELIVERED
            case Outcome.DEAD:
                return DeliveryState.DEAD
            case Outcome.DROPPED:
                return DeliveryState.SUPERSEDED
            case Outcome.RETRY | Outcome.INTERRUPTED:
                return DeliveryState.PENDING


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one record did."""

    #: Deliveries whose lease was lost: nothing of them was changed.
    lost: frozenset[int]
    #: Whether a lane moved on, so that there is something new to claim.
    freed: bool
    #: Endpoints that failed for so long that they are to be disabled.
    failing: Sequence[int] = ()
    #: Failed progress that was superseded: a newer one, or its job's end, took its place meanwhile.
    superseded: frozenset[int] = frozenset()
    #: Whether the head of a lane was put off: progress that may go when its endpoint's interval has passed.
    held: bool = False


@dataclass(frozen=True, slots=True)
class Orphan:
    """A delivery in `sending` whose dispatcher's lease has ended."""

    delivery_row: int
    endpoint_row: int
    dispatcher_row: int
    attempt: int
    failures: int
    interruptions: int
    lane: int | None
    claimed_at: datetime
    #: The job's row if it carries progress of a job.
    progress_of: int | None = None


#: No attempt takes so long, in seconds: the longest timeout of an endpoint is 300.
LONGER_THAN_ANY_ATTEMPT_S = 600.0
#: A time that was noted lies further ahead than this, in seconds, only where the clock was set back since: connections
#: and hosts differ by less.
CLOCK_SLACK_S = 60.0


#: However long the lease is, in seconds: PostgreSQL counts to 24 days only, and nothing should be waited for so long.
LONGEST_STATEMENT_S = 600.0


def statement_limit_s(settings: Settings) -> float:
    """How long a hot statement may run, in seconds; none should take a tenth of it."""
    return min(max(2.0, settings.lease.total_seconds()), LONGEST_STATEMENT_S)


class HotStore(Protocol):
    """The hot statements. Methods raise `StoreUnavailable` when the database does not answer."""

    @property
    def dispatcher_row(self) -> int:
        """The row that this dispatcher's claims carry."""

    async def enrol(self, name: str, lease_s: float) -> None:
        """Takes a row in `dispatchers` with a fresh lease: at start, and again after a lease was lost."""

    async def heartbeat(self, lease_s: float) -> bool:
        """Renews the lease; false when it had ended already, and nothing was renewed."""

    async def retire(self) -> None:
        """Gives the lease back at a clean stop."""

    async def fan_out(self, limit: int, straight: "Straight | None" = None) -> FannedOut:
        """Numbers up to `limit` queued events per job and makes a delivery for each endpoint that matches.

        Progress takes the place of older progress of its job and type that waits at the endpoint, a terminal event of
        all progress of its job that waits anywhere: pending → superseded. Does nothing while another dispatcher fans
        out.

        With `straight`, and where nothing is in the way, the same transaction claims as `claim` does.
        """

    async def fan_out_one(self) -> FannedOut:
        """As `fan_out`, for one event; what keeps it from being fanned out takes it out of the queue, as rejected.

        For when a batch failed: whatever is in it, the others of it come about. Before it numbers the event, it lifts
        its job's counter to what was numbered already.
        """

    async def claim(self, limit: int, ended: Sequence[tuple[int, int]] = ()) -> ClaimedBatch:
        """pending → sending for up to `limit` deliveries of endpoints that have room; begins their attempts.

        `ended`: delivery and number of attempts that are over, though not on record yet; they take no room.
        """

    async def record(self, batch: Sequence[Finished]) -> Recorded:
        """sending → delivered, pending or dead, each only if its attempt is still this one's; logs the attempts.

        What failed and must not be tried again ends here: cancelled where its endpoint was disabled or deleted,
        superseded where it is progress whose job has settled or that has a newer one. A batch holds a delivery once.
        """

    async def release(self, batch: Sequence[Claimed]) -> None:
        """sending → pending for attempts that were not begun after all; takes their number back.

        Progress whose job has settled, or that has a newer one, ends superseded.
        """

    async def ingest(self, groups: "Sequence[Group]", straight: "Straight | None") -> "Ingested":
        """Stores each group of events all or none, all of them in one transaction; committed when it returns.

        With `straight`, and where nothing is in the way, the same transaction fans out what waits and claims as `claim`
        does, and no other dispatcher is told. What keeps it from that only leaves the events in the queue.
        """

    async def make_due(self, limit: int) -> tuple[int, float | None]:
        """Makes retries claimable whose time has come; answers how many, and seconds until the next (null: none)."""

    async def pass_lanes(self, limit: int) -> int:
        """Lets lanes pass heads that have failed for longer than their hold; answers how many."""

    async def orphans(self, limit: int) -> Sequence[Orphan]:
        """Deliveries in `sending` whose dispatcher's lease has ended, or that are there for longer than any attempt.

        The latter were claimed by a statement whose answer was lost on the way to a dispatcher that lives.
        """

    async def claimed(self) -> Sequence[Orphan]:
        """Deliveries in `sending` under this dispatcher's row: after a claim without an answer also what it took."""

    async def busy(self, seconds: float) -> None:
        """Tells producers that a dispatcher looks at the queue anyway for so long, so that they need not notify."""

    async def watch(self, queued: Callable[[], None], wake: Callable[[], None]) -> None:
        """Calls `queued` when somebody has committed events, `wake` when there may be anything; hints, until it is
        cancelled.
        """

    async def close(self) -> None:
        """Closes the connections."""

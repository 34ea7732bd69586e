"""What an audit judges: the producers' ledger, the witness's journal and what the database holds at the end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dispatcher.settings import load
from dispatcher.states import AttemptError
from tests.chaos.producers import Ledger
from tests.chaos.scene import Scene, Strike
from tests.chaos.witness import Answer, Answered, Arrival

#: A delivery, as the witness knows it: path and event id.
Known = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery's row and its attempt log."""

    state: str
    reason: str | None = None
    #: The id of the event that took its place.
    superseded_by: str | None = None
    attempts: int = 0
    #: Whether there is a dead letter that was not redelivered.
    buried: bool = False
    #: The numbers in the attempt log, as they are there.
    logged: Sequence[int] = ()
    #: By number: the error, else the status.
    outcomes: Mapping[int, int | str] = field(default_factory=dict)
    #: How many attempts it had each time that it was put back.
    put_back_after: Sequence[int] = ()

    def round_of(self, attempt: int) -> int:
        """Which round an attempt belongs to: 0 until it is redelivered."""
        return sum(before < attempt for before in self.put_back_after)

    @property
    def interrupted(self) -> set[int]:
        """The attempts that the log calls interrupted."""
        return {number for number, outcome in self.outcomes.items() if outcome == AttemptError.INTERRUPTED}


@dataclass(frozen=True, slots=True)
class Evidence:
    """All there is to judge by."""

    ordered: str
    paths: Sequence[str]
    ledger: Ledger
    journal: Sequence[Arrival | Answered]
    answers: Mapping[Known, Mapping[int, Answer]]
    strikes: Sequence[Strike]
    #: The ids of the stored events.
    stored: Sequence[str]
    #: The ids of events that were not fanned out.
    queued: Sequence[str]
    #: How many bulk redeliveries are not done.
    running: int
    deliveries: Mapping[Known, Delivery]
    #: What dispatchers logged as errors.
    errors: Sequence[str]
    #: When a dispatcher was asked to end, in seconds of the loop's clock.
    stops_s: Sequence[float] = ()
    #: How long a lease lasts, in seconds.
    lease_s: float = 1.0

    @property
    def arrivals(self) -> list[Arrival]:
        return [entry for entry in self.journal if isinstance(entry, Arrival)]


async def gather(scene: Scene, ledger: Ledger, ordered: str, excuses: frozenset[str]) -> Evidence:
    """Reads what the database holds, once nothing runs any more."""
    outpost = scene.outpost
    ids = {row.row_id: row.id for row in await outpost.rows("events")}
    log: defaultdict[int, list[tuple[int, int | str]]] = defaultdict(list)
    for row in await outpost.attempts():
        log[row.delivery_row].append((row.number, row.error or row.status))
    put_back: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for row in await outpost.rows("redelivery_items", "redelivery_row", "event_row"):
        if row.attempts_before is not None:
            put_back[row.event_row, row.endpoint_row].append(row.attempts_before)
    buried = {row.delivery_row for row in await outpost.letters() if row.redelivered_at is None}
    return Evidence(
        ordered=ordered,
        paths=list(scene.paths.values()),
        ledger=ledger,
        journal=scene.witness.journal,
        answers=scene.witness.answers,
        strikes=scene.strikes,
        stored=list(ids.values()),
        queued=[ids[row.event_row] for row in await outpost.rows("fanout_queue", "event_row")],
        running=sum(row.state == "running" for row in await outpost.rows("redeliveries")),
        deliveries={
            (scene.paths[row.endpoint_row], ids[row.event_row]): Delivery(
                state=row.state,
                reason=row.reason,
                superseded_by=ids.get(row.superseded_by),
                attempts=row.attempts,
                buried=row.row_id in buried,
                logged=[number for number, _ in log[row.row_id]],
                outcomes=dict(log[row.row_id]),
                put_back_after=put_back[row.event_row, row.endpoint_row],
            )
            for row in await outpost.deliveries()
        },
        stops_s=scene.stops_s,
        lease_s=load(lease=scene.settings["lease"]).lease.total_seconds(),
        errors=[str(line) for worker in scene.crew for line in worker.faults if line["event"] not in excuses],
    )

"""The audit: the producers' ledger, the witness's journal and the database compared, promise by promise."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tests.chaos.producers import Ledger
from tests.chaos.scene import ORDERED, RETRIES, InFlight, Scene
from tests.chaos.witness import Answered, Arrival

#: Interruptions in a row that use up no retry.
FORGIVEN = 4

#: A delivery, as the witness knows it: path and event id.
Known = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was counted, and what each promise was broken with (nothing, if it was kept)."""

    kills: int
    events: int
    rolled_back: int
    arrivals: int
    #: Attempts that the kills interrupted.
    in_flight: int
    #: Arrivals after one that was accepted.
    duplicates: int
    #: From each kill that interrupted something to the next attempt of the last of it, in seconds.
    recoveries_s: tuple[float, ...]
    lost: list[str]
    phantoms: list[str]
    #: Duplicates that no kill and no pause explains.
    unexplained: list[str]
    order_violations: list[str]
    stuck: list[str]
    miscounted: list[str]
    changed_bytes: list[str]

    @property
    def broken(self) -> dict[str, list[str]]:
        """The promises that were broken, each with its first examples."""
        promises = ("lost", "phantoms", "unexplained", "order_violations", "stuck", "miscounted", "changed_bytes")
        return {name: getattr(self, name)[:5] for name in promises if getattr(self, name)}

    def table(self) -> str:
        """All of it, for people."""
        recoveries = self.recoveries_s or (0.0,)
        rows = {
            "kills": self.kills,
            "events committed": self.events,
            "events rolled back": self.rolled_back,
            "arrivals": self.arrivals,
            "in flight at the kills": self.in_flight,
            "lost": len(self.lost),
            "phantom": len(self.phantoms),
            "duplicates": self.duplicates,
            "duplicates unexplained": len(self.unexplained),
            "order violations": len(self.order_violations),
            "stuck": len(self.stuck),
            "wrong attempt counts": len(self.miscounted),
            "changed bytes": len(self.changed_bytes),
            "time to recover, median": f"{median(recoveries):.2f} s",
            "time to recover, longest": f"{max(recoveries):.2f} s",
        }
        return "\n".join(f"{name:26}{value:>10}" for name, value in rows.items())


def settled(answers: dict[int, int], interrupted: set[int]) -> bool:
    """Whether a delivery with these answers, by attempt, is accepted or used up."""
    failures = in_a_row = 0
    for number in sorted(answers.keys() | interrupted):
        if number in interrupted and in_a_row < FORGIVEN:
            in_a_row += 1
        elif number not in interrupted and answers[number] == 200:
            return True
        else:
            failures, in_a_row = failures + 1, 0
    return failures > RETRIES


class Unsettled:
    """The deliveries that still have an answer to come."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self._scene = scene
        self._open = [(path, event_id) for path in scene.paths.values() for event_id in ledger.committed]
        self._interrupted = interrupted_of(scene)

    def none_left(self) -> bool:
        answers = self._scene.witness.answers
        while self._open and settled(answers.get(self._open[-1], {}), self._interrupted[self._open[-1]]):
            self._open.pop()
        return not self._open


def interrupted_of(scene: Scene) -> defaultdict[Known, set[int]]:
    """The numbers of the attempts that kills interrupted."""
    found: defaultdict[Known, set[int]] = defaultdict(set)
    for kill in scene.kills:
        for flying in kill.in_flight:
            found[flying.path, flying.event_id].add(flying.attempt)
    return found


async def audit(scene: Scene, ledger: Ledger) -> Audit:
    """Compares what was promised with what is there, once nothing runs any more."""
    outpost, arrivals = scene.outpost, scene.witness.arrivals
    ids = {row.row_id: row.id for row in await outpost.rows("events")}
    deliveries = {(scene.paths[row.endpoint_row], ids[row.event_row]): row for row in await outpost.deliveries()}
    log: defaultdict[int, list[Any]] = defaultdict(list)
    for row in await outpost.attempts():
        log[row.delivery_row].append(row)
    buried = {row.delivery_row for row in await outpost.letters()}
    queued = await outpost.rows("fanout_queue", "event_row")
    interrupted = interrupted_of(scene)
    duplicates = _duplicates(arrivals, scene)
    return Audit(
        kills=len(scene.kills),
        events=len(ledger.committed),
        rolled_back=len(ledger.undone),
        arrivals=len(arrivals),
        in_flight=sum(len(kill.in_flight) for kill in scene.kills),
        # One acceptance that nobody recorded is one duplicate, also where the receiver refuses its repeat at first.
        duplicates=len({(_known(arrival), frozenset(accepted)) for arrival, accepted in duplicates}),
        recoveries_s=_recoveries(arrivals, scene),
        lost=_lost(scene, ledger, deliveries, buried),
        phantoms=_phantoms(ledger, ids, arrivals),
        unexplained=[
            f"{arrival} after {accepted} was accepted"
            for arrival, accepted in duplicates
            # Either its acceptance was interrupted, or it was itself on its way out of a process that was paused.
            if not accepted <= interrupted[_known(arrival)] and arrival.attempt not in interrupted[_known(arrival)]
        ],
        order_violations=_order_violations(scene, ledger, deliveries),
        stuck=[f"{known} {row.state}" for known, row in deliveries.items() if row.state in ("pending", "sending")]
        + [f"{ids[row.event_row]} in the queue" for row in queued],
        miscounted=_miscounted(scene, deliveries, log, interrupted),
        changed_bytes=_changed_bytes(arrivals),
    )


def _known(arrival: Arrival) -> Known:
    return arrival.path, arrival.event_id


def _lost(scene: Scene, ledger: Ledger, deliveries: dict[Known, Any], buried: set[int]) -> list[str]:
    lost = []
    for known in ((path, event_id) for path in scene.paths.values() for event_id in ledger.committed):
        row = deliveries.get(known)
        if row is None:
            lost.append(f"{known} was not fanned out")
        elif row.state == "delivered":
            if 200 not in scene.witness.answers[known].values():
                lost.append(f"{known} says delivered, and was never accepted")
        elif row.state == "dead":
            if row.reason != "exhausted" or row.row_id not in buried:
                lost.append(f"{known} is dead, reason {row.reason}, dead letter {row.row_id in buried}")
        elif row.state not in ("pending", "sending"):
            lost.append(f"{known} ended {row.state}")
    return lost


def _phantoms(ledger: Ledger, ids: dict[int, str], arrivals: list[Arrival]) -> list[str]:
    return [f"{event_id} is stored" for event_id in ids.values() if event_id not in ledger.committed] + [
        f"{arrival.event_id} was sent" for arrival in arrivals if arrival.event_id not in ledger.committed
    ]


def _duplicates(arrivals: list[Arrival], scene: Scene) -> list[tuple[Arrival, set[int]]]:
    """Arrivals after an accepted one, each with the attempts that had been accepted; or the same attempt again."""
    duplicates = []
    seen: defaultdict[Known, set[int]] = defaultdict(set)
    for arrival in arrivals:
        answers = scene.witness.answers[_known(arrival)]
        before = seen[_known(arrival)]
        accepted = {number for number in before if answers.get(number) == 200}
        if arrival.attempt in before:
            # No crash explains that one attempt is made twice.
            duplicates.append((replace(arrival, attempt=-arrival.attempt), {-arrival.attempt}))
        elif accepted:
            duplicates.append((arrival, accepted))
        before.add(arrival.attempt)
    return duplicates


def _recoveries(arrivals: list[Arrival], scene: Scene) -> tuple[float, ...]:
    attempts: defaultdict[Known, list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        attempts[_known(arrival)].append(arrival)

    def again_at_s(flying: InFlight) -> float:
        later = [a.at_s for a in attempts[flying.path, flying.event_id] if a.attempt > flying.attempt]
        return min(later, default=float("inf"))

    return tuple(
        max(again_at_s(flying) for flying in kill.in_flight) - kill.at_s for kill in scene.kills if kill.in_flight
    )


def _order_violations(scene: Scene, ledger: Ledger, deliveries: dict[Known, Any]) -> list[str]:
    """Where a lane went back, left one out, or went on before its head was accepted or dead."""
    violations = []
    head: dict[str, Arrival] = {}
    last_status: dict[str, int] = {}
    void_from_s = {flying: kill.at_s for kill in scene.kills for flying in kill.in_flight}
    for entry in scene.witness.journal:
        match entry:
            # On its way when its process was paused: nothing can call it back when that goes on.
            case Arrival() if entry.at_s > void_from_s.get(
                InFlight(entry.path, entry.event_id, entry.attempt), float("inf")
            ):
                continue
            case Arrival(path=path, job_id=str(job_id), sequence=int(sequence)) if path == ORDERED:
                before = head.get(job_id)
                if before is None or sequence == (before.sequence or 0) + 1:
                    if entry.event_id != ledger.jobs[job_id][sequence - 1] or entry.previous != sequence - 1:
                        violations.append(f"{entry} is not what was published there")
                    if before is None and sequence != 1:
                        violations.append(f"{entry} came first of its job")
                    if before and last_status[job_id] != 200 and deliveries[_known(before)].state != "dead":
                        violations.append(f"{entry} came before {before} was settled")
                elif sequence != before.sequence:
                    violations.append(f"{entry} came after {before}")
                head[job_id], last_status[job_id] = entry, 0
            case Answered(arrival=answered, status=status) if answered == head.get(answered.job_id or ""):
                last_status[answered.job_id or ""] = status
    return violations


def _miscounted(
    scene: Scene, deliveries: dict[Known, Any], log: dict[int, list[Any]], interrupted: dict[Known, set[int]]
) -> list[str]:
    """Deliveries whose attempt log is not what happened: one row per attempt, with what came of it."""
    wrong = []
    for known, delivery in deliveries.items():
        rows, answers = log[delivery.row_id], scene.witness.answers[known]
        numbers = [row.number for row in rows]
        outcomes = {row.number: row.error or row.status for row in rows}
        expected = {number: 200 if status == 200 else "http_status" for number, status in answers.items()}
        # A claim that outlived its lease is given up without having been sent.
        unsent = {row.number for row in rows if row.error == "interrupted" and row.number not in answers}
        expected |= dict.fromkeys(interrupted[known] | unsent, "interrupted")
        if numbers != list(range(1, delivery.attempts + 1)) or outcomes != expected:
            wrong.append(f"{known} {delivery.state} after {delivery.attempts}: logged {outcomes}, was {expected}")
        elif not settled(answers, interrupted[known] | unsent) and delivery.state in ("delivered", "dead"):
            wrong.append(f"{known} is {delivery.state} too early: {outcomes}")
    return wrong


def _changed_bytes(arrivals: list[Arrival]) -> list[str]:
    bodies = {(_known(arrival), arrival.body_sha256) for arrival in arrivals}
    counts = Counter(known for known, _ in bodies)
    return [f"{known} had {count} bodies" for known, count in counts.items() if count > 1]

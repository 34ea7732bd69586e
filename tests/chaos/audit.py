"""The audit: the producers' ledger, the witness's journal and the database compared, promise by promise."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import inf

from dispatcher.states import EventKind
from tests.bad_receiver import Misbehaviour
from tests.chaos.evidence import Delivery, Evidence, Known, gather
from tests.chaos.lanes import terminal_violations, violations
from tests.chaos.producers import Ledger
from tests.chaos.scene import ORDERED, RETRIES, InFlight, Scene, Strike
from tests.chaos.witness import Answer, Answered, Arrival

#: A lease that no slow disk or processor outlasts, in seconds.
LONG_LEASE_S = 10.0
#: Interruptions in a row that use up no retry.
FORGIVEN = 4

#: What the log calls an attempt that was not answered as it should.
LOGGED = {
    Misbehaviour.HANG: "timeout",
    Misbehaviour.RESET: "connection_reset",
    Misbehaviour.LIE_ABOUT_LENGTH: "connection_reset",
    Misbehaviour.GARBAGE: "protocol",
}

PROMISES = (
    "lost", "phantoms", "unexplained", "order_violations", "stuck", "miscounted", "changed_bytes", "errors",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Audit:
    """What was counted, and what each promise was broken with (nothing, if it was kept)."""

    strikes: int
    events: int
    rolled_back: int
    #: Deliveries that other progress, or the end of their job, took the place of.
    superseded: int
    #: Deliveries that were put back, once for each time.
    redelivered: int
    arrivals: int
    #: Attempts that the strikes interrupted.
    in_flight: int
    #: Acceptances that nobody recorded and that were therefore asked for again.
    duplicates: int
    #: From each strike to the next attempt of the last of what it interrupted, else to the next accepted; in seconds,
    #: from the last strike before that.
    recoveries_s: tuple[float, ...]
    lost: list[str]
    phantoms: list[str]
    #: Duplicates that no kill and no pause explains.
    unexplained: list[str]
    order_violations: list[str]
    stuck: list[str]
    miscounted: list[str]
    changed_bytes: list[str]
    #: What dispatchers logged as errors.
    errors: list[str]

    @property
    def broken(self) -> dict[str, list[str]]:
        """The promises that were broken, each with its first examples."""
        return {name: getattr(self, name)[:5] for name in PROMISES if getattr(self, name)}

    def table(self) -> str:
        """All of it, for people: counts, and of times the longest."""
        counts = {one.name: getattr(self, one.name) for one in fields(self)}
        shown = {
            name: len(value)
            if isinstance(value, list)
            else max(value, default=0.0)
            if isinstance(value, tuple)
            else value
            for name, value in counts.items()
        }
        return "\n".join(f"{name.replace('_', ' '):20}{value:>10.5g}" for name, value in shown.items())


async def audit(scene: Scene, ledger: Ledger, excuses: frozenset[str] = frozenset()) -> Audit:
    """Compares what was promised with what is there, once nothing runs any more.

    `excuses` are names of errors that dispatchers may have logged.
    """
    return judge(await gather(scene, ledger, ORDERED, excuses))


def judge(found: Evidence) -> Audit:
    """The verdict on all that is known."""
    interrupted = interruptions(found)
    duplicates = _duplicates(found)
    return Audit(
        strikes=len(found.strikes),
        events=len(found.ledger.committed),
        rolled_back=len(found.ledger.undone),
        superseded=sum(delivery.state == "superseded" for delivery in found.deliveries.values()),
        redelivered=sum(len(delivery.put_back_after) for delivery in found.deliveries.values()),
        arrivals=len(found.arrivals),
        in_flight=sum(map(len, interrupted.values())),
        # One acceptance that nobody recorded is one duplicate, also where the receiver refuses its repeat at first.
        duplicates=len({(_known(arrival), accepted) for arrival, accepted in duplicates}),
        recoveries_s=_recoveries(found),
        lost=_lost(found),
        phantoms=[f"{event_id} is stored" for event_id in found.stored if event_id not in found.ledger.committed]
        + [f"{arrival} was sent" for arrival in found.arrivals if arrival.event_id not in found.ledger.committed],
        unexplained=[
            f"{arrival} after {set(accepted)} was accepted"
            for arrival, accepted in duplicates
            # Either its acceptance was interrupted, or it was itself on its way out of a process that was paused.
            if not accepted <= interrupted[_known(arrival)] and arrival.attempt not in interrupted[_known(arrival)]
        ],
        order_violations=violations(found, interrupted) + terminal_violations(found, interrupted),
        stuck=[f"{known} {row.state}" for known, row in found.deliveries.items() if row.state in ("pending", "sending")]
        + [f"{event_id} in the queue" for event_id in found.queued]
        + ["a bulk redelivery"] * found.running,
        miscounted=_miscounted(found, interrupted),
        changed_bytes=_changed_bytes(found.arrivals),
        errors=list(found.errors),
    )


def interruptions(found: Evidence) -> defaultdict[Known, set[int]]:
    """The numbers of the attempts that strikes interrupted."""
    interrupted: defaultdict[Known, set[int]] = defaultdict(set)
    for strike in found.strikes:
        for flying in strike.in_flight or ():
            interrupted[flying.path, flying.event_id].add(flying.attempt)
    if any(strike.in_flight is None for strike in found.strikes):
        # Then what the log calls interrupted was.
        for known, delivery in found.deliveries.items():
            interrupted[known] |= delivery.interrupted
    return interrupted


def settled_after(answers: Mapping[int, Answer], interrupted: set[int]) -> int | None:
    """The attempt of one round after which it is accepted or used up; null: none of them yet."""
    failures = in_a_row = 0
    for number in sorted(answers.keys() | interrupted):
        if number in interrupted and in_a_row < FORGIVEN:
            in_a_row += 1
        elif number not in interrupted and answers[number] == 200:
            return number
        else:
            failures, in_a_row = failures + 1, 0
        if failures > RETRIES:
            return number
    return None


def _known(arrival: Arrival) -> Known:
    return arrival.path, arrival.event_id


def _lost(found: Evidence) -> list[str]:
    lost = []
    for known in ((path, event_id) for path in found.paths for event_id in found.ledger.committed):
        row = found.deliveries.get(known)
        if row is None:
            lost.append(f"{known} was not fanned out")
        elif row.state == "delivered":
            if 200 not in found.answers.get(known, {}).values():
                lost.append(f"{known} says delivered, and was never accepted")
        elif row.state == "dead":
            if row.reason != "exhausted" or not row.buried:
                lost.append(f"{known} is dead, reason {row.reason}, dead letter {row.buried}")
        elif row.state == "superseded":
            if not _rightly_superseded(found.ledger, known[1], row.superseded_by):
                lost.append(f"{known} was superseded by {row.superseded_by}")
        elif row.state not in ("pending", "sending"):
            lost.append(f"{known} ended {row.state}")
    return lost


def _rightly_superseded(ledger: Ledger, event_id: str, by: str | None) -> bool:
    """Progress may give way to newer progress of its job and type, and to the end of its job: to nothing else."""
    event = ledger.committed[event_id]
    if event.kind is not EventKind.PROGRESS or event.job_id is None or by is None:
        return False
    if by == ledger.settled_by(event.job_id):
        return True
    newer, job = ledger.committed.get(by), ledger.jobs[event.job_id]
    return (
        newer is not None
        and (newer.job_id, newer.type, newer.kind) == (event.job_id, event.type, event.kind)
        and job.index(by) > job.index(event_id)
    )


def _duplicates(found: Evidence) -> list[tuple[Arrival, frozenset[int]]]:
    """Arrivals after an accepted one of their round, each with the attempts that had been accepted; or one again."""
    duplicates = []
    seen: defaultdict[Known, set[int]] = defaultdict(set)
    for arrival in found.arrivals:
        known = _known(arrival)
        answers, delivery, before = found.answers.get(known, {}), found.deliveries.get(known), seen[known]
        turn = delivery.round_of(arrival.attempt) if delivery else 0
        accepted = frozenset(
            number
            for number in before
            if answers.get(number) == 200 and (delivery.round_of(number) if delivery else 0) == turn
        )
        if arrival.attempt in before:
            # No crash explains that one attempt is made twice.
            duplicates.append((replace(arrival, attempt=-arrival.attempt), frozenset({-arrival.attempt})))
        elif accepted:
            duplicates.append((arrival, accepted))
        before.add(arrival.attempt)
    return duplicates


def _recoveries(found: Evidence) -> tuple[float, ...]:
    attempts: defaultdict[Known, list[Arrival]] = defaultdict(list)
    for arrival in found.arrivals:
        attempts[_known(arrival)].append(arrival)
    accepted_at_s = [
        entry.arrival.at_s for entry in found.journal if isinstance(entry, Answered) and entry.status == 200
    ]

    def again_at_s(flying: InFlight) -> float | None:
        known = flying.path, flying.event_id
        later = [arrival.at_s for arrival in attempts[known] if arrival.attempt > flying.attempt]
        if not later and known in found.deliveries and found.deliveries[known].state in ("superseded", "dead"):
            # Not wanted any more.
            return None
        return min(later, default=float("inf"))

    def recovered_at_s(strike: Strike) -> float:
        again = [at_s for flying in strike.in_flight or () if (at_s := again_at_s(flying)) is not None]
        return max(again) if again else min((at_s for at_s in accepted_at_s if at_s > strike.at_s), default=strike.at_s)

    def recovery_s(strike: Strike) -> float:
        at_s = recovered_at_s(strike)
        # A strike that comes before the last one is over makes it begin again.
        begun_s = max((one.at_s for one in found.strikes if strike.at_s <= one.at_s <= at_s), default=at_s)
        return at_s - begun_s

    return tuple(map(recovery_s, found.strikes))


def _miscounted(found: Evidence, interrupted: Mapping[Known, set[int]]) -> list[str]:
    """Deliveries whose attempt log is not what happened: one row per attempt, with what came of it."""
    wrong = []
    for known, delivery in found.deliveries.items():
        answers = found.answers.get(known, {})
        expected: dict[int, int | str] = {number: _logged(answer) for number, answer in answers.items()}
        # A claim that outlived its lease is given up without having been sent.
        unsent = {n for n in delivery.interrupted if n not in answers and _may_lose_its_lease(found, known, n)}
        void = interrupted.get(known, set()) | unsent
        expected |= dict.fromkeys(void, "interrupted")
        if list(delivery.logged) != list(range(1, delivery.attempts + 1)) or delivery.outcomes != expected:
            wrong.append(
                f"{known} {delivery.state} after {delivery.attempts}: logged {delivery.outcomes}, was {expected}"
            )
        else:
            wrong += [f"{known} {delivery.state}: {what}" for what in _wrong_rounds(delivery, answers, void)]
    return wrong


def _may_lose_its_lease(found: Evidence, known: Known, number: int) -> bool:
    """Whether something may have kept a dispatcher from renewing its lease while this attempt was under way.

    A slow disk or processor is enough for a short lease, and nobody sees it. A long one takes a strike or a stop,
    between what the witness saw of the delivery before and after.
    """
    if found.lease_s < LONG_LEASE_S:
        return True
    its_own = [arrival for arrival in found.arrivals if _known(arrival) == known]
    after_s = max((arrival.at_s for arrival in its_own if arrival.attempt < number), default=-inf)
    before_s = min((arrival.at_s for arrival in its_own if arrival.attempt > number), default=inf)
    return any(after_s <= at_s <= before_s for at_s in (*(one.at_s for one in found.strikes), *found.stops_s))


def _wrong_rounds(delivery: Delivery, answers: Mapping[int, Answer], void: set[int]) -> list[str]:
    wrong = []
    last = len(delivery.put_back_after)
    for turn in range(last + 1):
        numbers = {number for number in range(1, delivery.attempts + 1) if delivery.round_of(number) == turn}
        ended = settled_after({n: a for n, a in answers.items() if n in numbers}, void & numbers)
        if ended is not None and ended != max(numbers):
            wrong.append(f"round {turn} went on after attempt {ended}: {delivery.outcomes}")
        if ended is None and turn == last and delivery.state in ("delivered", "dead"):
            wrong.append(f"too early: {delivery.outcomes}")
    return wrong


def _logged(answer: Answer) -> int | str:
    if isinstance(answer, Misbehaviour):
        return LOGGED[answer]
    return answer if answer == 200 else "http_status"


def _changed_bytes(arrivals: list[Arrival]) -> list[str]:
    bodies = {(_known(arrival), arrival.body_sha256) for arrival in arrivals}
    counts = Counter(known for known, _ in bodies)
    return [f"{known} had {count} bodies" for known, count in counts.items() if count > 1]

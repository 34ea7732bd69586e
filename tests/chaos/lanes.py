"""The audit of order: what a lane may be sent after what, and what no job is sent after its end."""

from collections import defaultdict
from collections.abc import Mapping

from dispatcher.states import EventKind
from tests.chaos.evidence import Evidence, Known
from tests.chaos.scene import InFlight
from tests.chaos.witness import Answered, Arrival


def violations(found: Evidence, interrupted: Mapping[Known, set[int]]) -> list[str]:
    """Where a lane went back, left one out, had two in flight, or went on before its head was settled."""
    wrong = []
    head: dict[str, Arrival] = {}
    accepted: set[str] = set()
    in_flight: dict[str, Arrival] = {}
    for entry in _not_void(found):
        match entry:
            case Answered(arrival=answered, status=status) if answered.job_id:
                if in_flight.get(answered.job_id) == answered:
                    del in_flight[answered.job_id]
                if status == 200 and head.get(answered.job_id) == answered:
                    accepted.add(answered.job_id)
            case Arrival(path=path, job_id=str(job_id), sequence=int(sequence)) if path == found.ordered:
                beside, known = in_flight.get(job_id), (path, entry.event_id)
                if beside and beside.attempt not in interrupted.get((path, beside.event_id), ()):
                    wrong.append(f"{entry} came while {beside} was in flight")
                in_flight[job_id] = entry
                job = found.ledger.jobs.get(job_id, [])
                if not 0 < sequence <= len(job) or job[sequence - 1] != entry.event_id:
                    wrong.append(f"{entry} is not what was published there")
                    continue
                delivery = found.deliveries.get(known)
                if delivery is not None and delivery.round_of(entry.attempt):
                    # A redelivery joins its lane at its place, behind what went on long ago.
                    continue
                before = head.get(job_id)
                last = before.sequence or 0 if before else 0
                if sequence < last:
                    wrong.append(f"{entry} came after {before}")
                    continue
                if sequence > last:
                    wrong += _left_out(found, entry, last)
                    if before and job_id not in accepted and not _given_up(found, before):
                        wrong.append(f"{entry} came before {before} was settled")
                head[job_id] = entry
                accepted.discard(job_id)
            case _:
                pass
    return wrong


def terminal_violations(found: Evidence, interrupted: Mapping[Known, set[int]]) -> list[str]:
    """Progress that was sent after its job's end."""
    wrong = []
    ended: set[tuple[str, str]] = set()
    after: defaultdict[Known, int] = defaultdict(int)
    for entry in _not_void(found):
        if not isinstance(entry, Arrival) or entry.job_id is None or entry.event_id not in found.ledger.committed:
            continue
        job, known = found.ledger.jobs[entry.job_id], (entry.path, entry.event_id)
        terminal = found.ledger.settled_by(entry.job_id)
        if terminal is None:
            continue
        if entry.event_id == terminal:
            ended.add((entry.path, entry.job_id))
        elif found.ledger.committed[entry.event_id].kind is EventKind.PROGRESS:
            if job.index(entry.event_id) > job.index(terminal):
                wrong.append(f"{entry} is progress published after its job's end")
            elif (entry.path, entry.job_id) in ended:
                after[known] += 1
                # Without lanes the one attempt that was under way when the job ended may come in behind it.
                if entry.path == found.ordered or after[known] > 1:
                    wrong.append(f"{entry} is progress sent after its job's end")
    return wrong


def _not_void(found: Evidence) -> list[Arrival | Answered]:
    """The journal without what was on its way when its process was paused: nothing can call that back afterwards."""
    void_from_s = {flying: strike.at_s for strike in found.strikes for flying in strike.in_flight or ()}

    def void(entry: Arrival | Answered) -> bool:
        arrival = entry.arrival if isinstance(entry, Answered) else entry
        flying = InFlight(arrival.path, arrival.event_id, arrival.attempt)
        return arrival.at_s > void_from_s.get(flying, float("inf"))

    return [entry for entry in found.journal if not void(entry)]


def _left_out(found: Evidence, entry: Arrival, last: int) -> list[str]:
    """What the lane went past without sending it, and a header that does not say so."""
    job = found.ledger.jobs[entry.job_id or ""]
    sequence, wrong, previous = entry.sequence or 0, [], last
    for skipped in range(last + 1, sequence):
        event_id = job[skipped - 1]
        delivery = found.deliveries.get((entry.path, event_id))
        if found.ledger.committed[event_id].kind is not EventKind.PROGRESS:
            wrong.append(f"{entry} came before {event_id}, which is {skipped} of its job")
        if (
            delivery is not None
            and delivery.attempts
            and not (delivery.put_back_after and not delivery.put_back_after[0])
        ):
            # Its attempt began, and was interrupted before it was sent.
            previous = skipped
    if entry.previous != previous:
        wrong.append(f"{entry} says {entry.previous} came before it, and it was {previous}")
    return wrong


def _given_up(found: Evidence, arrival: Arrival) -> bool:
    """Whether a delivery that was not accepted ended all the same: dead, or superseded as progress."""
    delivery = found.deliveries.get((arrival.path, arrival.event_id))
    if delivery is None:
        return False
    if found.ledger.committed[arrival.event_id].kind is EventKind.PROGRESS and delivery.state != "pending":
        return True
    return delivery.state == "dead" or bool(delivery.put_back_after)

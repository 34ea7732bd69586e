"""Which events of a batch take the place of progress: of their own batch, and of what waits already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dispatcher.rules.numbering import Numbered
from dispatcher.states import EventKind


@dataclass(frozen=True, slots=True)
class Superseding:
    """An event that takes the place of progress of its job that waits."""

    job_row: int
    #: Progress of this type, where the event is delivered too; null: of every type and at every endpoint.
    event_type: str | None
    event_row: int
    sequence: int


def superseding(batch: Sequence[Numbered], settled_by: Mapping[int, int]) -> tuple[dict[int, int], list[Superseding]]:
    """Which events of the batch are superseded from the start, by which event; and what supersedes older ones.

    `batch` is in order of `sequence` within each job; `settled_by` names the event that settled a job, whether it is
    in the batch or came before. The result is that of fanning the events out one by one.
    """
    if all(event.kind is EventKind.STATE for event in batch):
        return {}, []
    here = {event.event_row for event in batch}
    settled = {job_row: event_row for job_row, event_row in settled_by.items() if event_row not in here}
    latest: dict[int, dict[str, int]] = {}
    superseded: dict[int, int] = {}
    found: list[Superseding] = []
    for event in batch:
        ended = settled.get(event.job_row)
        if event.kind is EventKind.PROGRESS:
            if ended is not None:
                superseded[event.event_row] = ended
                continue
            of_job = latest.setdefault(event.job_row, {})
            if event.event_type in of_job:
                superseded[of_job[event.event_type]] = event.event_row
            else:
                found.append(Superseding(event.job_row, event.event_type, event.event_row, event.sequence))
            of_job[event.event_type] = event.event_row
        elif event.kind is EventKind.TERMINAL and ended is None:
            settled[event.job_row] = event.event_row
            superseded |= dict.fromkeys(latest.pop(event.job_row, {}).values(), event.event_row)
            found.append(Superseding(event.job_row, None, event.event_row, event.sequence))
    return superseded, found

"""Numbering a batch of events within their jobs, in publish order and without gaps."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from dispatcher.states import EventKind

#: A job by its tenant and name.
Job = tuple[str, str]


class Queued(Struct, frozen=True, gc=False):
    """An event as it leaves the queue."""

    event_row: int
    tenant: str
    event_type: str
    job_id: str | None
    kind: EventKind


class Numbered(Struct, frozen=True, gc=False):
    """An event with its place in its job."""

    event_row: int
    event_type: str
    kind: EventKind
    job_row: int
    sequence: int


def count_jobs(batch: Sequence[Queued]) -> tuple[dict[Job, int], dict[Job, int]]:
    """By job: how many events of it the batch holds, and the first that settles it, where one does."""
    counts: dict[Job, int] = {}
    settling: dict[Job, int] = {}
    for event in batch:
        if event.job_id is not None:
            job = event.tenant, event.job_id
            counts[job] = counts.get(job, 0) + 1
            if event.kind is EventKind.TERMINAL:
                settling.setdefault(job, event.event_row)
    return counts, settling


def number(batch: Sequence[Queued], counts: Mapping[Job, int], jobs: Mapping[Job, tuple[int, int]]) -> list[Numbered]:
    """The events of jobs, in order, each with its place; `jobs` names row and last sequence, this batch included.

    Raises `ValueError` where a counter was set back so far that places would be below 1.
    """
    following = {job: jobs[job][1] - count + 1 for job, count in counts.items()}
    if min(following.values(), default=1) < 1:
        raise ValueError("a job's counter is below zero")
    numbered = []
    for event in batch:
        if event.job_id is not None:
            job = event.tenant, event.job_id
            numbered.append(Numbered(event.event_row, event.event_type, event.kind, jobs[job][0], following[job]))
            following[job] += 1
    return numbered

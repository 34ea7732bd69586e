"""A job's events for those who catch up: in order behind a sequence, waited for, followed, and opened by a link."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import InvalidField, NotFound
from dispatcher.rules import job_links
from dispatcher.rules.job_links import JobLink as ReadLink
from dispatcher.service.fields import JOB_ID_LENGTH
from dispatcher.service.job_readers import JobReaders, Watch
from dispatcher.service.models import JobEvent, JobEvents, JobLink, JobLinkCreate
from dispatcher.service.pages import DEFAULT_PAGE, LARGEST_PAGE
from dispatcher.service.scope import text_filter
from dispatcher.store.deployment import Deployment
from dispatcher.store.job_events import events_behind, find_job, is_mentioned

#: The longest wait of one request, in seconds.
LONGEST_WAIT_S = 30.0
#: Sequences are 64-bit integers.
LARGEST_SEQUENCE = (1 << 63) - 1
#: Events of a stream that are in memory at once: each may be as large as `DISPATCHER_MAX_PAYLOAD`.
STREAM_PAGE = 20


@dataclass(frozen=True, slots=True)
class _Found:
    """What one read of a job found."""

    #: Null: no event of it was numbered.
    job_row: int | None
    last_sequence: int
    part: JobEvents

    @property
    def answers(self) -> bool:
        """Whether there is something to answer with, or nothing to wait for."""
        return bool(self.part.data) or self.part.settled


async def events_after(
    deployment: Deployment,
    job_id: str,
    *,
    tenant: str,
    after: int = 0,
    limit: int = DEFAULT_PAGE,
    wait_s: float = 0.0,
    readers: JobReaders | None = None,
    vouched: bool = False,
    gone: Callable[[], bool] = lambda: False,
) -> JobEvents:
    """The job's events behind `after`; where there are none yet, waits up to `wait_s` for one among the `readers`.

    A job that nobody has mentioned is waited for too, then it is `NotFound`, unless somebody `vouched` for it. The
    wait ends early when the caller is `gone`. Raises `InvalidField`, and `TooManyReaders` instead of a wait.
    """
    _check(job_id, after, limit, wait_s)
    waiting = readers if wait_s > 0 else None
    if waiting is not None and not waiting.full:
        deadline = asyncio.get_running_loop().time() + wait_s
        with waiting.watch(tenant, job_id, after) as watch:
            found = await _read_when_moved(deployment, waiting, watch, after, limit, deadline, gone)
    else:
        found = await _read(deployment, readers, tenant, job_id, after, limit)
        if waiting is not None and not found.answers:
            waiting.admit()
    if found.job_row is None and not vouched:
        async with deployment.database.read() as connection:
            if not await is_mentioned(connection, deployment.database.tables, tenant, job_id):
                raise NotFound(f"tenant {tenant} has no job {job_id}: nothing was published about it yet")
    return found.part


async def follow(
    deployment: Deployment,
    readers: JobReaders,
    job_id: str,
    *,
    tenant: str,
    first: JobEvents,
    silence_s: float,
    gone: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[JobEvents]:
    """Parts of a job's events as they come: the `first`, which was read already, those behind it, and an empty one
    after `silence_s` without any; the last is `settled`.

    Ends early when this process ends or the caller is `gone`.
    """

    def over() -> bool:
        return readers.closing or gone()

    loop = asyncio.get_running_loop()
    after = first.after
    with readers.watch(tenant, job_id, after) as watch:
        if first.data or first.settled:
            yield first
        if first.settled:
            return
        moved = True
        while not over():
            # A silence is told without another read: thousands who wait must cost next to nothing.
            found = await _read_watched(deployment, readers, watch, after, STREAM_PAGE) if moved else None
            if found is not None and found.answers:
                yield found.part
                if found.part.settled:
                    return
                after = found.part.after
                continue
            moved = await watch.has_moved(loop.time() + silence_s, gone)
            if not moved and not over():
                yield JobEvents(data=[], after=after, settled=False)


async def _read_when_moved(
    deployment: Deployment,
    readers: JobReaders,
    watch: Watch,
    after: int,
    limit: int,
    deadline: float,
    gone: Callable[[], bool],
) -> _Found:
    while True:
        found = await _read_watched(deployment, readers, watch, after, limit)
        if found.answers or not await watch.has_moved(deadline, gone):
            return found


async def _read_watched(deployment: Deployment, readers: JobReaders, watch: Watch, after: int, limit: int) -> _Found:
    if watch.quiet:
        watch.quiet = False
        return _Found(watch.job_row, watch.sequence, JobEvents(data=[], after=after, settled=False))
    # After the watch has begun: what is numbered between this and the wait has moved it.
    found = await _read(deployment, readers, watch.tenant, watch.job_id, after, limit)
    if found.job_row is not None:
        watch.saw(found.job_row, found.last_sequence)
    return found


async def _read(
    deployment: Deployment, readers: JobReaders | None, tenant: str, job_id: str, after: int, limit: int
) -> _Found:
    if readers is None:
        async with deployment.database.read() as connection:
            return await _read_with(connection, deployment, tenant, job_id, after, limit)
    async with readers.reading, deployment.database.read() as connection:
        return await _read_with(connection, deployment, tenant, job_id, after, limit)


async def _read_with(
    connection: AsyncConnection, deployment: Deployment, tenant: str, job_id: str, after: int, limit: int
) -> _Found:
    tables = deployment.database.tables
    job = await find_job(connection, tables, tenant, job_id)
    if job is None:
        return _Found(None, 0, JobEvents(data=[], after=after, settled=False))
    rows: Sequence[Row[Any]] = ()
    if job.last_sequence > after:
        rows = await events_behind(connection, tables, job.row_id, after, limit)
    last = rows[-1].sequence if rows else after
    # Behind a part that is not full there was nothing, whatever retention has dropped.
    settled = job.settled_at is not None and (len(rows) < limit or last >= job.last_sequence)
    data = [
        JobEvent(id=row.id, type=row.type, sequence=row.sequence, timestamp=row.timestamp, data=row.data)
        for row in rows
    ]
    return _Found(job.row_id, max(job.last_sequence, last), JobEvents(data=data, after=last, settled=settled))


def make_link(deployment: Deployment, job_id: str, body: JobLinkCreate, *, tenant: str) -> JobLink:
    """A link to the job's events; nothing is stored, and the job need not be there yet."""
    text_filter("job_id", job_id)
    now = deployment.clock.now()
    expires_at = (now + timedelta(seconds=body.expires_in_s)).replace(microsecond=0)
    token = job_links.issue(deployment.keyring.keys, tenant, job_id, expires_at)
    return JobLink(
        job_id=job_id, tenant=tenant, token=token, path=job_links.path_of(job_id, token), expires_at=expires_at
    )


def read_link(deployment: Deployment, token: str) -> ReadLink | None:
    """What a link's token says, expired or not; null for one that this deployment did not make."""
    return job_links.read(deployment.keyring.keys, token)


def _check(job_id: str, after: int, limit: int, wait_s: float) -> None:
    text_filter("job_id", job_id)
    if not job_id or len(job_id) > JOB_ID_LENGTH:
        raise InvalidField("job_id", f"must be a text of 1 to {JOB_ID_LENGTH} characters")
    if not 0 <= after <= LARGEST_SEQUENCE:
        raise InvalidField("after", "must be a sequence: 0 for the beginning, or `after` of the part before")
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidField("limit", f"must be 1 to {LARGEST_PAGE}")
    if not 0 <= wait_s <= LONGEST_WAIT_S:
        raise InvalidField("wait", f"must be 0 to {LONGEST_WAIT_S:g} seconds; then ask again")

"""The integration: a job's row, its callback URL and its events are written in the same transactions.

Every function here opens a transaction of its own, and none is open while the agent thinks. All that a job needs to
go on is in its row, so a process that dies leaves nothing behind that the next one cannot finish.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dispatcher import job_link, prepare_sqlite, publish, register_callback

#: Where `dispatcher serve` answers, as your clients' browsers see it.
EVENTS_BASE_URL = os.environ.get("EVENTS_BASE_URL", "http://127.0.0.1:8080")

#: The pretended agent reads so many pages, and what may happen to it halfway.
PAGES = 40
SECONDS_PER_PAGE = float(os.environ.get("SECONDS_PER_PAGE", "0.1"))
SCENARIOS = ("plain", "question", "failure")

SETTLED = ("completed", "failed", "canceled")


class Model(DeclarativeBase):
    """Your own tables. The dispatcher's stand beside them in the same database."""


class AgentJob(Model):
    __tablename__ = "agent_jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    task: Mapped[str]
    scenario: Mapped[str]
    #: queued, running, input_required; at the end one of SETTLED.
    status: Mapped[str]
    pages_read: Mapped[int] = mapped_column(default=0)
    answer: Mapped[str | None]
    result: Mapped[str | None]

    def shown(self) -> dict[str, Any]:
        """What its client is told."""
        return {
            "job_id": self.id,
            "status": self.status,
            "pages_read": self.pages_read,
            "result": self.result,
            # Opens this job's events for an hour and nothing else: for a page, which must not have an API key.
            "events_url": EVENTS_BASE_URL + job_link(self.id).path,
        }


class NoSuchJob(Exception):
    """There is no such job."""


class Refused(Exception):
    """The job is not in a state that allows this."""


class NeedsInput(Exception):
    """The agent asks its client something."""


# The dispatcher's own setting: the outbox is in your database, so both name the same one.
engine = create_async_engine(os.environ.get("DISPATCHER_DATABASE_URL", "sqlite+aiosqlite:///dispatcher.db"))
prepare_sqlite(engine)  # does nothing on PostgreSQL
Session: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)


async def start(task: str, scenario: str, webhook_url: str | None, webhook_secret: str | None) -> dict[str, Any]:
    """Makes a job; what its client is told. Raises `dispatcher.InvalidField` for a URL that may not be called."""
    job = AgentJob(id=f"job_{secrets.token_hex(8)}", task=task, scenario=scenario, status="queued")
    callback = None
    async with Session.begin() as session:
        session.add(job)
        if webhook_url is not None:
            callback = register_callback(session, job_id=job.id, url=webhook_url, secret=webhook_secret)
        publish(session, "job.started", {"status": job.status, "task": task}, job_id=job.id)
    return job.shown() | {"webhook_secret": callback.secret if callback else None}


async def find(job_id: str) -> AgentJob:
    """The job as it stands. Raises `NoSuchJob`."""
    async with Session() as session:
        job = await session.get(AgentJob, job_id)
    if job is None:
        raise NoSuchJob(f"there is no job {job_id}")
    return job


@asynccontextmanager
async def changing(job_id: str) -> AsyncIterator[tuple[AsyncSession, AgentJob]]:
    """A transaction that holds the row of a job that has not settled. Raises `NoSuchJob`, `Refused`.

    The lock keeps the events in the order of the states: nothing is published behind the event that settles the job.
    """
    async with Session.begin() as session:
        job = await session.get(AgentJob, job_id, with_for_update=True)
        if job is None:
            raise NoSuchJob(f"there is no job {job_id}")
        if job.status in SETTLED:
            raise Refused(f"the job is {job.status}")
        yield session, job


async def work(job_id: str) -> None:
    """The agent's loop, from where the job stands until it has settled or waits for its client."""
    try:
        while (job := await find(job_id)).pages_read < PAGES:
            try:
                await read_page(job)
            except NeedsInput as question:
                await ask(job_id, str(question))
                return
            except Exception as error:  # noqa: BLE001 - whatever the agent fails with is how the job ends
                await settle(job_id, "failed", str(error))
                return
            async with changing(job_id) as (session, job):
                job.status, job.pages_read = "running", job.pages_read + 1
                progress = {"percentage": 100 * job.pages_read // PAGES, "step": f"page {job.pages_read} of {PAGES}"}
                publish(session, "job.progress", progress, job_id=job_id)
        await settle(job_id, "completed", f"{job.task}: read {PAGES} pages")
    except Refused:
        return  # canceled meanwhile, and its last event is published


async def ask(job_id: str, question: str) -> None:
    """The job waits for its client. Raises `NoSuchJob`, `Refused`."""
    async with changing(job_id) as (session, job):
        job.status = "input_required"
        publish(session, "job.input_required", {"status": job.status, "question": question}, job_id=job_id)


async def answer(job_id: str, text: str) -> AgentJob:
    """The client's answer, with which the job can go on. Raises `NoSuchJob`, `Refused`."""
    async with changing(job_id) as (session, job):
        if job.status != "input_required":
            raise Refused("the job asks nothing")
        job.status, job.answer = "running", text
        publish(session, "job.resumed", {"status": job.status, "answer": text}, job_id=job_id)
    return job


async def settle(job_id: str, status: str, result: str | None) -> AgentJob:
    """Ends the job as completed, failed or canceled, which are terminal events. Raises `NoSuchJob`, `Refused`."""
    async with changing(job_id) as (session, job):
        job.status, job.result = status, result
        publish(session, f"job.{status}", {"status": status, "result": result}, job_id=job_id)
    return job


async def cancel(job_id: str) -> AgentJob:
    """Ends the job for its client; its loop notices at its next page. Raises `NoSuchJob`, `Refused`."""
    return await settle(job_id, "canceled", None)


async def read_page(job: AgentJob) -> None:
    """In the place of your model's calls."""
    await asyncio.sleep(SECONDS_PER_PAGE)
    if job.pages_read == PAGES // 2 and job.scenario == "question" and job.answer is None:
        raise NeedsInput("The other half is in French. Shall I read it too?")
    if job.pages_read == PAGES // 2 and job.scenario == "failure":
        raise ValueError(f"page {job.pages_read + 1} cannot be read")


_working: set[asyncio.Task[None]] = set()


def begin(job_id: str) -> None:
    """Works on the job in the background."""
    task = asyncio.create_task(work(job_id))
    _working.add(task)
    task.add_done_callback(_working.discard)


@asynccontextmanager
async def working() -> AsyncIterator[None]:
    """Around an app's life: makes your own tables, goes on with what the process before left, stops at the end.

    For one process. With several, a queue says who works on which job: see `examples/worker`.
    """
    async with engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)  # the dispatcher's own: `dispatcher migrate`
    async with Session() as session:
        left = await session.scalars(select(AgentJob.id).where(AgentJob.status.in_(("queued", "running"))))
    for job_id in left:
        begin(job_id)
    try:
        yield
    finally:
        for task in _working:
            task.cancel()
        await asyncio.gather(*_working, return_exceptions=True)
        await engine.dispose()

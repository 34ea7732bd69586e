"""The integration: a job's row, its callback URL and its events are written in the same transactions.

Every function here opens a transaction of its own, and none is open while the agent thinks.
"""

import asyncio
import os
import secrets

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dispatcher import prepare_sqlite, publish, register_callback

STEPS = ("plan", "search", "write")


class Model(DeclarativeBase):
    """Your own tables. The dispatcher's stand beside them in the same database."""


class AgentJob(Model):
    __tablename__ = "agent_jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    task: Mapped[str]
    status: Mapped[str]
    result: Mapped[str | None]


# The dispatcher's own setting: the outbox is in your database, so both name the same one.
engine = create_async_engine(os.environ.get("DISPATCHER_DATABASE_URL", "sqlite+aiosqlite:///dispatcher.db"))
prepare_sqlite(engine)  # does nothing on PostgreSQL
Session: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)


async def create_tables() -> None:
    """Your own tables only. The dispatcher's are made by `dispatcher migrate` (on SQLite when it starts)."""
    async with engine.begin() as connection:
        await connection.run_sync(Model.metadata.create_all)


async def start(task: str, webhook_url: str | None, webhook_secret: str | None) -> tuple[AgentJob, str | None]:
    """A new job, and the secret that its webhooks are signed with. Raises `dispatcher.InvalidField` for a bad URL."""
    job = AgentJob(id=f"job_{secrets.token_hex(8)}", task=task, status="queued")
    secret = None
    async with Session.begin() as session:
        session.add(job)
        if webhook_url is not None:
            callback = register_callback(session, job_id=job.id, url=webhook_url, secret=webhook_secret)
            secret = callback.secret
        publish(session, "job.started", {"status": job.status, "task": task}, job_id=job.id)
    return job, secret


async def find(job_id: str) -> AgentJob | None:
    async with Session() as session:
        return await session.get(AgentJob, job_id)


async def work(job_id: str) -> None:
    """The agent's loop: thinks, then commits what it got and publishes it."""
    notes: list[str] = []
    for number, step in enumerate(STEPS, start=1):
        notes.append(await think(step))
        async with Session.begin() as session:
            job = await session.get_one(AgentJob, job_id)
            job.status = "running"
            publish(session, "job.progress", {"step": step, "percentage": 100 * number // len(STEPS)}, job_id=job_id)
    async with Session.begin() as session:
        job = await session.get_one(AgentJob, job_id)
        job.status, job.result = "completed", "; ".join(notes)
        publish(session, "job.completed", {"status": job.status, "result": job.result}, job_id=job_id)


async def think(step: str) -> str:
    """In the place of your model's calls."""
    await asyncio.sleep(0.05)
    return f"{step}: done"

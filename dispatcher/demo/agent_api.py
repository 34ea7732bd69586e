"""A small agent API, to read first: each change of a job and the event that tells of it share one transaction.

`POST /jobs` starts a job and registers its client's callback URL; what the job does next reaches that URL.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator

from aiohttp import web
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dispatcher import InvalidField, prepare_sqlite, publish, register_callback
from dispatcher.demo.serving import serve

#: What the agent does for a task, and how long each step takes it.
STEPS = ("plan", "search", "write")
STEP_S = 0.15

_FIELDS = ("request_id", "task", "webhook_url", "webhook_secret")


class Model(DeclarativeBase):
    """The agent API's own tables; the dispatcher's stand beside them in the same database."""


class AgentJob(Model):
    """A task that the agent works on."""

    __tablename__ = "agent_jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    #: The client's own name for its request: the same one twice is refused.
    request_id: Mapped[str] = mapped_column(unique=True)
    task: Mapped[str]
    status: Mapped[str]
    steps_done: Mapped[int]


class AgentApi:
    """`POST /jobs` and `GET /jobs/{job_id}`, and the jobs themselves."""

    def __init__(self, database_url: str) -> None:
        self._engine = create_async_engine(database_url)
        prepare_sqlite(self._engine)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._working: set[asyncio.Task[None]] = set()

    def application(self) -> web.Application:
        """The routes, with tables that exist before the first request."""
        app = web.Application()
        app.add_routes([web.post("/jobs", self.start), web.get("/jobs/{job_id}", self.show)])
        app.cleanup_ctx.append(self._database)
        return app

    async def start(self, request: web.Request) -> web.Response:
        """Job, callback URL and first event are committed together, or none of them is."""
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in _FIELDS):
            return web.json_response({"detail": f"send a JSON object with the texts {', '.join(_FIELDS)}"}, status=422)
        job = AgentJob(
            id=f"job_{secrets.token_hex(4)}",
            request_id=body["request_id"],
            task=body["task"],
            status="queued",
            steps_done=0,
        )
        try:
            async with self._sessions.begin() as session:
                session.add(job)
                register_callback(session, job_id=job.id, url=body["webhook_url"], secret=body["webhook_secret"])
                publish(session, "job.started", {"task": job.task}, job_id=job.id)
        except InvalidField as error:
            return web.json_response({"detail": str(error)}, status=422)
        except IntegrityError:
            return web.json_response({"detail": f"request_id {job.request_id} was used before"}, status=409)
        working = asyncio.create_task(self._work(job.id))
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        return web.json_response({"job_id": job.id, "status": job.status}, status=202)

    async def _work(self, job_id: str) -> None:
        for number, step in enumerate(STEPS, start=1):
            # Here a real agent thinks; no transaction is open meanwhile.
            await asyncio.sleep(STEP_S)
            async with self._sessions.begin() as session:
                job = await session.get_one(AgentJob, job_id)
                job.steps_done = number
                if number < len(STEPS):
                    job.status = "running"
                    done = {"step": step, "percentage": 100 * number // len(STEPS)}
                    # Each step is to arrive: of `job.progress` a slow receiver would get the newest only.
                    publish(session, "job.step", done, job_id=job_id)
                else:
                    job.status = "completed"
                    publish(session, "job.completed", {"result": f"{job.task}: done"}, job_id=job_id)

    async def show(self, request: web.Request) -> web.Response:
        async with self._sessions() as session:
            job = await session.get(AgentJob, request.match_info["job_id"])
        if job is None:
            return web.json_response({"detail": "there is no such job"}, status=404)
        return web.json_response({"job_id": job.id, "status": job.status, "steps_done": job.steps_done})

    async def _database(self, app: web.Application) -> AsyncIterator[None]:
        async with self._engine.begin() as connection:
            await connection.run_sync(Model.metadata.create_all)
        yield
        for working in self._working:
            working.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await self._engine.dispose()


if __name__ == "__main__":
    serve(AgentApi(os.environ["DISPATCHER_DATABASE_URL"]).application())

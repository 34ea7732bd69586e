"""The agent API that clients of shape 5 know: a job request with `webhook_url`, `202 {job_id, status}`, then events."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator

from aiohttp import web
from sqlalchemy.ext.asyncio import create_async_engine

from dispatcher import Dispatcher, prepare_sqlite, publish, register_callback

STEPS = ("searching", "writing")

engine = create_async_engine(os.environ["DISPATCHER_DATABASE_URL"])
prepare_sqlite(engine)
running: set[asyncio.Task[None]] = set()


async def run(job_id: str) -> None:
    for number, step in enumerate(STEPS, start=1):
        progress = {"current_step": step, "percentage": 100 * number // len(STEPS)}
        async with engine.begin() as connection:
            await connection.run_sync(
                publish, "JOB_PROGRESS", {"status": "running", "progress": progress}, job_id=job_id
            )
    async with engine.begin() as connection:
        await connection.run_sync(
            publish, "JOB_COMPLETED", {"status": "completed", "results": {"papers": 2}}, job_id=job_id
        )


async def start(request: web.Request) -> web.Response:
    url = (await request.json())["webhook_url"]
    job_id = f"agentx_{secrets.token_hex(4)}"
    async with engine.begin() as connection:
        await connection.run_sync(
            lambda plain: register_callback(plain, job_id=job_id, url=url, secret=os.environ["WEBHOOK_SECRET"])
        )
    task = asyncio.create_task(run(job_id))
    running.add(task)
    task.add_done_callback(running.discard)
    return web.json_response({"job_id": job_id, "status": "queued"}, status=202)


async def dispatching(app: web.Application) -> AsyncIterator[None]:
    async with Dispatcher():
        yield
    await engine.dispose()


async def serve() -> None:
    app = web.Application()
    app.router.add_post("/jobs", start)
    app.cleanup_ctx.append(dispatching)
    runner = web.AppRunner(app, handle_signals=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"Listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())

"""An agent API on aiohttp. It only publishes: `dispatcher work` or `dispatcher serve` delivers, in its own process."""

import asyncio
import os
from collections.abc import AsyncIterator

import jobs
from aiohttp import web

from dispatcher import InvalidField

running: set[asyncio.Task[None]] = set()


async def start(request: web.Request) -> web.Response:
    try:
        new = await request.json()
        job, webhook_secret = await jobs.start(new["task"], new.get("webhook_url"), new.get("webhook_secret"))
    except InvalidField as error:
        return web.json_response({"detail": str(error)}, status=422)
    except (ValueError, LookupError, TypeError, AttributeError):
        return web.json_response({"detail": "send a JSON object with task, webhook_url, webhook_secret"}, status=400)
    task = asyncio.create_task(jobs.work(job.id))
    running.add(task)
    task.add_done_callback(running.discard)
    return web.json_response({"job_id": job.id, "status": job.status, "webhook_secret": webhook_secret}, status=202)


async def show(request: web.Request) -> web.Response:
    job = await jobs.find(request.match_info["job_id"])
    if job is None:
        return web.json_response({"detail": "there is no such job"}, status=404)
    return web.json_response({"job_id": job.id, "status": job.status, "result": job.result})


async def database(app: web.Application) -> AsyncIterator[None]:
    await jobs.create_tables()
    yield
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await jobs.engine.dispose()


app = web.Application()
app.add_routes([web.post("/jobs", start), web.get("/jobs/{job_id}", show)])
app.cleanup_ctx.append(database)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))

"""The same agent API on aiohttp. It only publishes; `dispatcher serve` beside it delivers, and streams to the page."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import jobs
from aiohttp import web

from dispatcher import InvalidField

routes = web.RouteTableDef()


@routes.get("/")
async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(Path(__file__).with_name("page.html"))


@routes.post("/jobs")
async def start(request: web.Request) -> web.Response:
    try:
        new = await request.json()
        task, scenario = str(new["task"]), new.get("scenario", "plain")
        if scenario not in jobs.SCENARIOS:
            raise ValueError(scenario)
    except (ValueError, LookupError, TypeError):
        return _problem(400, f"send an object with task; scenario is one of {', '.join(jobs.SCENARIOS)}")
    started = await jobs.start(task, scenario, new.get("webhook_url"), new.get("webhook_secret"))
    jobs.begin(started["job_id"])
    return web.json_response(started, status=202)


@routes.get("/jobs/{job_id}")
async def show(request: web.Request) -> web.Response:
    return web.json_response((await jobs.find(request.match_info["job_id"])).shown())


@routes.post("/jobs/{job_id}/input")
async def answer(request: web.Request) -> web.Response:
    try:
        text = str((await request.json())["answer"])
    except (ValueError, LookupError, TypeError):
        return _problem(400, "send an object with answer")
    job = await jobs.answer(request.match_info["job_id"], text)
    jobs.begin(job.id)
    return web.json_response(job.shown())


@routes.post("/jobs/{job_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    return web.json_response((await jobs.cancel(request.match_info["job_id"])).shown())


@web.middleware
async def refuse(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidField as error:
        return _problem(422, str(error))
    except jobs.NoSuchJob as error:
        return _problem(404, str(error))
    except jobs.Refused as error:
        return _problem(409, str(error))


def _problem(status: int, detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=status)


async def working(app: web.Application) -> AsyncIterator[None]:
    async with jobs.working():
        yield


app = web.Application(middlewares=[refuse])
app.add_routes(routes)
app.cleanup_ctx.append(working)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))

"""An agent API on FastAPI. The dispatcher runs in the app's own event loop: one process does everything."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jobs
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from dispatcher import Dispatcher, InvalidField

running: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # With several app processes leave the dispatcher out here, and run `dispatcher work` beside them.
    async with Dispatcher():
        await jobs.create_tables()
        yield
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    await jobs.engine.dispose()


app = FastAPI(lifespan=lifespan)


class NewJob(BaseModel):
    task: str
    webhook_url: str | None = None
    webhook_secret: str | None = None


@app.post("/jobs", status_code=202)
async def start(new: NewJob) -> dict[str, Any]:
    try:
        job, webhook_secret = await jobs.start(new.task, new.webhook_url, new.webhook_secret)
    except InvalidField as error:
        raise HTTPException(422, str(error)) from None
    task = asyncio.create_task(jobs.work(job.id))
    running.add(task)
    task.add_done_callback(running.discard)
    return {"job_id": job.id, "status": job.status, "webhook_secret": webhook_secret}


@app.get("/jobs/{job_id}")
async def show(job_id: str) -> dict[str, Any]:
    job = await jobs.find(job_id)
    if job is None:
        raise HTTPException(404, "there is no such job")
    return {"job_id": job.id, "status": job.status, "result": job.result}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))

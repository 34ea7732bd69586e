"""An agent API on FastAPI. It only publishes; `dispatcher serve` beside it delivers, and streams to the page."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import jobs
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel

from dispatcher import InvalidField


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with jobs.working():
        yield


app = FastAPI(lifespan=lifespan)


class NewJob(BaseModel):
    task: str
    scenario: Literal[jobs.SCENARIOS] = "plain"
    webhook_url: str | None = None
    webhook_secret: str | None = None


class Input(BaseModel):
    answer: str


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


@app.post("/jobs", status_code=202)
async def start(new: NewJob) -> dict[str, Any]:
    started = await jobs.start(new.task, new.scenario, new.webhook_url, new.webhook_secret)
    jobs.begin(started["job_id"])
    return started


@app.get("/jobs/{job_id}")
async def show(job_id: str) -> dict[str, Any]:
    return (await jobs.find(job_id)).shown()


@app.post("/jobs/{job_id}/input")
async def answer(job_id: str, given: Input) -> dict[str, Any]:
    job = await jobs.answer(job_id, given.answer)
    jobs.begin(job_id)
    return job.shown()


@app.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str) -> dict[str, Any]:
    return (await jobs.cancel(job_id)).shown()


@app.exception_handler(InvalidField)
@app.exception_handler(jobs.NoSuchJob)
@app.exception_handler(jobs.Refused)
async def refuse(request: Request, error: Exception) -> JSONResponse:
    status = {InvalidField: 422, jobs.NoSuchJob: 404, jobs.Refused: 409}[type(error)]
    return JSONResponse({"detail": str(error)}, status)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))

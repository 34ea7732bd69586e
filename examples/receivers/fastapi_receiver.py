"""A receiver on FastAPI: verifies with `dispatcher.verify`, applies a job's events in order, reads what it missed.

The reading needs `EVENTS_BASE_URL` (where the sender's `dispatcher serve` answers) and `EVENTS_KEY` (an API key).
"""

import asyncio
import json
import os
from collections import defaultdict
from typing import Any
from urllib.parse import quote

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request

from dispatcher import VerificationError, verify

SECRET = os.environ["WEBHOOK_SECRET"]
EVENTS_BASE_URL = os.environ.get("EVENTS_BASE_URL")
EVENTS_KEY = os.environ.get("EVENTS_KEY")

app = FastAPI()

# In your database: how far each job was followed, and the ids of events that belong to no job.
applied: defaultdict[str, int] = defaultdict(int)
taken: set[str] = set()
# In your database: the lock of the job's row. A redelivery may come while a job's other event is being applied.
locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)


@app.post("/hooks", status_code=204)
async def receive(request: Request) -> None:
    body = await request.body()  # the raw bytes: a parsed body no longer matches its signature
    try:
        verify(body, request.headers, SECRET)
    except VerificationError as error:
        raise HTTPException(401, str(error)) from None
    event = json.loads(body)
    if "job_id" not in event:
        if event["id"] not in taken:
            taken.add(event["id"])
            apply(event)
        return
    job_id, previous = event["job_id"], int(request.headers.get("x-job-previous", 0))
    async with locks[job_id]:
        if event["sequence"] > applied[job_id] and previous > applied[job_id]:
            await catch_up(job_id, event["sequence"])
        if event["sequence"] > applied[job_id]:
            apply(event)
            applied[job_id] = event["sequence"]


async def catch_up(job_id: str, until: int) -> None:
    """Applies the job's events between the last applied and `until`. If that fails, the sender tries again later."""
    if EVENTS_BASE_URL is None:
        print("missed something of", job_id, flush=True)
        return
    url = f"{EVENTS_BASE_URL}/v1/jobs/{quote(job_id, safe='')}/events"
    try:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {EVENTS_KEY}"}, timeout=10) as client:
            while True:
                answer = await client.get(url, params={"after": applied[job_id]})
                missed = [event for event in answer.raise_for_status().json()["data"] if event["sequence"] < until]
                if not missed:
                    return
                for event in missed:
                    apply(event | {"job_id": job_id})
                    applied[job_id] = event["sequence"]
    except httpx.HTTPError as error:
        raise HTTPException(503, f"cannot read what was missed: {error}") from None


def apply(event: dict[str, Any]) -> None:
    """Put your work into a queue here: the sender waits 20 seconds at most for the answer."""
    print("received", event["type"], event["id"], flush=True)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "3000")))

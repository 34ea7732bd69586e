"""A receiver on FastAPI: verifies with `dispatcher.verify`, takes each event once, applies a job's events in order."""

import json
import os
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request

from dispatcher import VerificationError, verify

SECRET = os.environ["WEBHOOK_SECRET"]

app = FastAPI()

# In your database: what was taken, by id, and how far each job was followed.
taken: set[str] = set()
applied: dict[str, int] = {}


@app.post("/hooks", status_code=204)
async def receive(request: Request) -> None:
    body = await request.body()  # the raw bytes: a parsed body no longer matches its signature
    try:
        verify(body, request.headers, SECRET)
    except VerificationError as error:
        raise HTTPException(401, str(error)) from None
    event = json.loads(body)
    if event["id"] in taken:
        return
    taken.add(event["id"])
    if "job_id" not in event:
        apply(event, missed=False)
        return
    last = applied.get(event["job_id"], 0)
    if event["sequence"] > last:
        apply(event, missed=int(request.headers.get("x-job-previous", 0)) > last)
        applied[event["job_id"]] = event["sequence"]


def apply(event: dict[str, Any], missed: bool) -> None:
    """Put your work into a queue here: the sender waits 20 seconds at most for the answer."""
    print("received", event["type"], event["id"], "after a gap" if missed else "", flush=True)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "3000")))

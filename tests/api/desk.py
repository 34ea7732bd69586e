"""An API whose readers hear what is numbered, and its streams as an EventSource reads them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from dispatcher.engine.dispatcher import open_store
from dispatcher.service.job_readers import JobReaders
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.hot import HotStore
from tests.api.client import Api
from tests.clock import FakeClock
from tests.service.following import PATIENCE_S, settle

STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Desk:
    """An API with its readers, and what a dispatcher in its process does to them."""

    api: Api
    readers: JobReaders
    store: HotStore
    clock: FakeClock

    async def publish(self, *types: str, job_id: str = "job_1", **fields: Any) -> None:
        """Publishes events and has them numbered."""
        for event_type in types or ("job.step",):
            body = {"type": event_type, "job_id": job_id, "data": {"n": 1}, **fields}
            assert (await self.api.post("/v1/events", body)).status == 202
        while (fanned := await self.store.fan_out(1000)).events:
            self.readers.numbered(fanned.jobs)

    async def settle(self, job_id: str = "job_1") -> None:
        await settle(self.api.deployment.database, job_id)
        self.readers.numbered([])

    async def link(self, job_id: str = "job_1", **fields: object) -> Any:
        made = await self.api.post(f"/v1/jobs/{job_id}/link", fields)
        assert made.status == 201, made.raw
        return made.json


@asynccontextmanager
async def open_desk(url: str, clock: FakeClock, **given: Any) -> AsyncIterator[Desk]:
    # Only here: the fixtures of that module need this one.
    from tests.api.conftest import running_api, settings_for

    deployment: Deployment = open_deployment(settings_for(url).model_copy(update=given), clock)
    store = open_store(deployment.database, deployment.settings)
    readers = JobReaders(deployment)
    try:
        await store.enrol("test", 1e6)
        async with running_api(deployment, readers=readers) as api:
            yield Desk(api, readers, store, clock)
    finally:
        await store.close()
        await deployment.database.close()


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as an EventSource would hand it out."""

    name: str
    id: str
    data: Any


async def messages(response: aiohttp.ClientResponse, count: int | None = None) -> list[Message]:
    """The next messages of a stream, or all up to its end."""
    found: list[Message] = []
    fields: dict[str, str] = {}
    while count is None or len(found) < count:
        line = (await response.content.readline()).decode()
        if not line:
            break
        name, _, value = line.rstrip("\n").partition(": ")
        if line != "\n":
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
        elif "data" in fields:
            found.append(Message(fields.get("event", "message"), fields["id"], json.loads(fields["data"])))
            fields = {}
        else:
            fields = {}
    return found


@asynccontextmanager
async def stream(api: Api, path: str, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    sent = {**STREAM, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if api.key:
        sent["Authorization"] = f"Bearer {api.key}"
    async with asyncio.timeout(PATIENCE_S), api.session.get(api.base + path, headers=sent) as response:
        yield response

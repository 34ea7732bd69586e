"""An example agent API as its reader runs it: `dispatcher serve`, and beside it the app, in a process each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.deployed import LOCAL
from tests.programs import running_python

_EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples" / "agent_api"

#: Pages that the pretended agent reads.
PAGES = 40


@dataclass(frozen=True, slots=True)
class AgentApi:
    """Requests to the app, and to where its links lead."""

    url: str
    session: aiohttp.ClientSession

    async def post(self, path: str, body: object = None) -> tuple[int, Any]:
        """Status and answer of the app."""
        async with self.session.post(self.url + path, json=body) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and answer of the app."""
        async with self.session.get(self.url + path) as answer:
            return answer.status, await answer.json()

    async def start(self, task: str = "a", **fields: str) -> Any:
        """A job, as its client is told of it."""
        status, started = await self.post("/jobs", {"task": task, **fields})
        assert status == 202, started
        return started

    async def events(self, started: Any, until: str) -> list[dict[str, Any]]:
        """The job's events by its link, without a key, as soon as there is one of the type `until`."""
        events: list[dict[str, Any]] = []
        while until not in [event["type"] for event in events]:
            after = events[-1]["sequence"] if events else 0
            async with self.session.get(f"{started['events_url']}&after={after}&wait=20") as answer:
                assert answer.status == 200, await answer.text()
                part = await answer.json()
            assert part["data"] or not part["settled"], f"no {until} in {events}"
            events += part["data"]
        return events


@asynccontextmanager
async def serving(database_url: str) -> AsyncIterator[dict[str, str]]:
    """Runs `dispatcher serve` meanwhile; what the app's environment needs."""
    settings = LOCAL | {"database_url": database_url}
    environment = {f"DISPATCHER_{setting.upper()}": str(value) for setting, value in settings.items()}
    async with running_python("-m", "dispatcher", "serve", "--port", "0", **environment) as serve:
        yield environment | {"EVENTS_BASE_URL": await serve.url(), "SECONDS_PER_PAGE": "0.01"}


@asynccontextmanager
async def agent_api(name: str, environment: dict[str, str], **more: str) -> AsyncIterator[AgentApi]:
    """Runs the app meanwhile."""
    async with (
        running_python(_EXAMPLES / name, **environment | more) as app,
        aiohttp.ClientSession() as session,
    ):
        yield AgentApi(await app.url(), session)

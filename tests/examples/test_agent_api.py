"""Each example agent API, run as its reader runs it, tells a real receiver of its jobs."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dispatcher import verify
from tests.deployed import LOCAL
from tests.programs import Program, running_python
from tests.receiver import Receiver

_EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples" / "agent_api"

_BOTH = pytest.mark.parametrize("name", ["fastapi_app.py", "aiohttp_app.py"])


@asynccontextmanager
async def _agent_api(name: str, database_url: str) -> AsyncIterator[str]:
    """The URL of an example, beside `dispatcher work` where it only publishes."""
    settings = LOCAL | {"database_url": database_url}
    environment = {f"DISPATCHER_{setting.upper()}": str(value) for setting, value in settings.items()}
    async with AsyncExitStack() as stack:

        async def started(*arguments: str | Path) -> Program:
            return await stack.enter_async_context(running_python(*arguments, **environment))

        if name == "aiohttp_app.py":
            await (await started("-m", "dispatcher", "work")).says("dispatcher.started")
        yield await (await started(_EXAMPLES / name)).url()


async def _post(session: aiohttp.ClientSession, url: str, body: object) -> tuple[int, Any]:
    async with session.post(url, json=body) as answer:
        return answer.status, await answer.json()


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with session.get(url) as answer:
        return answer.status, await answer.json()


@_BOTH
async def test_an_example_agent_api_tells_a_receiver_of_its_job(
    empty_sqlite_url: str, receiver: Receiver, name: str
) -> None:
    async with _agent_api(name, empty_sqlite_url) as url, aiohttp.ClientSession() as session:
        request = {"task": "compare two papers", "webhook_url": receiver.url("/hooks?token=1")}
        status, job = await _post(session, f"{url}/jobs", request)
        assert (status, job["status"]) == (202, "queued")
        arrived = await receiver.wait_for(5)
        for one in arrived:
            verify(one.body, one.headers, job["webhook_secret"])
        events = [json.loads(one.body) for one in arrived]
        assert [(event["type"], event["sequence"]) for event in events] == [
            ("job.started", 1),
            ("job.progress", 2),
            ("job.progress", 3),
            ("job.progress", 4),
            ("job.completed", 5),
        ]
        assert {event["job_id"] for event in events} == {job["job_id"]}
        result = "plan: done; search: done; write: done"
        assert events[-1]["data"] == {"status": "completed", "result": result}
        shown = {"job_id": job["job_id"], "status": "completed", "result": result}
        assert await _get(session, f"{url}/jobs/{job['job_id']}") == (200, shown)


@_BOTH
async def test_an_example_agent_api_takes_the_client_s_own_secret(
    empty_sqlite_url: str, receiver: Receiver, name: str
) -> None:
    secret = "the client's own secret"
    async with _agent_api(name, empty_sqlite_url) as url, aiohttp.ClientSession() as session:
        request = {"task": "a", "webhook_url": receiver.url("/hooks"), "webhook_secret": secret}
        assert (await _post(session, f"{url}/jobs", request))[1]["webhook_secret"] == secret
        [first, *_] = await receiver.wait_for(1)
        verify(first.body, first.headers, secret)


@_BOTH
async def test_an_example_agent_api_refuses_a_bad_request_and_starts_nothing(
    empty_sqlite_url: str, receiver: Receiver, name: str
) -> None:
    async with _agent_api(name, empty_sqlite_url) as url, aiohttp.ClientSession() as session:
        refused = {"task": "a", "webhook_url": "ftp://example.com/"}
        status, answer = await _post(session, f"{url}/jobs", refused)
        assert status == 422
        assert "url" in answer["detail"]
        assert (await _post(session, f"{url}/jobs", {"webhook_url": receiver.url("/hooks")}))[0] in (400, 422)
        assert (await _post(session, f"{url}/jobs", ["no object"]))[0] in (400, 422)
        assert (await _get(session, f"{url}/jobs/job_unknown"))[0] == 404
        status, job = await _post(session, f"{url}/jobs", {"task": "without a webhook"})
        assert (status, job["webhook_secret"]) == (202, None)
    assert receiver.requests == []

"""Each example agent API, run as its reader runs it, tells a real receiver and a follower of its jobs."""

import json
from typing import Any

import pytest

from dispatcher import verify
from tests.examples.agent_api import PAGES, agent_api, serving
from tests.receiver import Received, Receiver

_BOTH = pytest.mark.parametrize("name", ["fastapi_app.py", "aiohttp_app.py"])
_TERMINAL = {"job.completed", "job.failed", "job.canceled"}


async def _until_told_the_end(receiver: Receiver, path: str) -> list[tuple[Received, dict[str, Any]]]:
    """The requests and their events, as soon as a terminal one came."""
    told: list[tuple[Received, dict[str, Any]]] = []
    while not told or told[-1][1]["type"] not in _TERMINAL:
        requests = await receiver.wait_for(len(told) + 1, path)
        told = [(request, json.loads(request.body)) for request in requests]
    return told


@_BOTH
async def test_an_example_agent_api_tells_a_receiver_and_a_follower_of_its_job(
    empty_sqlite_url: str, receiver: Receiver, name: str
) -> None:
    secret = "the client's own secret"
    async with serving(empty_sqlite_url) as environment, agent_api(name, environment) as api:
        started = await api.start("compare", webhook_url=receiver.url("/hooks?token=1"))
        own = await api.start(webhook_url=receiver.url("/own"), webhook_secret=secret)
        assert (started["status"], own["webhook_secret"]) == ("queued", secret)
        told = await _until_told_the_end(receiver, "/hooks")
        followed = await api.events(started, "job.completed")
        status, shown = await api.get(f"/jobs/{started['job_id']}")
        assert await api.events(shown, "job.completed") == followed, "the job shows a link of its own"
        for request, _ in await _until_told_the_end(receiver, "/own"):
            verify(request.body, request.headers, secret)
    # Who follows reads every event; a receiver is spared progress that newer progress took the place of.
    assert [event["sequence"] for event in followed] == list(range(1, PAGES + 3))
    assert [event["type"] for event in followed] == ["job.started", *["job.progress"] * PAGES, "job.completed"]
    assert [event["data"]["percentage"] for event in followed[1:-1]] == [100 * n // PAGES for n in range(1, PAGES + 1)]
    previous = 0
    for request, event in told:
        verify(request.body, request.headers, started["webhook_secret"])
        assert event["job_id"] == started["job_id"]
        assert int(request.headers["x-job-previous"]) == previous
        assert event["data"] == followed[event["sequence"] - 1]["data"]
        previous = event["sequence"]
    assert {event["sequence"] for _, event in told} >= {1, PAGES + 2}
    result = f"compare: read {PAGES} pages"
    assert followed[-1]["data"] == {"status": "completed", "result": result}
    assert status == 200
    expected = {"job_id": started["job_id"], "status": "completed", "pages_read": PAGES, "result": result}
    assert shown == expected | {"events_url": shown["events_url"]}


@_BOTH
async def test_an_example_job_asks_fails_and_is_canceled_and_each_ends_with_one_terminal_event(
    database_url: str, name: str
) -> None:
    async with serving(database_url) as environment, agent_api(name, environment) as api:
        asking = await api.start(scenario="question")
        job = f"/jobs/{asking['job_id']}"
        *_, question = await api.events(asking, "job.input_required")
        assert question["data"]["question"].endswith("?")
        assert (await api.get(job))[1]["status"] == "input_required"
        assert (await api.post(f"{job}/input", {"answer": "yes"}))[0] == 200
        events = await api.events(asking, "job.completed")
        assert [event["type"] for event in events if event["type"] != "job.progress"] == [
            "job.started",
            "job.input_required",
            "job.resumed",
            "job.completed",
        ]
        assert len(events) == PAGES + 4
        for path in ("input", "cancel"):
            assert await api.post(f"{job}/{path}", {"answer": "no"}) == (409, {"detail": "the job is completed"})

        failing = await api.start(scenario="failure")
        *_, failed = await api.events(failing, "job.failed")
        assert failed["data"] == {"status": "failed", "result": f"page {PAGES // 2 + 1} cannot be read"}

        waiting = await api.start(scenario="question")
        await api.events(waiting, "job.input_required")
        status, canceled = await api.post(f"/jobs/{waiting['job_id']}/cancel")
        assert (status, canceled["status"]) == (200, "canceled")
        events = await api.events(waiting, "job.canceled")
        assert events[-1]["type"] == "job.canceled"
        assert len(events) == PAGES // 2 + 3


@_BOTH
async def test_an_example_agent_api_goes_on_with_the_job_that_the_process_before_left(
    empty_sqlite_url: str, name: str
) -> None:
    async with serving(empty_sqlite_url) as environment:
        async with agent_api(name, environment, SECONDS_PER_PAGE="0.5") as api:
            started = await api.start()
            await api.events(started, "job.progress")
        async with agent_api(name, environment) as api:
            events = await api.events(started, "job.completed")
    assert [event["type"] for event in events] == ["job.started", *["job.progress"] * PAGES, "job.completed"]


@_BOTH
async def test_an_example_agent_api_refuses_a_bad_request_and_starts_nothing(
    empty_sqlite_url: str, receiver: Receiver, name: str
) -> None:
    async with serving(empty_sqlite_url) as environment, agent_api(name, environment) as api:
        refused = {"task": "a", "webhook_url": "ftp://example.com/"}
        status, answer = await api.post("/jobs", refused)
        assert status == 422
        assert "url" in answer["detail"]
        hook = receiver.url("/hooks")
        for body in ({"webhook_url": hook}, ["no object"], {"task": "a", "scenario": "none", "webhook_url": hook}):
            assert (await api.post("/jobs", body))[0] in (400, 422)
        assert (await api.get("/jobs/job_unknown"))[0] == 404
        assert (await api.post("/jobs/job_unknown/cancel"))[0] == 404
        assert (await api.post("/jobs/job_unknown/input", {}))[0] in (400, 422)
        started = await api.start("without a webhook")
        assert started["webhook_secret"] is None
        await api.events(started, "job.completed")
    assert receiver.requests == []

"""A job's link: what it opens, for whom and for how long."""

import base64
from collections.abc import Callable
from datetime import timedelta

import aiohttp
import pytest

from dispatcher.api import event_stream
from dispatcher.rules import job_links
from dispatcher.service import jobs
from dispatcher.store.deployment import open_deployment
from tests.api.client import Answered, Api
from tests.api.conftest import running_api, settings_for
from tests.api.desk import Desk, messages, stream
from tests.clock import FakeClock


async def test_a_link_opens_its_job_and_nothing_else(desk: Desk) -> None:
    link = await desk.link()
    assert link["path"] == f"/v1/jobs/job_1/events?token={link['token']}"
    nobody, bearer = desk.api.under(None), desk.api.under(link["token"])
    # Made before the job was mentioned: who made it vouches for it.
    assert (await nobody.get(link["path"])).json == {"data": [], "after": 0, "settled": False}
    await desk.publish("job.started")
    for answered in (await nobody.get(link["path"]), await bearer.get("/v1/jobs/job_1/events")):
        assert (answered.status, len(answered.json["data"])) == (200, 1)
    await desk.publish("job.started", job_id="job_2")
    other = await nobody.get(f"/v1/jobs/job_2/events?token={link['token']}")
    assert (other.status, other.problem) == (404, "not-found")
    assert "another job" in other.json["detail"]
    for answered in (
        await bearer.get("/v1/events"),
        await bearer.get("/v1/deliveries"),
        # It shows where a tenant's endpoints are.
        await bearer.get("/v1/jobs/job_1"),
        await bearer.post("/v1/jobs/job_1/link"),
        await bearer.post("/v1/jobs/job_1/callbacks", {"url": "https://example.com/"}),
    ):
        assert (answered.status, answered.problem) == (401, "unauthenticated")
    refused = await nobody.get(f"/v1/events?token={link['token']}")
    assert refused.status == 401
    assert (await nobody.get(f"{link['path']}&tenant=acme")).status == 403


async def test_an_expired_link_says_when_it_expired(desk: Desk) -> None:
    link = await desk.link(expires_in_s=600)
    assert link["expires_at"] == "2026-01-01T12:10:00Z"
    nobody = desk.api.under(None)
    desk.clock.advance(599)
    assert (await nobody.get(link["path"])).status == 200
    desk.clock.advance(1)
    answered = await nobody.get(link["path"])
    assert (answered.status, answered.problem) == (401, "unauthenticated")
    assert "expired at 2026-01-01T12:10:00Z" in answered.json["detail"]


async def test_a_stream_ends_when_its_link_expires(sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    link = await sqlite_desk.link(expires_in_s=600)
    async with stream(sqlite_desk.api.under(None), link["path"]) as following:
        assert following.status == 200
        sqlite_desk.clock.advance(600)
        with pytest.raises(aiohttp.ClientPayloadError):
            await messages(following)


@pytest.mark.parametrize(
    "change", [lambda token: token[:-1], lambda token: token + "A", lambda token: "job_", str.upper]
)
async def test_a_link_that_was_changed_is_refused(sqlite_desk: Desk, change: Callable[[str], str]) -> None:
    link = await sqlite_desk.link()
    answered = await sqlite_desk.api.under(None).get(f"/v1/jobs/job_1/events?token={change(link['token'])}")
    assert (answered.status, answered.problem) == (401, "unauthenticated")


@pytest.mark.parametrize("seconds", [0, 7 * 86400 + 1, -5, "600"])
async def test_a_link_holds_for_a_second_to_a_week(api: Api, seconds: object) -> None:
    answered = await api.post("/v1/jobs/job_1/link", {"expires_in_s": seconds})
    assert (answered.status, answered.pointers) == (422, ["#/expires_in_s"])


async def test_any_key_of_the_ring_verifies(sqlite_url: str, clock: FakeClock) -> None:
    old, new = b"o" * 32, b"n" * 32
    for ring, status in (([new, old], 200), ([new], 401)):
        keys = ",".join(base64.b64encode(key).decode() for key in ring)
        settings = settings_for(sqlite_url).model_copy()
        deployment = open_deployment(type(settings)(database_url=sqlite_url, secret_key=keys), clock)
        token = job_links.issue([old], "default", "job_1", clock.now() + timedelta(hours=1))
        try:
            async with running_api(deployment) as api:
                assert (await api.under(None).get(f"/v1/jobs/job_1/events?token={token}")).status == status
        finally:
            await deployment.database.close()


async def test_pages_of_any_origin_may_read_with_a_link_and_with_a_link_only(sqlite_desk: Desk) -> None:
    link = await sqlite_desk.link()
    nobody = sqlite_desk.api.under(None)

    async def allowed(answered: Answered) -> str | None:
        return answered.headers.get("Access-Control-Allow-Origin")

    assert await allowed(await nobody.get(link["path"])) == "*"
    assert await allowed(await nobody.get("/v1/jobs/job_1/events?token=job_no")) == "*"
    for path in ("/v1/jobs/job_1/events", f"/v1/events?token={link['token']}", "/healthz"):
        assert await allowed(await nobody.get(path)) is None
    assert await allowed(await sqlite_desk.api.get("/v1/jobs/job_1")) is None
    answered = await nobody.get(link["path"])
    assert (answered.headers["Cache-Control"], answered.headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert "Access-Control-Allow-Credentials" not in answered.headers


async def test_a_token_is_not_logged_even_with_a_fault_of_ours(
    sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("the inside of the service")

    link = await sqlite_desk.link()
    monkeypatch.setattr(jobs, "events_after", broken)
    caplog.set_level("DEBUG")
    answered = await sqlite_desk.api.under(None).get(link["path"])
    assert answered.status == 500
    assert "route=/v1/jobs/{job_id}/events" in caplog.text
    for logged in (caplog.text, answered.raw.decode()):
        assert link["token"] not in logged

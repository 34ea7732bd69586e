"""README.md, followed as a newcomer does: migrate, run the app, start a job, verify what arrives."""

from pathlib import Path

import httpx
import pytest

from tests.docs.pages import ROOT, Block, blocks
from tests.docs.python_blocks import python_of
from tests.docs.shell import Shell
from tests.receiver import Receiver

_PAGE = ROOT / "README.md"


async def test_the_integration_of_the_readme_delivers_a_jobs_event_that_verifies(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "sqlite:///app.db")
    monkeypatch.setenv("DISPATCHER_ALLOW_HTTP", "true")
    monkeypatch.setenv("DISPATCHER_ALLOW_NETWORKS", "127.0.0.0/8")
    shell = Shell(tmp_path)
    for block in blocks(_PAGE, "sh"):
        if not block.not_run:
            await shell.run(block)
    # The answer must hold the secret that signs, where the tenant has a default too.
    await shell.run(Block(_PAGE, 0, "sh", "dispatcher tenants set-secret default", None))
    async with python_of(_PAGE) as names:
        app = names["app"]
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://app") as client,
        ):
            answer = await client.post("/jobs", json={"task": "look it up", "webhook_url": receiver.url("/hook")})
            [request] = await receiver.wait_for(1, "/hook")
        assert answer.status_code == 202
        secret = answer.json()["webhook_secret"]
        assert names["is_genuine"](request.body, request.headers, secret)
        assert not names["is_genuine"](request.body + b" ", request.headers, secret)
        event = names["event_of"](request.body, request.headers, secret)
    assert (event["type"], event["job_id"], event["sequence"]) == ("job.started", str(answer.json()["job_id"]), 1)


def test_the_readme_is_read_in_two_minutes() -> None:
    prose = [line for line in _PAGE.read_text().splitlines() if not line.startswith("|")]
    assert len(" ".join(prose).split()) < 900

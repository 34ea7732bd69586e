"""docs/receivers.md: every way to verify accepts a real request and refuses a changed one; every receiver runs."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import httpx
import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from dispatcher.clock import SystemClock
from dispatcher.rules.a2a_bodies import OTHERWISE, STATES
from dispatcher.rules.bodies import EventFacts, body_headers, frozen_profile, render
from dispatcher.service import public_keys
from dispatcher.states import Profile, SignatureVersion
from tests.docs.pages import ROOT, blocks
from tests.docs.python_blocks import python_of
from tests.npm import node_modules
from tests.outpost import Outpost
from tests.programs import running
from tests.receiver import Receiver

_PAGE = ROOT / "docs" / "receivers.md"


@dataclass(frozen=True, slots=True)
class Genuine:
    """A request as a receiver got it, and the secret that it verifies with."""

    body: bytes
    headers: Mapping[str, str]
    secret: str

    @property
    def changed(self) -> bytes:
        return self.body.replace(b"40", b"41")

    @property
    def plain_headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}


@pytest.fixture(params=[None])
async def genuine(request: pytest.FixtureRequest, sqlite_url: str, receiver: Receiver) -> Genuine:
    """A request that was really sent; the parameter is the receiver's own secret, if it has one."""
    outpost = Outpost(sqlite_url, SystemClock())
    try:
        endpoint = await outpost.endpoint(
            receiver.url("/hook"),
            secret=request.param,
            signature_header="X-Hub-Signature-256",
            signature_prefix="sha256=",
        )
        async with outpost.dispatcher():
            await outpost.publish("job.progress", job_id="job_1", data='{"percentage": 40}')
            [sent] = await receiver.wait_for(1)
    finally:
        await outpost.close()
    return Genuine(sent.body, sent.headers, endpoint.secret)


@pytest.mark.parametrize("genuine", [None, "s3cret-text of mine"], indirect=True, ids=["whsec", "text"])
async def test_each_way_to_verify_in_python_tells_a_genuine_request(genuine: Genuine) -> None:
    body, headers, secret = genuine.body, genuine.headers, genuine.secret
    async with python_of(_PAGE) as names:
        assert names["check"](body, headers, secret) == 200
        assert names["check"](genuine.changed, headers, secret) == 401
        for way in ("is_genuine", "is_genuine_by_header"):
            assert names[way](body, headers, secret) is True
            assert names[way](genuine.changed, headers, secret) is False
            assert names[way](body, {}, secret) is False
        # The library takes every secret for base64.
        known = secret if secret.startswith("whsec_") else base64.b64encode(secret.encode()).decode()
        assert names["event_of"](body, headers, known)["data"] == {"percentage": 40}
        with pytest.raises(WebhookVerificationError):
            names["event_of"](genuine.changed, headers, known)


async def test_the_public_key_tells_a_genuine_request(sqlite_url: str, receiver: Receiver) -> None:
    outpost = Outpost(sqlite_url, SystemClock())
    try:
        endpoint = await outpost.endpoint(receiver.url("/hook"), signatures=tuple(SignatureVersion))
        [key] = (await public_keys.of_endpoint(outpost.deployment, endpoint.id, tenant=None)).data
        async with outpost.dispatcher():
            await outpost.publish("job.progress", data='{"percentage": 40}')
            [sent] = await receiver.wait_for(1)
    finally:
        await outpost.close()
    async with python_of(_PAGE) as names:
        assert names["check_with_public_key"](sent.body, sent.headers, key.public_key) == 200
        assert names["check_with_public_key"](sent.body + b" ", sent.headers, key.public_key) == 401


async def test_the_flask_receiver_takes_what_is_genuine_only(genuine: Genuine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", genuine.secret)
    async with python_of(_PAGE) as names:
        client = names["flask_app"].test_client()
        headers = genuine.plain_headers
        assert client.post("/hook", data=genuine.body, headers=headers).status_code == 204
        assert client.post("/hook", data=genuine.changed, headers=headers).status_code == 401
        assert names["taken"] == {headers["webhook-id"]}


async def test_the_fastapi_receiver_takes_what_is_genuine_only(
    genuine: Genuine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", genuine.secret)
    async with python_of(_PAGE) as names:
        transport = httpx.ASGITransport(app=names["fastapi_app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            headers = genuine.plain_headers
            assert (await client.post("/hook", content=genuine.body, headers=headers)).status_code == 204
            assert (await client.post("/hook", content=genuine.changed, headers=headers)).status_code == 401
        assert names["taken"] == {headers["webhook-id"]}


@pytest.mark.parametrize(("function", "needs_packages"), [("eventOf", True), ("isGenuine", False)])
async def test_each_way_to_verify_in_javascript_tells_a_genuine_request(
    genuine: Genuine, tmp_path: Path, function: str, needs_packages: bool
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed here")
    if needs_packages:
        (tmp_path / "node_modules").symlink_to(node_modules())
    [block] = [block for block in blocks(_PAGE, "javascript") if f"function {function}(" in block.text]
    (tmp_path / "verify.mjs").write_text(block.text)
    (tmp_path / "main.mjs").write_text(
        f"""
        import {{ readFileSync }} from "node:fs";
        import {{ {function} }} from "./verify.mjs";
        const {{ body, headers, secret }} = JSON.parse(readFileSync(0));
        let answer;
        try {{
          answer = Boolean({function}(body, headers, secret));
        }} catch (error) {{
          answer = /signature/.test(error.message) ? "refused" : error.message;
        }}
        console.log(JSON.stringify(answer));
        """
    )
    unsigned = replace(genuine, headers={})
    answers = [
        json.loads(_run([node, tmp_path / "main.mjs"], request, body))
        for request, body in ((genuine, genuine.body), (genuine, genuine.changed), (unsigned, genuine.body))
    ]
    assert answers[:2] == [True, "refused" if needs_packages else False]
    assert answers[2] is not True


async def test_the_express_receiver_takes_what_is_genuine_only(genuine: Genuine, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules())
    [block] = [block for block in blocks(_PAGE, "javascript") if "express()" in block.text]
    (tmp_path / "server.mjs").write_text(block.text)
    node = shutil.which("node") or "node"
    async with (
        running(node, tmp_path / "server.mjs", WEBHOOK_SECRET=genuine.secret) as server,
        aiohttp.ClientSession() as session,
    ):
        [line] = await server.says("listening on ")
        url = f"http://127.0.0.1:{line.rsplit(' ', 1)[1]}/hook"
        statuses = []
        for body in (genuine.body, genuine.changed):
            headers = {
                name: value for name, value in genuine.plain_headers.items() if name not in ("host", "content-length")
            }
            async with session.post(url, data=body, headers=headers) as answer:
                statuses.append(answer.status)
    assert statuses == [204, 401]


@pytest.mark.timeout(180)
def test_the_go_code_compiles_and_tells_a_genuine_request(genuine: Genuine, tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed here")
    [block] = blocks(_PAGE, "go")
    (tmp_path / "webhook").mkdir()
    (tmp_path / "webhook" / "webhook.go").write_text(block.text)
    (tmp_path / "go.mod").write_text("module receiver\n\ngo 1.21\n")
    (tmp_path / "main.go").write_text(
        """package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"receiver/webhook"
)

func main() {
	var given struct {
		Body, Secret string
		Headers      map[string]string
	}
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		panic(err)
	}
	header := func(name string) string { return given.Headers[strings.ToLower(name)] }
	fmt.Println(webhook.Verify([]byte(given.Body), header, given.Secret))
}
"""
    )
    subprocess.run([go, "build", "-o", "receiver", "."], cwd=tmp_path, check=True)
    said = [_run([tmp_path / "receiver"], genuine, body) for body in (genuine.body, genuine.changed)]
    assert said == ["<nil>\n", "no signature matches\n"]


def test_the_bodies_are_what_each_profile_renders() -> None:
    event = EventFacts(
        id="evt_4f9c2d1ab0e84c53b7a1c0d2e3f40516",
        type="job.progress",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        job_id="job_1",
        sequence=2,
        data='{"percentage": 40, "step": "search"}',
    )
    # Those of the service's own events stand further down.
    written = [block.text.strip() for block in blocks(_PAGE, "json") if '"type":"webhook.' not in block.text]
    assert written == [render(frozen_profile(profile, "/dispatcher"), event).decode() for profile in Profile]
    [headers] = [block.text for block in blocks(_PAGE, "") if block.text.startswith("ce-")]
    sent = body_headers(frozen_profile(Profile.CLOUDEVENTS_BINARY, "/dispatcher"), event)
    assert headers.splitlines() == [f"{name}: {value}" for name, value in sent.items() if name != "content-type"]


def test_the_states_of_a2a_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| (.+) \| `(TASK_STATE_\w+)` \|$", _PAGE.read_text(), re.MULTILINE)
    written = {last: state for segments, state in rows for last in re.findall(r"`(\w+)`", segments)}
    assert written == {**STATES, "started": OTHERWISE, "progress": OTHERWISE}


async def test_a_request_has_the_headers_of_the_table_and_no_others_of_ours(genuine: Genuine) -> None:
    names = {name for name in genuine.plain_headers if name.startswith(("webhook-", "x-", "content-type", "user-"))}
    sent_always = {"content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature"}
    assert names == sent_always | {"x-delivery-attempt", "x-job-previous", "x-hub-signature-256"}
    text = _PAGE.read_text()
    for name in names - {"x-hub-signature-256"} | {"x-delivery-replay", "x-delivery-late", "traceparent"}:
        assert f"| `{name}` |" in text


def _run(command: list[str | Path], genuine: Genuine, body: bytes) -> str:
    given = {"body": body.decode(), "headers": genuine.plain_headers, "secret": genuine.secret}
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    return done.stdout

"""No secret leaves: canaries are planted in a whole story, and looked for in everything that comes out of it."""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from sqlalchemy.engine import make_url

from dispatcher.cli.main import run
from dispatcher.clock import SystemClock
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.secrets import Secret
from dispatcher.store.signing_secrets import OWN
from tests.canaries import Canaries, forms
from tests.outpost import Outpost
from tests.process import process_as_before
from tests.programs import Program, running_python
from tests.receiver import Received, Receiver
from tests.transport.certificates import Authority


@dataclass(slots=True)
class Story:
    """A real `dispatcher serve` at debug level, and everything that is asked of it."""

    server: Program
    session: aiohttp.ClientSession
    canaries: Canaries
    base: str
    admin_key: str
    answers: list[tuple[str, int]] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, body: object = None, *, key: str | None = None, shown_once: tuple[str, ...] = ()
    ) -> Any:
        """An answer, searched."""
        headers = {"authorization": f"Bearer {key or self.admin_key}"}
        async with self.session.request(method, self.base + path, json=body, headers=headers) as answer:
            raw = await answer.read()
            place = f"{method} {path.partition('?')[0]} {answer.status}"
            self.answers.append((f"{method} {path.partition('?')[0]}", answer.status))
            self.canaries.search(place, raw, shown_once=shown_once)
            self.canaries.search(f"headers of {place}", repr(dict(answer.headers)))
            return json.loads(raw) if "json" in answer.content_type else raw

    async def post(self, path: str, body: object = None, **options: Any) -> Any:
        return await self.ask("POST", path, body, **options)

    async def get(self, path: str, **options: Any) -> Any:
        return await self.ask("GET", path, **options)


@pytest.fixture
async def story(database_url: str) -> AsyncIterator[Story]:
    canaries = Canaries()
    database = make_url(database_url)
    if database.password is not None:
        canaries.plant("database password", str(database.password))
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    environment = {
        "DISPATCHER_DATABASE_URL": database_url,
        "DISPATCHER_ADMIN_KEY": canaries.plant("admin key"),
        "DISPATCHER_SECRET_KEY": canaries.plant("encryption key", key),
        "DISPATCHER_LOG_LEVEL": "debug",
        "DISPATCHER_LOG_FORMAT": "json",
        "DISPATCHER_PORT": "0",
        "DISPATCHER_ALLOW_HTTP": "true",
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
        "DISPATCHER_RETRY_SCHEDULE": "10ms",
        "DISPATCHER_RETRY_JITTER": "0",
        "HTTPS_PROXY": f"http://proxy:{canaries.plant('proxy password')}@127.0.0.1:9",
        "DISPATCHER_PROXY": f"http://proxy:{quote(canaries.plant('egress proxy password'), safe='')}@127.0.0.1:3128",
        "DISPATCHER_NO_PROXY": "127.0.0.0/8",
        "DISPATCHER_ENDPOINT_DEFAULTS": json.dumps({"headers": {"X-Default": canaries.plant("default header")}}),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        async with running_python("-m", "dispatcher", "serve") as server, aiohttp.ClientSession() as session:
            yield Story(server, session, canaries, await server.url(), environment["DISPATCHER_ADMIN_KEY"])


async def command(canaries: Canaries, said: Callable[[], tuple[str, ...]], *arguments: str) -> str:
    """What a command prints, searched; as the real one, in a thread of its own for its own event loop."""
    await asyncio.to_thread(run, arguments)
    out, err = said()
    canaries.search(f"dispatcher {' '.join(arguments[:2])}", out)
    canaries.search(f"standard error of dispatcher {' '.join(arguments[:2])}", err)
    return out


async def test_no_secret_leaves_in_a_whole_story(
    story: Story, receiver: Receiver, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    canaries = story.canaries
    outpost = Outpost(database_url, SystemClock(), secret_key=canaries.kept["encryption key"])
    try:
        await _live(story, receiver, outpost)
        with process_as_before():
            await _look_with_commands(canaries, lambda: tuple(capsys.readouterr()))
        await _break(story, outpost)
        for place, content in await _stored(outpost):
            canaries.search(place, content)
    finally:
        await outpost.close()
    assert await story.server.end() == 0
    log = "\n".join(story.server.lines)
    for event in ("dispatcher.starting", "delivery.attempted", "api.failed", "delivery.unreadable", "in execute"):
        assert event in log, event
    canaries.search("the log", log)
    assert canaries.found == []
    assert canaries.searched > 100
    assert {status for _, status in story.answers} >= {200, 201, 202, 401, 404, 409, 422, 500}


async def _live(story: Story, receiver: Receiver, outpost: Outpost) -> None:
    """Publish, fail, retry, die, redeliver, rotate: with a receiver that repeats what it was sent."""
    plant = story.canaries.plant

    def repeats(status: int) -> Callable[[Received], web.StreamResponse]:
        def answer(request: Received) -> web.StreamResponse:
            said = json.dumps({**request.headers, "query": request.query})
            return web.Response(status=status, text=said[-900:])

        return answer

    receiver.answers("/hook", repeats(500), repeats(500), repeats(200))
    where = receiver.url("/hook").replace("http://", f"http://user:{_encoded(plant('URL password'))}@")
    body = {
        "url": f"{where}?token={_encoded(plant('URL token'))}",
        "secret": plant("secret"),
        "headers": {"X-Api-Key": plant("header value"), "Authentication": f"Bearer {plant('header token')}"},
        "signatures": ["v1", "v1a"],
        "signature_header": "X-Sig",
    }
    made = await story.post("/v1/endpoints", body, shown_once=("secret",))
    path = f"/v1/endpoints/{made['id']}"
    [stored] = await outpost.rows("endpoint_secrets")
    keys = SigningKeys.read(outpost.deployment.keyring.open(stored.sealed, OWN, stored.endpoint_row))
    plant("ed25519 seed", base64.b64encode(keys.seed).decode())
    event = await story.post("/v1/events", {"type": "job.completed", "job_id": "job_1", "data": {"n": 1}})
    await outpost.sees("SELECT 1 FROM dead_letters")
    await _live_with_credentials(story, receiver, outpost, repeats)
    [letter] = (await story.get("/v1/dead-letters?type=job.completed"))["data"]
    shown = await story.get(f"/v1/deliveries/{letter['delivery_id']}")
    assert "***" in shown["attempt_log"][0]["response_excerpt"]
    await story.post("/v1/dead-letters/redeliver", {"ids": [letter["id"]]})
    await outpost.sees("SELECT 1 FROM deliveries WHERE state = 'delivered'")
    await story.get(f"/v1/events/{event['id']}")

    tenant_key = (await story.post("/v1/keys", {"tenant": "acme"}, shown_once=("tenant's key",)))["key"]
    plant("tenant's key", tenant_key)
    await story.get("/v1/endpoints", key=tenant_key)
    given = {"secret": plant("tenant's secret")}
    await story.ask("PUT", "/v1/tenants/acme/secret", given, key=tenant_key, shown_once=("tenant's secret",))
    rotation = {"secret": plant("rotated secret"), "overlap_s": 60}
    await story.post(f"{path}/rotate-secret", rotation, shown_once=("rotated secret",))
    staging = {"secret": plant("staged secret"), "stage": True}
    await story.post(f"{path}/rotate-secret", staging, shown_once=("staged secret",))
    await story.post(f"{path}/rotate-secret/activate")
    await story.post(f"{path}/rotate-secret/activate")
    await story.get(f"{path}/public-keys")
    await story.post(f"{path}/test")
    await story.ask("PATCH", path, {"description": "changed", "headers": {"X-Api-Key": "***"}})
    callback = {"url": f"{receiver.url('/job')}?t={_encoded(plant('callback token'))}"}
    made = await story.post("/v1/jobs/job_1/callbacks", callback, shown_once=("callback secret",))
    plant("callback secret", made["secret"])
    link = await story.post("/v1/jobs/job_1/link", {})
    plant("link", link["token"] if "token" in link else link["path"].partition("token=")[2])
    await story.get(f"/v1/jobs/job_1/events?token={story.canaries.kept['link']}")

    # What is wrong is told, and not what was given.
    await story.get("/v1/endpoints", key=plant("wrong key"))
    wrong: dict[str, Any] = {
        "url": f"ftp://user:{_encoded(plant('refused password'))}@example.com/?t={_encoded(plant('refused token'))}",
        "secret": plant("refused secret") + "\x00",
        "headers": {"Host": plant("refused header")},
    }
    for path in ("/v1/endpoints", "/v1/jobs/job_1/callbacks"):
        await story.post(path, wrong)
    await story.get("/v1/endpoints/ep_0000000000000")
    for page in ("/metrics", "/docs", "/openapi.json", "/healthz", "/readyz", "/v1/stats", "/v1/keys", "/v1/endpoints"):
        await story.get(page)


async def _live_with_credentials(
    story: Story,
    receiver: Receiver,
    outpost: Outpost,
    repeats: Callable[[int], Callable[[Received], web.StreamResponse]],
) -> None:
    """Receivers that want an access token, or see a client certificate: refused, renewed, changed, tried."""
    plant = story.canaries.plant
    given = {"access_token": plant("access token"), "token_type": "Bearer"}

    def asked(status: int) -> Callable[[Received], web.StreamResponse]:
        def answer(request: Received) -> web.StreamResponse:
            said = {"error": "invalid_client", "sent": request.body.decode(), "query": request.query, **request.headers}
            return web.json_response({**said, **(given if status == 200 else {})}, status=status)

        return answer

    receiver.answers("/token", asked(200))
    receiver.answers("/no-token", asked(401))
    receiver.answers("/guarded", repeats(401))
    oauth2 = {
        "token_url": f"{receiver.url('/token')}?key={_encoded(plant('token URL value'))}",
        "client_id": "client",
        "client_secret": plant("client secret"),
        "auth_method": "client_secret_post",
    }
    alone = f"http://{_encoded(plant('URL user alone'))}@127.0.0.1:9/?{_encoded(plant('query without a name'))}"
    await story.post("/v1/endpoints", {"url": alone, "event_types": ["of.nobody"]})
    body = {"url": receiver.url("/guarded"), "event_types": ["job.guarded"], "oauth2": oauth2}
    elsewhere = {**oauth2, "token_url": oauth2["token_url"].replace("/token", "/no-token")}
    made = [await story.post("/v1/endpoints", {**body, "oauth2": one}) for one in (elsewhere, oauth2)]
    for endpoint in made:
        await story.post(f"/v1/endpoints/{endpoint['id']}/test")
    await story.post("/v1/events", {"type": "job.guarded", "data": {}})
    await outpost.sees("SELECT 1 FROM dead_letters GROUP BY type HAVING count(*) = 2")
    for delivery in (await story.get("/v1/deliveries"))["data"]:
        await story.get(f"/v1/deliveries/{delivery['id']}")
    assert f"Bearer {story.canaries.kept['access token']}" in str(receiver.received("/guarded")[-1].headers)
    change = {"oauth2": {**oauth2, "client_id": "another", "client_secret": "***"}}
    await story.ask("PATCH", f"/v1/endpoints/{made[-1]['id']}", change)
    with TemporaryDirectory() as directory:
        certificate, key = Authority.make(Path(directory)).client("us")
    plant("client key", key.splitlines()[1])
    body = {"url": "https://example.com/", "event_types": ["of.nobody"], "client_certificate": certificate}
    await story.post("/v1/endpoints", {**body, "client_key": key})
    await story.post("/v1/endpoints", {**body, "client_key": key.replace("PRIVATE", "PUBLIC")})


async def _look_with_commands(canaries: Canaries, said: Callable[[], tuple[str, ...]]) -> None:
    listed = [("endpoints",), ("events",), ("deliveries",), ("dead-letters",), ("keys",)]
    for words in [*(("list", *words)[::-1] for words in listed), ("doctor",), ("settings",), ("migrate", "--check")]:
        for json_or_not in ((), ("--json",)):
            await command(canaries, said, *words, *json_or_not)
    for words in (("endpoints", "show"), ("deliveries", "show"), ("events", "show")):
        listing = json.loads(await command(canaries, said, words[0], "list", "--json"))
        for json_or_not in ((), ("--json",)):
            await command(canaries, said, *words, listing["data"][-1]["id"], *json_or_not)
    refused = ("--secret", canaries.kept["refused secret"] + "\u2028", "--headers", "Host: x")
    await command(canaries, said, "endpoints", "create", "https://example.com/", *refused)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPATCHER_SECRET_KEY", canaries.kept["encryption key"][:-4] + "AAA=,nonsense")
        await command(canaries, said, "endpoints", "list")
        await command(canaries, said, "doctor")


async def _break(story: Story, outpost: Outpost) -> None:
    """Faults of ours: a table is gone while it is asked for, and what is sealed is damaged."""
    async with outpost.database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE dead_letters RENAME TO gone")
    await story.get("/v1/dead-letters")
    async with outpost.database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE gone RENAME TO dead_letters")
        await connection.execute(outpost.tables.endpoint_secrets.update().values(sealed=b"damaged"))
        await connection.execute(
            outpost.tables.endpoints.update().values(version=outpost.tables.endpoints.c.version + 1)
        )
    await story.post("/v1/events", {"type": "job.completed", "data": {}})
    await story.server.says('"delivery.unreadable"')


async def _stored(outpost: Outpost) -> list[tuple[str, bytes]]:
    """Everything in the database, as its files hold it or as a dump writes it."""
    file = outpost.database.url.file
    if file is not None:
        return [(one.name, one.read_bytes()) for one in Path(file).parent.glob(f"{file.name}*")]
    dump = []
    for table in outpost.tables.metadata.sorted_tables:
        async with outpost.database.read() as connection:
            rows = await connection.exec_driver_sql(f'SELECT t::text FROM "{table.name}" AS t')
            dump += [(f"the dump of {table.name}", str(row[0]).encode()) for row in rows]
    return dump


def _encoded(secret: str) -> str:
    return secret.replace("+", "%2B").replace("/", "%2F")


@pytest.mark.parametrize("before", ["", "x", "xy", "user:"])
def test_a_canary_is_found_in_every_form(before: str) -> None:
    canaries = Canaries()
    secret = canaries.plant("secret")
    for form in (
        f"{before}{secret}",
        base64.b64encode(f"{before}{secret} and more".encode()).decode(),
        base64.urlsafe_b64encode(f"{before}{secret}".encode()).decode(),
        json.dumps({"a": secret}),
        secret.encode().hex(),
        _encoded(secret),
    ):
        canaries.found.clear()
        canaries.search("here", f"something {form} something")
        assert canaries.found, form
    canaries.found.clear()
    canaries.search("here", "nothing of it", shown_once=("secret",))
    assert canaries.found == []
    assert len(forms(secret)) == 12
    assert Secret(secret).text == secret

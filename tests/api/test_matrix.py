"""Every operation of the document, driven with another tenant's key and ids, with keys that lack the right, with none.

What an operation must do then stands in `EXPECTED`: one that is new fails until it stands there.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from dispatcher.states import Scope
from tests.api import rows
from tests.api.client import DOCUMENT, Answered, Api
from tests.clock import FakeClock

#: Stands in everything of acme's that has room for a text, and nowhere else.
CANARY = "canary-of-acme"
TENANT_SCOPES = [Scope.PUBLISH, Scope.ENDPOINTS, Scope.READ]

#: What another tenant's key gets, by operation. `hidden`: 404 for acme's thing. `disjoint`: a list without anything of
#: acme's. `own`: a 2xx that is about the caller's own tenant. `nothing`: a bulk route that takes none of acme's.
#: `forbidden`: 403, whoever's thing it is. `same`: what every key sees alike. `public`: needs no key at all.
EXPECTED = {
    **dict.fromkeys(["createEndpoint", "createWebhook", "createSubscription", "createCallback"], "own"),
    **dict.fromkeys(["publishEvent", "publishEvents", "createJobLink", "getStats"], "own"),
    **dict.fromkeys(["listEndpoints", "listWebhooks", "listSubscriptions"], "disjoint"),
    **dict.fromkeys(["listEvents", "listDeliveries", "listDeadLetters"], "disjoint"),
    **dict.fromkeys(["getEndpoint", "getWebhook", "getSubscription"], "hidden"),
    **dict.fromkeys(["deleteEndpoint", "deleteWebhook", "deleteSubscription"], "hidden"),
    **dict.fromkeys(["updateEndpoint", "enableEndpoint", "disableEndpoint", "pauseEndpoint"], "hidden"),
    **dict.fromkeys(["resumeEndpoint", "rotateEndpointSecret", "testEndpoint", "recoverEndpoint"], "hidden"),
    **dict.fromkeys(["activateEndpointSecret", "getEndpointPublicKeys", "verifyEndpoint"], "hidden"),
    **dict.fromkeys(["getEvent", "getDelivery", "redeliverDelivery", "cancelDelivery"], "hidden"),
    **dict.fromkeys(["getDeadLetter", "getRedelivery", "cancelRedelivery"], "hidden"),
    **dict.fromkeys(["getJob", "listJobEvents", "setTenantSecret", "getTenantQuota"], "hidden"),
    **dict.fromkeys(["redeliverDeadLetters", "discardDeadLetters"], "nothing"),
    **dict.fromkeys(["createKey", "listKeys", "revokeKey", "setTenantQuota", "getMetrics"], "forbidden"),
    "getEgress": "same",
    **dict.fromkeys(["getHealth", "getReadiness", "getOpenApi", "getDocs", "getJwks"], "public"),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the document."""

    name: str
    method: str
    path: str
    #: The scope that a key must have; null: no key is wanted.
    scope: str | None
    body: Any

    def at(self, things: dict[str, str]) -> str:
        """Its path to these things: an `{id}` by the noun before it, others by their name."""
        noun = self.path.split("/")[2] if self.path.count("/") > 1 else ""
        return re.sub(r"\{(\w+)\}", lambda found: things[noun if found[1] == "id" else found[1]], self.path)


def operations() -> Iterator[Operation]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            by_key = [needed["key"] for needed in operation["security"] if "key" in needed]
            scope = by_key[0][0] if by_key else None
            yield Operation(operation["operationId"], method.upper(), path, scope, body)


OPERATIONS = list(operations())
WITH_KEY = [operation for operation in OPERATIONS if operation.scope is not None]


async def drive(api: Api, operation: Operation, things: dict[str, str], key: str | None) -> Answered:
    return await api.under(key).send(operation.method, operation.at(things), json=operation.body)


@dataclass(frozen=True, slots=True)
class Scene:
    """Two tenants: acme with one of everything, and its rival, who has an endpoint of its own."""

    api: Api
    things: dict[str, str]
    rival: str

    async def key(self, **fields: object) -> str:
        made = await self.api.post("/v1/keys", fields)
        assert made.status == 201, made.raw
        return str(made.json["key"])

    async def acmes_rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that is acme's, as it is stored."""
        tables = self.api.deployment.database.tables
        found = {}
        async with self.api.deployment.database.read() as connection:
            for table in tables.metadata.sorted_tables:
                if "tenant" in table.c and table is not tables.api_keys:
                    stored = await connection.execute(select(table).where(table.c.tenant == "acme"))
                    found[table.name] = sorted(map(tuple, stored), key=repr)
        return found


@pytest.fixture
async def scene(either_api: Api) -> Scene:
    api = either_api
    keys = {}
    for tenant in ("acme", "rival"):
        made = await api.post("/v1/keys", {"tenant": tenant})
        keys[tenant] = str(made.json["key"])
    acme, rival = api.under(keys["acme"]), api.under(keys["rival"])
    sent = await rows.sent(acme, tenant="acme", job_id="job_1", data={"say": CANARY})
    assert sent.dead_letter_id is not None
    hook = {"description": CANARY, "metadata": {"name": CANARY}, "headers": {"X-Who": CANARY}}
    changed = await acme.patch(f"/v1/endpoints/{sent.endpoint_id}", {**hook, "url": f"https://example.com/{CANARY}"})
    assert changed.status == 200, changed.raw
    run = await acme.post("/v1/dead-letters/redeliver", {"all": True})
    listed = await api.get("/v1/keys?tenant=acme")
    await rows.endpoint(rival)
    things = {
        "endpoints": sent.endpoint_id,
        "webhooks": sent.endpoint_id,
        "events": sent.event_id,
        "deliveries": sent.delivery_id,
        "dead-letters": sent.dead_letter_id,
        "redeliveries": str(run.json["id"]),
        "keys": listed.json["data"][0]["id"],
        "job_id": "job_1",
        "tenant": "acme",
    }
    return Scene(api, things, keys["rival"])


def test_what_every_operation_must_do_is_said() -> None:
    assert sorted(EXPECTED) == sorted(operation.name for operation in OPERATIONS)
    assert {operation.scope for operation in WITH_KEY} == set(Scope)
    for operation in OPERATIONS:
        assert (EXPECTED[operation.name] == "public") == (operation.scope is None), operation
        if operation.scope == Scope.ADMIN:
            assert EXPECTED[operation.name] == "forbidden", operation


async def test_another_tenants_key_sees_and_changes_nothing(scene: Scene) -> None:
    before = await scene.acmes_rows()
    assert CANARY in repr(before)
    # First those that hide: later the rival has a job of the same id.
    for operation in sorted(WITH_KEY, key=lambda one: EXPECTED[one.name] != "hidden"):
        answered = await drive(scene.api, operation, scene.things, scene.rival)
        assert CANARY.encode() not in answered.raw, operation
        match EXPECTED[operation.name]:
            case "hidden":
                assert (answered.status, answered.problem) == (404, "not-found"), (operation, answered)
            case "forbidden":
                assert (answered.status, answered.problem) == (403, "forbidden"), (operation, answered)
            case "disjoint":
                assert answered.status == 200, (operation, answered)
                assert {row["tenant"] for row in answered.json["data"]} <= {"rival"}, operation
            case "own" | "same":
                assert answered.status in (200, 201, 202), (operation, answered)
            case _:
                assert EXPECTED[operation.name] == "nothing"
                assert answered.json["matched"] == 0, (operation, answered)
    assert await scene.acmes_rows() == before


async def test_acmes_own_key_gets_at_each_of_them(scene: Scene) -> None:
    """Else the 404s of another tenant's would say nothing."""
    acme = await scene.key(tenant="acme")
    seen = 0
    for operation in WITH_KEY:
        if EXPECTED[operation.name] in ("hidden", "disjoint") and operation.method == "GET":
            answered = await drive(scene.api, operation, scene.things, acme)
            # Deliveries in the job's log do not come here: nothing fans out.
            assert answered.status == 200, (operation, answered)
            seen += 1
    assert seen > 12


async def test_without_a_key_or_with_one_that_holds_no_more_nothing_opens(scene: Scene) -> None:
    revoked, expired = await scene.key(tenant="acme"), await scene.key(tenant="acme", expires_in_s=3600)
    newest = (await scene.api.get("/v1/keys?tenant=acme&limit=2")).json["data"]
    assert (await scene.api.delete(f"/v1/keys/{newest[1]['id']}")).status == 204
    await _let_expire(scene.api, expired)
    before = await scene.acmes_rows()
    for operation in WITH_KEY:
        for key in (None, revoked, expired):
            answered = await drive(scene.api, operation, scene.things, key)
            refusals = [(401, "unauthenticated")]
            if key is not None:
                # One who sends so many that are wrong is told so.
                refusals.append((429, "too-many-wrong-keys"))
            assert (answered.status, answered.problem) in refusals, (operation, answered)
            if answered.status == 401:
                assert answered.headers["WWW-Authenticate"].startswith("Bearer")
    for operation in OPERATIONS:
        if operation.scope is None:
            assert (await drive(scene.api, operation, scene.things, None)).status == 200, operation
    assert await scene.acmes_rows() == before


async def test_a_key_without_the_scope_is_a_403_that_names_it(scene: Scene) -> None:
    lacking = {
        scope: await scene.key(tenant="acme", scopes=[one for one in TENANT_SCOPES if one is not scope])
        for scope in TENANT_SCOPES
    }
    lacking[Scope.ADMIN] = await scene.key(scopes=TENANT_SCOPES)
    before = await scene.acmes_rows()
    for operation in WITH_KEY:
        assert operation.scope is not None
        answered = await drive(scene.api, operation, scene.things, lacking[Scope(operation.scope)])
        assert (answered.status, answered.problem) == (403, "forbidden"), (operation, answered)
        assert f"lacks the scope `{operation.scope}`" in answered.json["detail"]
        assert answered.headers["WWW-Authenticate"].endswith(f'error="insufficient_scope", scope="{operation.scope}"')
    assert await scene.acmes_rows() == before


async def test_a_key_that_may_only_read_reads_everything_and_of_every_tenant_if_it_has_none(scene: Scene) -> None:
    acmes, everyones = await scene.key(tenant="acme", scopes=["read"]), await scene.key(scopes=["read"])
    before = await scene.acmes_rows()
    for operation in WITH_KEY:
        if operation.scope != Scope.READ:
            continue
        path = f"{operation.at(scene.things)}?tenant=acme"
        whole = "tenant" not in str(DOCUMENT["paths"][operation.path][operation.method.lower()]["parameters"])
        path = operation.at(scene.things) if whole or "{tenant}" in operation.path else path
        answered = await scene.api.under(everyones).send(operation.method, path, json=operation.body)
        assert answered.status in (200, 201), (operation, answered)
        answered = await scene.api.under(acmes).send(operation.method, path, json=operation.body)
        assert answered.status == (403 if operation.name == "getMetrics" else answered.status), (operation, answered)
        assert answered.status in (200, 201, 403), (operation, answered)
    assert await scene.acmes_rows() == before


async def test_a_key_made_as_admin_does_what_the_admin_key_does(scene: Scene) -> None:
    admin = scene.api.under(await scene.key(scopes=["admin"]))
    made = await admin.post("/v1/keys", {"tenant": "third"})
    assert made.status == 201
    assert (await admin.get("/metrics")).status == 200
    assert (await admin.get(f"/v1/endpoints/{scene.things['endpoints']}")).json["tenant"] == "acme"
    assert (await admin.patch("/v1/tenants/acme/quota", {"max_endpoints": 3})).status == 200
    assert (await admin.delete(f"/v1/keys/{made.json['id']}")).status == 204


async def _let_expire(api: Api, key: str) -> None:
    """As if it had been made an hour ago; its hint is what the list knows it by."""
    database = api.deployment.database
    api_keys = database.tables.api_keys
    async with database.begin() as connection:
        changed = await connection.execute(
            api_keys.update().where(api_keys.c.hint == key[:8]).values(expires_at=FakeClock().now())
        )
    assert changed.rowcount >= 1


def test_the_documents_examples_are_bodies_and_not_only_words() -> None:
    """The matrix sends them: an operation whose example were refused for itself would pass for protected."""
    for operation in OPERATIONS:
        assert operation.body is None or json.dumps(operation.body) != "{}", operation

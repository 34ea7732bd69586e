"""Everything sealed comes under the ring's first key, online: beside dispatchers, after a kill, and to the last row."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from dispatcher.errors import Conflict
from dispatcher.rules.verifying import verify
from dispatcher.service import encryption, endpoints, tenants
from dispatcher.service.doctor import examine
from dispatcher.service.models import EndpointUpdate, RotateSecret, TenantSecretSet
from dispatcher.store import reencryption
from dispatcher.store.keyring import KeyRing
from tests.outpost import SECRET_KEY, Outpost
from tests.programs import running_python
from tests.receiver import Receiver

NEW = b"n" * 32
NEW_RING = f"{base64.b64encode(NEW).decode()},{SECRET_KEY}"
NEW_ALONE = base64.b64encode(NEW).decode()


@pytest.fixture
async def later(outpost: Outpost) -> AsyncIterator[Outpost]:
    """The same deployment after a restart with a new key in front of the old one."""
    opened = Outpost(outpost.settings.database_url, outpost.clock, secret_key=NEW_RING)
    yield opened
    await opened.close()


async def seal_some(outpost: Outpost, receiver: Receiver | None = None, count: int = 3) -> list[str]:
    """One value of every kind, and more of the common ones; the endpoints' secrets."""
    made = [
        await outpost.endpoint(
            receiver.url(f"/{number}") if receiver else "http://127.0.0.1:8000/", headers={"X-Api-Key": f"k3y-{number}"}
        )
        for number in range(count)
    ]
    staged = RotateSecret.read({"stage": True})
    await endpoints.rotate_secret(outpost.deployment, made[-1].id, staged, tenant=None)
    await tenants.set_secret(outpost.deployment, "acme", TenantSecretSet())
    return [endpoint.secret for endpoint in made]


async def under_old(outpost: Outpost) -> int:
    async with outpost.database.read() as connection:
        _, old, _ = await encryption.under_other_keys(connection, outpost.database, KeyRing((NEW,)))
    return old


async def test_every_column_of_bytes_is_a_sealed_one(sqlite_outpost: Outpost) -> None:
    names = {f"{column.table.name}.{column.name}" for column in reencryption.sealed_columns(sqlite_outpost.tables)}
    assert {
        "endpoints.url_sealed",
        "endpoints.headers_sealed",
        "endpoints.staged_sealed",
        "endpoint_secrets.sealed",
        "tenant_secrets.sealed",
    } <= names
    assert all(name.endswith("sealed") for name in names)


async def test_afterwards_the_old_key_can_go(outpost: Outpost, later: Outpost, receiver: Receiver) -> None:
    secrets = await seal_some(outpost, receiver)
    total = await under_old(outpost)
    seen: list[tuple[int, int]] = []
    rotation = await encryption.rotate_encryption(later.deployment, lambda done, of: seen.append((done, of)))
    assert (rotation.total, rotation.rewrapped, rotation.remaining, rotation.unreadable) == (total, total, 0, 0)
    assert rotation.key_id == KeyRing((NEW,)).key_ids[0].hex()
    assert seen[-1] == (total, total)
    assert (await encryption.rotate_encryption(later.deployment)).rewrapped == 0

    without = Outpost(outpost.settings.database_url, outpost.clock, secret_key=NEW_ALONE)
    async with without.dispatcher() as dispatcher:
        await without.publish("job.completed")
        await dispatcher.until_idle()
    await without.close()
    for number, secret in enumerate(secrets):
        [request] = receiver.received(f"/{number}")
        assert request.headers["X-Api-Key"] == f"k3y-{number}"
        verify(request.body, request.headers, secret, now=int(request.headers["webhook-timestamp"]))


async def test_a_dispatcher_delivers_and_endpoints_change_meanwhile(
    outpost: Outpost, later: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencryption, "BATCH", 2)
    await seal_some(outpost, receiver, count=5)
    async with later.dispatcher() as dispatcher:
        rotating = asyncio.ensure_future(encryption.rotate_encryption(later.deployment))
        for number in range(5):
            await outpost.publish("job.completed")
            made = await later.endpoint(receiver.url("/made"))
            body = RotateSecret.read({"secret": f"rotated-{number}", "overlap_s": 60})
            await endpoints.rotate_secret(later.deployment, made.id, body, tenant=None)
        rotation = await rotating
        await dispatcher.until_idle()
    assert rotation.remaining == 0
    assert {delivery.state for delivery in await outpost.deliveries()} == {"delivered"}
    for endpoint in await outpost.rows("endpoints"):
        assert KeyRing((NEW,)).open(endpoint.url_sealed, "url", endpoint.row_id)


async def test_ended_in_the_middle_it_goes_on_where_it_was(
    outpost: Outpost, later: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencryption, "BATCH", 2)
    await seal_some(outpost, count=4)
    before = await under_old(outpost)

    def die(done: int, of: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await encryption.rotate_encryption(later.deployment, die)
    left = await under_old(outpost)
    assert 0 < left < before
    rotation = await encryption.rotate_encryption(later.deployment)
    assert (rotation.rewrapped, rotation.remaining) == (left, 0)


async def test_killed_in_the_middle_it_has_lost_nothing(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    await seal_some(outpost)
    before = await under_old(outpost)
    environment = {
        "DISPATCHER_DATABASE_URL": outpost.settings.database_url,
        "DISPATCHER_SECRET_KEY": NEW_RING,
    }
    command = ("-m", "dispatcher", "keys", "rotate-encryption", "--json")
    async with outpost.database.engine.connect() as session:
        # It waits here, behind all that comes before.
        await session.execute(text("LOCK TABLE endpoint_secrets IN EXCLUSIVE MODE"))
        async with running_python(*command, **environment) as rotating:
            await outpost.sees("SELECT FROM pg_locks WHERE NOT granted AND relation = 'endpoint_secrets'::regclass")
            await rotating.kill()
        await session.rollback()
    left = await under_old(outpost)
    assert left == 3 < before
    async with running_python(*command, **environment) as rotating:
        assert await rotating.done() == 0
        assert '"rewrapped":3,"remaining":0' in rotating.lines[-1].replace(" ", "")
    assert await under_old(outpost) == 0


async def test_a_dispatcher_that_lacks_the_new_key_is_named_and_nothing_is_changed(
    outpost: Outpost, later: Outpost
) -> None:
    await seal_some(outpost)
    before = await under_old(outpost)
    async with outpost.dispatcher():
        with pytest.raises(Conflict, match=r":\d+ did not start with the first key of DISPATCHER_SECRET_KEY"):
            await encryption.rotate_encryption(later.deployment)
    assert await under_old(outpost) == before
    await encryption.rotate_encryption(later.deployment)
    assert await under_old(outpost) == 0


async def test_a_row_that_somebody_holds_is_waited_for(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    later = Outpost(outpost.settings.database_url, outpost.clock, secret_key=NEW_RING)
    await seal_some(outpost)
    async with outpost.database.engine.connect() as session:
        await session.execute(text("SELECT FROM endpoints ORDER BY row_id LIMIT 1 FOR UPDATE"))
        rotating = asyncio.ensure_future(encryption.rotate_encryption(later.deployment))
        await outpost.sees("SELECT FROM pg_locks WHERE NOT granted")
        assert not rotating.done()
        await session.rollback()
        assert (await rotating).remaining == 0
    await later.close()


async def test_what_is_under_a_lost_key_stays_and_is_told(outpost: Outpost, later: Outpost) -> None:
    await seal_some(outpost)
    lost = Outpost(outpost.settings.database_url, outpost.clock, secret_key=base64.b64encode(b"l" * 32).decode())
    await lost.endpoint()
    rotation = await encryption.rotate_encryption(later.deployment)
    # Its URL and its secret.
    assert (rotation.remaining, rotation.unreadable) == (2, 2)
    await lost.close()


async def test_an_endpoint_under_a_lost_key_is_given_anew_what_was_lost(outpost: Outpost, receiver: Receiver) -> None:
    lost = Outpost(outpost.settings.database_url, outpost.clock, secret_key=base64.b64encode(b"l" * 32).decode())
    endpoint = await lost.endpoint(receiver.url("/old"), headers={"X-Api-Key": "k3y"})
    await lost.close()
    update = EndpointUpdate.read({"url": receiver.url("/new"), "headers": {"X-Api-Key": "n3w"}})
    await endpoints.update(outpost.deployment, endpoint.id, update, tenant=None)
    body = RotateSecret(overlap_s=0)
    healed = await endpoints.rotate_secret(outpost.deployment, endpoint.id, body, tenant=None)
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("job.completed")
        await dispatcher.until_idle()
    [request] = receiver.received("/new")
    assert request.headers["X-Api-Key"] == "n3w"
    verify(request.body, request.headers, healed.secret, now=int(request.headers["webhook-timestamp"]))
    assert await under_old(outpost) == 3
    async with outpost.database.read() as connection:
        _, _, foreign = await encryption.under_other_keys(connection, outpost.database, outpost.deployment.keyring)
    assert foreign == 0


async def test_the_doctor_tells_what_is_still_under_an_old_key(outpost: Outpost, later: Outpost) -> None:
    async def key_ring(settings: Any) -> tuple[bool, str]:
        [finding] = [finding for finding in await examine(settings) if finding.check == "key ring"]
        return finding.ok, finding.detail

    await seal_some(outpost)
    total = await under_old(outpost)
    ok, detail = await key_ring(later.settings)
    assert ok
    assert f"{total} of {total} values are under an older key: `dispatcher keys rotate-encryption`" in detail
    await encryption.rotate_encryption(later.deployment)
    ok, detail = await key_ring(later.settings)
    assert ok
    assert "the older ones encrypt nothing any more and can go" in detail
    assert not (await key_ring(outpost.settings))[0]

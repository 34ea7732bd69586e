"""A tenant's default secret, at a real receiver: who signs with it, how it rotates, and when it is forgotten."""

from collections.abc import Iterable
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from dispatcher import Conflict, VerificationError, prepare_sqlite, publish, register_callback, verify
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.service import endpoints, secret_rotation, tenants
from dispatcher.service.models import CallbackCreate, EndpointCreate, EndpointWithSecret, RotateSecret, TenantSecretSet
from dispatcher.store.endpoint_policies import check_keyring
from dispatcher.store.keyring import KeyRing, Unreadable
from dispatcher.store.signing_secrets import MOST_SIGNING
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

OLD, NEW, OWN = "the-old-secret", "the-new-secret", "a-secret-of-its-own"


async def _set(outpost: Outpost, secret: str, **fields: object) -> None:
    body = TenantSecretSet.read({"secret": secret, **fields})
    answer = await tenants.set_secret(outpost.deployment, "acme", body)
    assert (answer.tenant, answer.secret) == ("acme", secret)


async def _endpoint(outpost: Outpost, url: str, **fields: object) -> EndpointWithSecret:
    body = EndpointCreate.read({"url": url, **fields})
    made, _ = await endpoints.create(outpost.deployment, body, tenant="acme")
    return made


def _signed_with(request: Received, secrets: Iterable[str]) -> set[str]:
    """Those of the secrets with which the request verifies."""
    found = set()
    for secret in secrets:
        try:
            verify(request.body, request.headers, secret, now=float(request.headers["webhook-timestamp"]))
        except VerificationError:
            continue
        found.add(secret)
    return found


async def test_endpoints_and_callbacks_without_a_secret_sign_with_their_tenants(
    outpost: Outpost, receiver: Receiver
) -> None:
    before = await _endpoint(outpost, receiver.url("/before"))
    await _set(outpost, OLD)
    after = await _endpoint(outpost, receiver.url("/after"))
    own = await _endpoint(outpost, receiver.url("/own"), secret=OWN)
    callback, _ = await endpoints.create_callback(
        outpost.deployment, "job_1", CallbackCreate.read({"url": receiver.url("/callback")}), tenant="acme"
    )
    stranger = await outpost.endpoint(receiver.url("/stranger"), tenant="rival")
    assert (after.secret, own.secret, callback.secret) == (OLD, OWN, OLD)
    assert before.secret.startswith("whsec_")
    await outpost.publish("a", tenant="acme", job_id="job_1")
    await outpost.publish("a", tenant="rival")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    known = (OLD, OWN, before.secret, stranger.secret)
    assert {request.path: _signed_with(request, known) for request in receiver.received()} == {
        "/before": {before.secret},
        "/after": {OLD},
        "/own": {OWN},
        "/callback": {OLD},
        "/stranger": {stranger.secret},
    }


async def test_a_rotation_holds_for_the_next_attempt_and_both_sign_during_the_overlap(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _set(outpost, OLD)
    await _endpoint(outpost, receiver.url("/hook"), signature_header="X-Agent-Signature")
    await _endpoint(outpost, receiver.url("/own"), secret=OWN)

    def legacy(request: Received, secret: str) -> bool:
        try:
            verify(request.body, request.headers, secret, header="X-Agent-Signature")
        except VerificationError:
            return False
        return True

    async with outpost.dispatcher() as dispatcher:

        async def send() -> Received:
            await outpost.publish("a", tenant="acme")
            await dispatcher.until_idle()
            assert _signed_with(receiver.received("/own")[-1], (OLD, NEW, OWN)) == {OWN}
            return receiver.received("/hook")[-1]

        assert _signed_with(await send(), (OLD, NEW)) == {OLD}
        await _set(outpost, NEW, overlap_s=100)
        during = await send()
        assert _signed_with(during, (OLD, NEW)) == {OLD, NEW}
        assert (legacy(during, OLD), legacy(during, NEW)) == (True, False)
        clock.advance(100)
        after = await send()
        assert _signed_with(after, (OLD, NEW)) == {NEW}
        assert (legacy(after, OLD), legacy(after, NEW)) == (False, True)
        # And without an overlap at once.
        await _set(outpost, OLD, overlap_s=0)
        assert _signed_with(await send(), (OLD, NEW)) == {OLD}


async def test_an_endpoint_that_rotates_its_secret_has_its_own_from_then_on(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _set(outpost, OLD)
    endpoint = await _endpoint(outpost, receiver.url("/hook"))
    async with outpost.dispatcher() as dispatcher:

        async def signed() -> set[str]:
            await outpost.publish("a", tenant="acme")
            await dispatcher.until_idle()
            return _signed_with(receiver.received()[-1], (OLD, NEW, OWN))

        assert await signed() == {OLD}
        rotation = RotateSecret.read({"secret": OWN, "overlap_s": 100})
        await secret_rotation.rotate_secret(outpost.deployment, endpoint.id, rotation, tenant="acme")
        assert await signed() == {OLD, OWN}
        # The tenant's goes another way now, and what it signed with before goes on for the overlap.
        await _set(outpost, NEW, overlap_s=0)
        assert await signed() == {OLD, OWN}
        clock.advance(100)
        assert await signed() == {OWN}


async def test_the_same_secret_again_changes_nothing(outpost: Outpost) -> None:
    await _set(outpost, OLD)
    (endpoint,) = [await _endpoint(outpost, "http://127.0.0.1:8000/")]
    await _set(outpost, OLD, overlap_s=0)
    (kept,) = await outpost.rows("tenant_secrets")
    assert kept.retires_at is None
    (row,) = await outpost.rows("endpoints")
    assert (row.version, endpoint.secret) == (1, OLD)


async def test_a_rotation_rereads_only_the_endpoints_that_use_the_secret(outpost: Outpost) -> None:
    await _endpoint(outpost, "http://127.0.0.1:8000/before")
    await _set(outpost, OLD)
    using = await _endpoint(outpost, "http://127.0.0.1:8000/using")
    await _endpoint(outpost, "http://127.0.0.1:8000/own", secret=OWN)
    await outpost.endpoint(tenant="rival")
    await _set(outpost, NEW)
    assert {row.version for row in await outpost.rows("endpoints") if not row.url_shown.endswith("/using")} == {1}
    assert [row.version for row in await outpost.rows("endpoints") if row.url_shown == using.url] == [2]


async def test_a_retired_secret_is_forgotten_and_a_live_one_stays(outpost: Outpost, clock: FakeClock) -> None:
    await _set(outpost, OLD)
    await _set(outpost, NEW, overlap_s=100)
    kept = []
    async with outpost.dispatcher() as dispatcher:
        for seconds in (99, 61):
            clock.advance(seconds)
            await dispatcher.run_duties()
            kept.append([row.retires_at is None for row in await outpost.rows("tenant_secrets")])
    assert kept == [[False, True], [True]]


async def test_it_is_sealed_at_rest_and_in_no_representation(outpost: Outpost) -> None:
    await _set(outpost, OLD)
    (row,) = await outpost.rows("tenant_secrets")
    assert OLD.encode() not in row.sealed
    opened = outpost.deployment.keyring.open(row.sealed, "tenant secret", "acme")
    assert SigningKeys.read(opened).secret.text == OLD
    body = TenantSecretSet.read({"secret": OLD})
    answer = await tenants.set_secret(outpost.deployment, "acme", body)
    assert OLD not in repr(body) + repr(answer)


async def test_a_producers_callback_signs_with_its_tenants_secret_and_tells_it_once_flushed(
    outpost: Outpost, receiver: Receiver, producer_environment: pytest.MonkeyPatch
) -> None:
    await _set(outpost, OLD)
    producer = create_async_engine(outpost.settings.database_url)
    prepare_sqlite(producer)
    try:
        async with AsyncSession(producer) as session, session.begin():
            plain = register_callback(session, job_id="job_1", url=receiver.url("/plain"), tenant="acme")
            own = register_callback(session, job_id="job_1", url=receiver.url("/own"), tenant="acme", secret=OWN)
            other = register_callback(session, job_id="job_1", url=receiver.url("/plain"), tenant="rival")
            publish(session, "job.accepted", {}, job_id="job_1", tenant="acme")
        async with AsyncSession(producer) as session, session.begin():
            again = register_callback(
                session, job_id="job_1", url=receiver.url("/plain"), tenant="acme", expires_in=timedelta(hours=1)
            )
    finally:
        await producer.dispose()
    assert (plain.secret, own.secret, again.secret) == (OLD, OWN, OLD)
    assert other.secret.startswith("whsec_")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert {request.path: _signed_with(request, (OLD, OWN)) for request in receiver.received()} == {
        "/plain": {OLD},
        "/own": {OWN},
    }


async def test_a_start_with_a_key_ring_that_does_not_open_it_is_refused(outpost: Outpost) -> None:
    await _set(outpost, OLD)
    await check_keyring(outpost.database, outpost.deployment.keyring)
    with pytest.raises(Unreadable):
        await check_keyring(outpost.database, KeyRing((b"another key of thirty-two bytes!",)))


async def test_one_whose_key_is_lost_is_set_anew_without_being_read(outpost: Outpost, receiver: Receiver) -> None:
    await _set(outpost, OLD)
    await _endpoint(outpost, receiver.url("/hook"))
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.tenant_secrets.update().values(sealed=b"under a key that is lost"))
    # As an endpoint's: what nobody can read cannot overlap, and perhaps its key is only missing here.
    with pytest.raises(Conflict, match="`overlap_s` 0"):
        await _set(outpost, NEW)
    [kept] = await outpost.rows("tenant_secrets")
    assert (kept.sealed, kept.retires_at) == (b"under a key that is lost", None)
    await _set(outpost, NEW, overlap_s=0)
    await outpost.publish("a", tenant="acme")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    [request] = receiver.received()
    assert _signed_with(request, (NEW,)) == {NEW}


async def test_of_many_rotations_that_overlap_the_newest_secrets_sign(outpost: Outpost, receiver: Receiver) -> None:
    secrets = [f"secret-number-{n}" for n in range(20)]
    await _set(outpost, secrets[0])
    await _endpoint(outpost, receiver.url("/tenants"))
    own = await _endpoint(outpost, receiver.url("/own"), secret=secrets[0])
    for secret in secrets[1:]:
        await _set(outpost, secret)
        await secret_rotation.rotate_secret(
            outpost.deployment, own.id, RotateSecret.read({"secret": secret}), tenant="acme"
        )
    await outpost.publish("a", tenant="acme")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    for path in ("/tenants", "/own"):
        (request,) = receiver.received(path)
        assert _signed_with(request, secrets) == set(secrets[-MOST_SIGNING:])

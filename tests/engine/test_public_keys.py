"""`v1a`: signatures that receivers verify with an endpoint's public key, and that nobody else can make."""

import re
from typing import Any

import pytest

from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.errors import NotFound, VerificationError
from dispatcher.rules.key_pairs import PublicKey
from dispatcher.rules.verifying import verify
from dispatcher.service import endpoints, public_keys, tenants
from dispatcher.service.models import EndpointUpdate, RotateSecret, TenantSecretSet
from dispatcher.states import SignatureVersion
from dispatcher.store.keyring import Unreadable
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered
from tests.receiver import Received, Receiver

BOTH = tuple(SignatureVersion)
TOKENS = re.compile(r"v1,[A-Za-z0-9+/]{43}= v1a,[A-Za-z0-9+/]{86}==")


async def keys_of(outpost: Outpost, endpoint: Registered) -> list[str]:
    page = await public_keys.of_endpoint(outpost.deployment, endpoint.id, tenant=None)
    return [key.public_key for key in page.data]


async def send(outpost: Outpost) -> None:
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("job.completed")
        await dispatcher.until_idle()


def check(request: Received, public_key: str) -> None:
    verify(request.body, request.headers, public_key, now=int(request.headers["webhook-timestamp"]))


async def test_what_is_sent_verifies_with_the_endpoints_key_and_no_others(outpost: Outpost, receiver: Receiver) -> None:
    one = await outpost.endpoint(receiver.url("/one"), signatures=BOTH)
    other = await outpost.endpoint(receiver.url("/other"), signatures=BOTH)
    plain = await outpost.endpoint(receiver.url("/plain"))
    await send(outpost)
    [request], [plainly] = receiver.received("/one"), receiver.received("/plain")
    assert TOKENS.fullmatch(request.headers["webhook-signature"])
    assert "v1a" not in plainly.headers["webhook-signature"]
    [own], [others] = await keys_of(outpost, one), await keys_of(outpost, other)
    check(request, own)
    check(request, one.secret)
    with pytest.raises(VerificationError, match="no signature matches"):
        check(request, others)
    assert await keys_of(outpost, plain) == []


async def test_both_keys_sign_while_the_secret_is_rotated(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/"), signatures=BOTH)
    [old] = await keys_of(outpost, endpoint)
    body = RotateSecret.read({"overlap_s": 60})
    await endpoints.rotate_secret(outpost.deployment, endpoint.id, body, tenant=None)
    new, still = await keys_of(outpost, endpoint)
    assert still == old
    await send(outpost)
    clock.advance(60)
    await send(outpost)
    during, after = receiver.received()
    tokens = during.headers["webhook-signature"].split(" ")
    assert [token.split(",")[0] for token in tokens] == ["v1", "v1", "v1a", "v1a"]
    check(during, old)
    for request in (during, after):
        check(request, new)
    with pytest.raises(VerificationError):
        check(after, old)
    assert await keys_of(outpost, endpoint) == [new]


async def test_it_is_chosen_and_left_at_any_time_with_the_same_key(outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await outpost.endpoint(receiver.url("/"))

    async def choose(*versions: str) -> None:
        body = EndpointUpdate.read({"signatures": list(versions)})
        await endpoints.update(outpost.deployment, endpoint.id, body, tenant=None)

    await choose("v1a", "v1")
    [key] = await keys_of(outpost, endpoint)
    await send(outpost)
    check(receiver.received()[-1], key)
    await choose("v1")
    await send(outpost)
    assert "v1a" not in receiver.received()[-1].headers["webhook-signature"]
    await choose("v1", "v1a", "v1")
    assert await keys_of(outpost, endpoint) == [key]


async def test_a_tenants_default_secret_has_a_key_that_its_endpoints_share(
    outpost: Outpost, receiver: Receiver
) -> None:
    body = TenantSecretSet.read({"secret": "s3cret-of-acme"})
    await tenants.set_secret(outpost.deployment, "acme", body)
    made = [
        await outpost.endpoint(receiver.url(path), tenant="acme", signatures=BOTH, takes_default=True)
        for path in ("/a", "/b")
    ]
    [first], [second] = [await keys_of(outpost, endpoint) for endpoint in made]
    assert first == second
    # One that rotates has its own from then on; what it had signs on meanwhile.
    await endpoints.rotate_secret(outpost.deployment, made[0].id, RotateSecret(), tenant=None)
    own, former = await keys_of(outpost, made[0])
    assert former == first != own


async def test_the_key_object_is_made_once_for_many_attempts(sqlite_outpost: Outpost) -> None:
    endpoint = await sqlite_outpost.endpoint(signatures=BOTH)
    book = EndpointBook(sqlite_outpost.deployment)
    first = await book.current(endpoint.row, 1)
    again = await book.current(endpoint.row, 1)
    assert first is not None
    assert again is first
    assert len(first.private_keys) == 1
    assert "ed25519" not in repr(first).lower()


async def test_the_jwk_set_is_the_same_keys_and_tells_nobody_what_there_is(outpost: Outpost) -> None:
    endpoint, plain = await outpost.endpoint(signatures=BOTH), await outpost.endpoint()
    [key] = await keys_of(outpost, endpoint)
    [jwk] = (await public_keys.jwk_set(outpost.deployment, endpoint.id)).keys
    expected: dict[str, Any] = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"}
    parsed = PublicKey.parse(key)
    assert jwk.model_dump() == {**expected, "x": parsed.jwk_x, "kid": parsed.thumbprint}
    for unknown in (plain.id, "ep_0000000000000", "nonsense"):
        assert (await public_keys.jwk_set(outpost.deployment, unknown)).keys == []
    with pytest.raises(NotFound):
        await public_keys.of_endpoint(outpost.deployment, endpoint.id, tenant="another")


async def test_strangers_learn_of_keys_that_cannot_be_read_no_more_than_of_none(outpost: Outpost) -> None:
    endpoint = await outpost.endpoint(signatures=BOTH)
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.endpoint_secrets.update().values(sealed=b"damaged"))
    assert (await public_keys.jwk_set(outpost.deployment, endpoint.id)).keys == []
    # Who has a key is told.
    with pytest.raises(Unreadable):
        await public_keys.of_endpoint(outpost.deployment, endpoint.id, tenant=None)

"""A staged secret: shown, signing nothing, and switched to only when the endpoint's receiver has accepted it."""

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web

from dispatcher.errors import Conflict, InvalidField, VerificationError
from dispatcher.rules.verifying import verify
from dispatcher.service import endpoints, public_keys
from dispatcher.service.models import ActivateSecret, Endpoint, EndpointWithSecret, RotateSecret
from dispatcher.states import SignatureVersion
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered
from tests.receiver import Received, Receiver


async def stage(outpost: Outpost, endpoint: Registered, **fields: Any) -> EndpointWithSecret:
    body = RotateSecret.read({"stage": True, "overlap_s": 60, **fields})
    return await endpoints.rotate_secret(outpost.deployment, endpoint.id, body, tenant=None)


async def activate(outpost: Outpost, endpoint: Registered, *, force: bool = False) -> Endpoint:
    return await endpoints.activate_secret(outpost.deployment, endpoint.id, ActivateSecret(force=force), tenant=None)


def verifies(request: Received, secret: str, header: str | None = None) -> bool:
    try:
        verify(request.body, request.headers, secret, header=header, now=int(request.headers["webhook-timestamp"]))
    except VerificationError:
        return False
    return True


def takes(*secrets: str) -> Any:
    """A receiver that verifies with these secrets."""

    def answer(request: Received) -> web.Response:
        return web.Response(status=200 if any(verifies(request, secret) for secret in secrets) else 401)

    return answer


async def sent(outpost: Outpost, receiver: Receiver) -> Received:
    """What the endpoint is sent now."""
    before = len(receiver.received())
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("job.completed")
        await dispatcher.until_idle()
    [request] = receiver.received()[before:]
    return request


async def test_it_signs_nothing_until_a_test_event_signed_with_it_alone_was_accepted(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), signature_header="X-Sig")
    staged = await stage(outpost, endpoint)
    assert staged.secret != endpoint.secret
    assert staged.secret_staged_at == clock.now()
    meanwhile = await sent(outpost, receiver)
    assert (verifies(meanwhile, endpoint.secret), verifies(meanwhile, staged.secret)) == (True, False)

    receiver.answers("/hook", takes(staged.secret))
    activated = await activate(outpost, endpoint)
    assert activated.secret_staged_at is None
    tried = receiver.received()[-1]
    assert b'"webhook.test"' in tried.body
    assert " " not in tried.headers["webhook-signature"]
    assert verifies(tried, staged.secret, "X-Sig")

    during = await sent(outpost, receiver)
    assert (verifies(during, endpoint.secret), verifies(during, staged.secret)) == (True, True)
    assert verifies(during, endpoint.secret, "X-Sig")
    clock.advance(60)
    after = await sent(outpost, receiver)
    assert (verifies(after, endpoint.secret), verifies(after, staged.secret)) == (False, True)


async def test_a_receiver_that_refuses_it_keeps_the_old_one_unless_it_is_forced(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    staged = await stage(outpost, endpoint, secret="the-next-one", overlap_s=0)
    receiver.answers("/hook", takes(endpoint.secret))
    with pytest.raises(Conflict, match="status 401"):
        await activate(outpost, endpoint)
    assert verifies(await sent(outpost, receiver), endpoint.secret)
    tests = len(receiver.received())
    await activate(outpost, endpoint, force=True)
    assert len(receiver.received()) == tests
    receiver.answers("/hook", 200)
    after = await sent(outpost, receiver)
    assert (verifies(after, endpoint.secret), verifies(after, staged.secret)) == (False, True)


async def test_a_receiver_that_cannot_be_reached_keeps_the_old_one(sqlite_outpost: Outpost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    endpoint = await sqlite_outpost.endpoint(f"http://127.0.0.1:{port}/")
    await stage(sqlite_outpost, endpoint)
    with pytest.raises(Conflict, match="error connection_refused"):
        await activate(sqlite_outpost, endpoint)


async def test_where_nothing_is_staged_there_is_nothing_to_activate(outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    with pytest.raises(Conflict, match="no secret is staged"):
        await activate(outpost, endpoint, force=True)
    await stage(outpost, endpoint)
    await activate(outpost, endpoint)
    with pytest.raises(Conflict, match="no secret is staged"):
        await activate(outpost, endpoint)


async def test_another_that_is_staged_during_the_test_is_not_switched_to(outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    await stage(outpost, endpoint)

    async def stage_another(request: Received) -> web.Response:
        await stage(outpost, endpoint, secret="staged-meanwhile")
        return web.Response(status=200)

    receiver.answers("/hook", stage_another, 200)
    with pytest.raises(Conflict, match="meanwhile"):
        await activate(outpost, endpoint)
    assert verifies(await sent(outpost, receiver), endpoint.secret)
    await activate(outpost, endpoint)
    assert verifies(await sent(outpost, receiver), "staged-meanwhile")


async def test_of_two_activations_at_once_one_switches(outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    await stage(outpost, endpoint)
    ended = await asyncio.gather(*(activate(outpost, endpoint) for _ in range(2)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in ended) == ["Conflict", "Endpoint"]
    assert await outpost.count("endpoint_secrets") == 2


async def test_a_rotation_at_once_takes_its_place_and_the_secret_that_signs_is_none_to_stage(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    with pytest.raises(InvalidField, match="signs already"):
        await stage(outpost, endpoint, secret=endpoint.secret)
    await stage(outpost, endpoint)
    rotated = await endpoints.rotate_secret(outpost.deployment, endpoint.id, RotateSecret(), tenant=None)
    assert rotated.secret_staged_at is None
    with pytest.raises(Conflict, match="no secret is staged"):
        await activate(outpost, endpoint, force=True)


@pytest.mark.parametrize("staged", [False, True])
async def test_a_rotation_heals_an_endpoint_whose_secret_cannot_be_read(
    outpost: Outpost, receiver: Receiver, staged: bool
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.endpoint_secrets.update().values(sealed=b"under a key that is lost"))
    # What nobody can read cannot overlap, and perhaps its key is only missing here: it goes only when asked to.
    with pytest.raises(Conflict, match="or rotate with `overlap_s` 0"):
        await endpoints.rotate_secret(outpost.deployment, endpoint.id, RotateSecret(stage=staged), tenant=None)
    body = RotateSecret(stage=staged, overlap_s=0)
    healed = await endpoints.rotate_secret(outpost.deployment, endpoint.id, body, tenant=None)
    if staged:
        with pytest.raises(Conflict, match="or activate with `force`"):
            # Its test event would be signed as the endpoint stands.
            await activate(outpost, endpoint)
        await activate(outpost, endpoint, force=True)
    assert verifies(await sent(outpost, receiver), healed.secret)


@pytest.mark.parametrize("force", [False, True])
async def test_what_was_staged_to_overlap_with_a_secret_that_is_lost_since_is_not_activated(
    outpost: Outpost, force: bool
) -> None:
    endpoint = await outpost.endpoint()
    await stage(outpost, endpoint)
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.endpoint_secrets.update().values(sealed=b"under a key that is lost"))
    with pytest.raises(Conflict, match="or rotate with `overlap_s` 0"):
        # Nothing at all could be sent until the overlap had passed.
        await activate(outpost, endpoint, force=force)


async def test_a_staged_secret_that_cannot_be_read_is_replaced_by_another(outpost: Outpost) -> None:
    endpoint = await outpost.endpoint()
    await stage(outpost, endpoint)
    await outpost.change("endpoints", endpoint.row, staged_sealed=b"under a key that is lost")
    with pytest.raises(Conflict, match="or stage another"):
        await activate(outpost, endpoint, force=True)
    await stage(outpost, endpoint)
    await activate(outpost, endpoint, force=True)


async def test_it_goes_with_its_endpoint(outpost: Outpost) -> None:
    endpoint = await outpost.endpoint()
    await stage(outpost, endpoint, secret="never-activated")
    [row] = await outpost.rows("endpoints")
    assert b"never-activated" not in row.staged_sealed
    await endpoints.delete(outpost.deployment, endpoint.id, tenant=None)
    [row] = await outpost.rows("endpoints")
    assert (row.staged_sealed, row.url_sealed) == (None, b"")


async def test_its_public_key_can_be_published_before_it_signs(outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), signatures=tuple(SignatureVersion))

    async def listed() -> list[tuple[str, bool]]:
        page = await public_keys.of_endpoint(outpost.deployment, endpoint.id, tenant=None)
        return [(key.public_key, key.staged) for key in page.data]

    [(old, _)] = await listed()
    await stage(outpost, endpoint)
    [(new, is_staged), *_] = await listed()
    assert is_staged
    assert not verifies(await sent(outpost, receiver), new)
    receiver.answers("/hook", takes(new))
    await activate(outpost, endpoint)
    assert await listed() == [(new, False), (old, False)]
    during = await sent(outpost, receiver)
    assert (verifies(during, new), verifies(during, old)) == (True, True)

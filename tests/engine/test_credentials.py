"""Endpoints with credentials, from the claim to the record: sent along, renewed, and charged to nobody else."""

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from dispatcher.engine.test_event import send_test
from dispatcher.rules.client_identity import ClientIdentity
from dispatcher.rules.oauth2 import OAuth2
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store.endpoint_credentials import EndpointCredentials
from dispatcher.transport import tokens
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver
from tests.transport.alerting_server import AlertingServer
from tests.transport.certificates import Authority

SECRET = "s3cret-of-the-client"
RETRY_S = 60.0


def with_token(url: str) -> EndpointCredentials:
    return EndpointCredentials(oauth2=OAuth2(url, "client", SECRET), token_url_shown=url)


def gives(text: str) -> Callable[[Received], web.Response]:
    return lambda _: web.json_response({"access_token": text, "token_type": "Bearer", "expires_in": 600})


async def test_deliveries_carry_a_token_and_a_401_has_the_retry_carry_another(
    outpost: Outpost,
    receiver: Receiver,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(tokens, "SPACING_S", 0.0)
    receiver.answers("/token", gives("t0ken-1"), gives("t0ken-2"))

    async def repeats(request: Received) -> web.Response:
        return web.Response(text=f"I got {request.headers['authorization']}")

    receiver.answers("/hook", 200, 401, repeats)
    await outpost.endpoint(
        receiver.url("/hook"), retry_schedule=(RETRY_S,), credentials=with_token(receiver.url("/token"))
    )
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish()
        await dispatcher.until_idle()
        await outpost.publish()
        await dispatcher.until_idle()
        clock.advance(RETRY_S)
        await dispatcher.until_idle()
    assert [row.state for row in await outpost.deliveries()] == [DeliveryState.DELIVERED] * 2
    assert [request.headers["authorization"] for request in receiver.received("/hook")] == [
        "Bearer t0ken-1",
        "Bearer t0ken-1",
        "Bearer t0ken-2",
    ]
    assert all("webhook-signature" in request.headers for request in receiver.received("/hook"))
    attempts = await outpost.attempts()
    assert [attempt.status for attempt in attempts] == [200, 401, 200]
    # Neither the log nor the attempt log has any of it.
    for secret in ("t0ken", SECRET):
        assert secret not in caplog.text
        assert secret not in repr(attempts)


async def test_a_token_endpoint_that_fails_is_charged_to_its_endpoint_and_not_to_the_host(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        unreachable = f"http://127.0.0.1:{closed.getsockname()[1]}/token"
        receiver.answers("/token", 503)
        refused, unserved = [
            await outpost.endpoint(receiver.url("/hook"), retry_schedule=(RETRY_S,), credentials=with_token(url))
            for url in (receiver.url("/token"), unreachable)
        ]
        await outpost.publish()
        async with outpost.dispatcher() as dispatcher:
            await dispatcher.until_idle()
    for endpoint, error, why, backs_off in (
        (refused, AttemptError.HTTP_STATUS, "answered 503", 0),
        (unserved, AttemptError.CONNECTION_REFUSED, "connection_refused", 1),
    ):
        row = await outpost.delivery_to(endpoint)
        assert (row.state, row.last_error, row.last_status) == (DeliveryState.PENDING, error, None)
        assert (row.due_at - clock.now()).total_seconds() == RETRY_S
        (attempt,) = [one for one in await outpost.attempts() if one.delivery_row == row.row_id]
        assert attempt.response_excerpt.startswith("(no access token: ")
        assert why in attempt.response_excerpt
        known = await outpost.endpoint_now(endpoint)
        assert (known.failures_in_row, known.backoff_failures) == (1, backs_off)
    # It was not asked, so nothing is known of it: neither good nor bad.
    assert receiver.received("/hook") == []
    for destination in await outpost.rows("destinations"):
        assert (destination.failures_in_row, destination.backoff_failures, destination.verified_at) == (0, 0, None)


async def test_a_token_endpoint_where_nobody_may_connect_to_ends_as_blocked(
    outpost: Outpost, receiver: Receiver
) -> None:
    await outpost.endpoint(receiver.url("/hook"), credentials=with_token("http://10.0.0.1/token"))
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    row = await outpost.delivery()
    assert (row.state, row.reason, row.last_error) == (DeliveryState.DEAD, Reason.BLOCKED, AttemptError.BLOCKED)
    assert receiver.requests == []


async def test_a_certificate_is_shown_for_its_endpoint_and_nobody_else_suffers_without_one(
    outpost: Outpost, tmp_path: Path
) -> None:
    authority = Authority.make(tmp_path / "authority")
    identity = ClientIdentity.parse(*authority.client("us"), datetime.now(UTC))
    with AlertingServer(authority.asking("127.0.0.1")) as server:
        known = await outpost.endpoint(server.url, credentials=EndpointCredentials(identity=identity))
        stranger = await outpost.endpoint(server.url, retry_schedule=(RETRY_S,))
        await outpost.publish()
        async with outpost.dispatcher(ca_file=authority.trusted) as dispatcher:
            await dispatcher.until_idle()
    assert (await outpost.delivery_to(known)).state == DeliveryState.DELIVERED
    row = await outpost.delivery_to(stranger)
    assert (row.state, row.last_error) == (DeliveryState.PENDING, AttemptError.TLS)
    assert len(server.requests) == 1
    destination = await outpost.destination()
    assert (destination.failures_in_row, destination.backoff_failures) == (0, 0)


async def test_a_callback_that_is_forgotten_takes_its_credentials_along(
    outpost: Outpost, clock: FakeClock, tmp_path: Path
) -> None:
    pair = Authority.make(tmp_path / "authority").client("us", at=clock.now())
    endpoint = await outpost.endpoint(
        "https://127.0.0.1:8000/",
        job_id="job_1",
        expires_at=clock.now() + timedelta(seconds=60),
        credentials=EndpointCredentials(
            ClientIdentity.parse(*pair, clock.now()),
            OAuth2("https://127.0.0.1/", "client", SECRET),
            "https://127.0.0.1/",
        ),
    )
    async with outpost.dispatcher() as dispatcher:
        for seconds in (61, 86400 + 11):
            clock.advance(seconds)
            await dispatcher.run_duties()
    known = await outpost.endpoint_now(endpoint)
    assert known.deleted_at is not None
    assert not [name for name, value in known._mapping.items() if name.startswith(("client_", "oauth2_")) and value]


async def test_a_change_of_credentials_holds_for_the_next_attempt(outpost: Outpost, receiver: Receiver) -> None:
    receiver.answers("/old", gives("before"))
    receiver.answers("/new", gives("after"))
    endpoint = await outpost.endpoint(receiver.url("/hook"), credentials=with_token(receiver.url("/old")))
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish()
        await dispatcher.until_idle()
        changed = with_token(receiver.url("/new")).columns(outpost.deployment.keyring, endpoint.row)
        await outpost.change("endpoints", endpoint.row, **changed, version=2)
        await outpost.publish()
        await dispatcher.until_idle()
    assert [request.headers["authorization"] for request in receiver.received("/hook")] == [
        "Bearer before",
        "Bearer after",
    ]


async def test_a_test_event_carries_them_too(outpost: Outpost, receiver: Receiver) -> None:
    receiver.answers("/token", gives("t0ken"))
    endpoint = await outpost.endpoint(receiver.url("/hook"), credentials=with_token(receiver.url("/token")))
    assert (await send_test(outpost.deployment, endpoint.row)).delivered
    [request] = receiver.received("/hook")
    assert request.headers["authorization"] == "Bearer t0ken"


async def test_attempts_that_wait_for_a_token_are_given_back_at_a_stop(outpost: Outpost, receiver: Receiver) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(_: Received) -> web.Response:
        asked.set()
        await never.wait()
        return web.Response()

    receiver.answers("/token", hang)
    await outpost.endpoint(receiver.url("/hook"), credentials=with_token(receiver.url("/token")))
    await outpost.publish()
    async with outpost.dispatcher(shutdown_grace=timedelta(milliseconds=1)):
        await asked.wait()
    never.set()
    row = await outpost.delivery()
    assert (row.state, row.last_error) == (DeliveryState.PENDING, AttemptError.INTERRUPTED)
    assert receiver.received("/hook") == []

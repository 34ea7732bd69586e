"""Access tokens: asked for once, kept until shortly before they expire, from token endpoints that may be anybody's."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs

import pytest
from aiohttp import encode_basic_auth, web

from dispatcher.rules.credentials import Credentials
from dispatcher.rules.oauth2 import OAuth2, Token
from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport import tokens
from dispatcher.transport.client import HttpClient, Kind, open_wire
from dispatcher.transport.tls import Trust
from dispatcher.transport.tokens import SPACING_S, Tokens, Unauthorized
from tests.receiver import Received, Receiver
from tests.transport.posting import LOOPBACK, NOTHING_SPECIAL, Open, post
from tests.transport.raw_receiver import RawReceiver, answer

SECRET = "s3cret+/&=ü"


def gives(*texts: str, expires_in: object = 3600) -> Callable[[Received], web.Response]:
    """A token endpoint that gives these tokens, one after the other."""
    left = list(texts)

    def give(_: Received) -> web.Response:
        text = left.pop(0) if len(left) > 1 else left[0]
        return web.json_response({"access_token": text, "token_type": "Bearer", "expires_in": expires_in})

    return give


def asking(url: str, **more: str) -> OAuth2:
    return OAuth2(url, "client 1", SECRET, **more)  # type: ignore[arg-type]


def bearers(receiver: Receiver, path: str = "/hook") -> list[str | None]:
    return [request.headers.get("authorization") for request in receiver.received(path)]


class Time:
    """A clock of seconds that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def source(kind: Kind, time: Time) -> AsyncIterator[Tokens]:
    """Tokens by a clock that the test sets."""
    wire = open_wire(kind, LOOPBACK, None, 5.0, Trust(None).context)
    made = Tokens(wire, time)
    yield made
    await made.close()
    await wire.close()


async def test_a_token_is_asked_for_once_and_sent_with_every_attempt(client: HttpClient, receiver: Receiver) -> None:
    receiver.answers("/token", gives("t0ken"))
    oauth2 = asking(receiver.url("/token?tenant=1"), scope="events.write more", audience="https://api")
    credentials = Credentials("ep_1", None, oauth2)
    exchanges = await asyncio.gather(
        *(post(client, receiver.url("/hook"), credentials=credentials, headers={"x-own": "1"}) for _ in range(10))
    )
    assert exchanges == [Exchange(status=200, error=None)] * 10
    assert bearers(receiver) == ["Bearer t0ken"] * 10
    assert {request.headers["x-own"] for request in receiver.received("/hook")} == {"1"}
    [asked] = receiver.received("/token")
    assert (asked.method, asked.query) == ("POST", "tenant=1")
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["events.write more"],
        "audience": ["https://api"],
    }
    # As in a form before they are joined: RFC 6749, 2.3.1.
    assert asked.headers["authorization"] == encode_basic_auth("client+1", "s3cret%2B%2F%26%3D%C3%BC")


async def test_the_secret_may_go_in_the_form(client: HttpClient, receiver: Receiver) -> None:
    receiver.answers("/token", gives("t0ken"))
    oauth2 = asking(receiver.url("/token"), auth_method="client_secret_post")
    await post(client, receiver.url("/hook"), credentials=Credentials("ep_1", None, oauth2))
    [asked] = receiver.received("/token")
    assert "authorization" not in asked.headers
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": ["client 1"],
        "client_secret": [SECRET],
    }


async def test_a_token_is_renewed_shortly_before_it_expires(source: Tokens, receiver: Receiver, time: Time) -> None:
    receiver.answers("/token", gives("first", "second", expires_in=600))
    oauth2 = asking(receiver.url("/token"))
    assert (await source.token(oauth2)).text == "first"
    time.now += 569
    assert (await source.token(oauth2)).text == "first"
    time.now += 2
    assert (await source.token(oauth2)).text == "second"
    assert len(receiver.received("/token")) == 2


async def test_others_credentials_get_tokens_of_their_own(source: Tokens, receiver: Receiver) -> None:
    receiver.answers("/token", gives("first", "second", "third"))
    url = receiver.url("/token")
    for oauth2 in (asking(url), asking(url, scope="other"), OAuth2(url, "client 1", "guessed")):
        await source.token(oauth2)
    assert len(receiver.received("/token")) == 3


async def test_a_401_has_the_next_attempt_send_another_token(
    client: HttpClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SPACING_S", 0.0)
    receiver.answers("/token", gives("revoked", "fresh"))
    receiver.answers("/hook", 401, 200)
    credentials = Credentials("ep_1", None, asking(receiver.url("/token")))
    first = await post(client, receiver.url("/hook"), credentials=credentials)
    # An attempt is one POST: nothing is sent twice behind its back.
    assert (first.status, first.error) == (401, AttemptError.HTTP_STATUS)
    assert (await post(client, receiver.url("/hook"), credentials=credentials)).status == 200
    assert bearers(receiver) == ["Bearer revoked", "Bearer fresh"]


async def test_a_receiver_that_refuses_every_token_has_few_asked_for(
    source: Tokens, receiver: Receiver, time: Time
) -> None:
    receiver.answers("/token", gives("first", "second"))
    oauth2 = asking(receiver.url("/token"))
    first = await source.token(oauth2)
    for _ in range(5):
        source.refused(oauth2, first)
        assert (await source.token(oauth2)) is first
    time.now += SPACING_S
    second = await source.token(oauth2)
    # What was in flight with the former token is refused late.
    source.refused(oauth2, first)
    time.now += SPACING_S
    assert (await source.token(oauth2)) is second
    assert len(receiver.received("/token")) == 2


LIES = {
    "no json": b"token",
    "no object": b'["token"]',
    "no token": b'{"token_type": "Bearer"}',
    "a token that is none": b'{"access_token": 1}',
    "an empty token": b'{"access_token": ""}',
    "a header of its own": b'{"access_token": "a\\r\\nX-Evil: 1"}',
    "two words": b'{"access_token": "a b"}',
    "a token without end": json.dumps({"access_token": "a" * 8001}).encode(),
    "more than is read": json.dumps({"access_token": "a", "more": "b" * 20_000}).encode(),
    "another type": b'{"access_token": "a", "token_type": "mac"}',
    "already over": b'{"access_token": "a", "expires_in": 0}',
    "no time": b'{"access_token": "a", "expires_in": "soon"}',
    "no number": b'{"access_token": "a", "expires_in": NaN}',
    "depth": b"[" * 16_000,
}


@pytest.mark.parametrize("said", LIES.values(), ids=LIES)
async def test_an_answer_that_is_no_token_is_not_believed(client: HttpClient, receiver: Receiver, said: bytes) -> None:
    async with RawReceiver(answer(said)) as liar:
        credentials = Credentials("ep_1", None, asking(liar.url("/token")))
        exchange = await post(client, receiver.url("/hook"), credentials=credentials)
    assert (exchange.status, exchange.error, exchange.of_endpoint_alone) == (None, AttemptError.PROTOCOL, True)
    assert exchange.excerpt.startswith("(no access token: the token endpoint does not keep to OAuth2: ")
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        (
            answer(b'{"error": "invalid_client"}', status="401 No"),
            AttemptError.HTTP_STATUS,
            "answered 401 invalid_client)",
        ),
        (answer(b'{"error": "<b>\\n"}', status="400 No"), AttemptError.HTTP_STATUS, "answered 400)"),
        (answer(b"", "Location: /elsewhere", status="302 Found"), AttemptError.HTTP_STATUS, "answered 302)"),
        (answer(b"\x1f\x8b", "Content-Encoding: gzip"), AttemptError.PROTOCOL, "compressed"),
        (b"no http\r\n\r\n", AttemptError.PROTOCOL, "ended with protocol)"),
        (b"", AttemptError.CONNECTION_RESET, "ended with connection_reset)"),
    ],
    ids=["refused", "refused in words of its own", "redirect", "compressed", "no http", "closed"],
)
async def test_a_token_endpoint_that_fails_is_a_failed_attempt_with_the_reason(
    client: HttpClient, receiver: Receiver, said: bytes, error: AttemptError, why: str
) -> None:
    async with RawReceiver(said) as refusing:
        credentials = Credentials("ep_1", None, asking(refusing.url("/token")))
        for _ in range(2):
            exchange = await post(client, receiver.url("/hook"), credentials=credentials)
            assert (exchange.status, exchange.error, exchange.of_endpoint_alone) == (None, error, True)
            assert why in exchange.excerpt
    # However many attempts fail by it, it is asked once in a while, and nowhere else.
    assert refusing.connections == 1
    assert receiver.requests == []


async def test_a_failure_is_forgotten_soon(source: Tokens, receiver: Receiver, time: Time) -> None:
    receiver.answers("/token", 503, gives("t0ken"))
    oauth2 = asking(receiver.url("/token"))
    for _ in range(2):
        with pytest.raises(Unauthorized, match="answered 503"):
            await source.token(oauth2)
    time.now += SPACING_S
    assert (await source.token(oauth2)).text == "t0ken"


async def test_a_token_endpoint_that_hangs_is_not_waited_for(
    client: HttpClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "PATIENCE_S", 0.1)
    async with RawReceiver(None) as silent:
        credentials = Credentials("ep_1", None, asking(silent.url("/token")))
        exchange = await post(client, receiver.url("/hook"), credentials=credentials)
        await asyncio.wait_for(silent.left.wait(), 10)
    assert (exchange.error, exchange.of_endpoint_alone) == (AttemptError.TIMEOUT, True)


async def test_an_attempt_waits_no_longer_than_its_own_time_and_the_token_comes_to_others(
    client: HttpClient, receiver: Receiver
) -> None:
    async with RawReceiver(None) as slow:
        credentials = Credentials("ep_1", None, asking(slow.url("/token")))
        patient = asyncio.create_task(post(client, receiver.url("/hook"), credentials=credentials))
        await slow.asked.wait()
        hasty = await post(client, receiver.url("/hook"), credentials=credentials, timeout_s=0.05)
        assert (hasty.error, hasty.of_endpoint_alone) == (AttemptError.TIMEOUT, True)
        await slow.say(answer(b'{"access_token": "late"}'))
        assert (await patient).status == 200
    assert bearers(receiver) == ["Bearer late"]
    assert len(slow.requests) == 1


async def test_an_answer_without_end_is_read_no_further_than_any(client: HttpClient, receiver: Receiver) -> None:
    async with RawReceiver(b"HTTP/1.1 200 OK\r\n\r\n", b"{" * 4000, without_end=True) as endless:
        credentials = Credentials("ep_1", None, asking(endless.url("/token")))
        exchange = await post(client, receiver.url("/hook"), credentials=credentials)
        await asyncio.wait_for(endless.left.wait(), 10)
    assert exchange.error is AttemptError.PROTOCOL
    assert endless.written < 2**24


async def test_a_token_endpoint_is_connected_to_under_the_same_guard(opened: Open, receiver: Receiver) -> None:
    guarded = opened(NOTHING_SPECIAL)
    credentials = Credentials("ep_1", None, asking(receiver.url("/token")))
    exchange = await post(guarded, "https://example.com/hook", credentials=credentials)
    assert (exchange.status, exchange.error) == (None, AttemptError.BLOCKED)
    assert receiver.requests == []


async def test_one_host_is_asked_for_few_tokens_at_once(source: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "AT_ONCE", 1)
    async with RawReceiver(None) as slow:
        asked = [asyncio.create_task(source.token(OAuth2(slow.url("/token"), f"{n}", "s"))) for n in range(4)]
        await slow.asked.wait()
        slow.answer_next(answer(b'{"access_token": "b"}'))
        await slow.say(answer(b'{"access_token": "a"}'))
        assert [(await one).text for one in asked] == ["a", "b", "b", "b"]
        # One after the other, over the same connection.
        assert slow.connections == 1


async def test_a_client_of_its_own_has_a_token_endpoint_asked_no_more_often(opened: Open, receiver: Receiver) -> None:
    receiver.answers("/token", gives("t0ken"))
    receiver.answers("/down", 503)
    # As test events and challenges have.
    clients = [opened() for _ in range(4)]
    for path, status in (("/token", 200), ("/down", None)):
        credentials = Credentials("ep_1", None, asking(receiver.url(path)))
        exchanges = await asyncio.gather(
            *(post(client, receiver.url("/hook"), credentials=credentials) for client in clients)
        )
        assert [exchange.status for exchange in exchanges] == [status] * 4
        assert len(receiver.received(path)) == 1


async def test_one_client_that_closes_leaves_the_others_their_token(opened: Open, receiver: Receiver) -> None:
    leaving, staying = opened(), opened()
    async with RawReceiver(None) as slow:
        credentials = Credentials("ep_1", None, asking(slow.url("/token")))
        first = asyncio.create_task(post(leaving, receiver.url("/hook"), credentials=credentials))
        await slow.asked.wait()
        slow.answer_next(answer(b'{"access_token": "t0ken"}'))
        second = asyncio.create_task(post(staying, receiver.url("/hook"), credentials=credentials))
        await asyncio.sleep(0)
        await leaving.close()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).status == 200


async def test_at_the_end_nobody_waits_for_a_token(opened: Open, receiver: Receiver) -> None:
    client = opened()
    async with RawReceiver(None) as slow:
        credentials = Credentials("ep_1", None, asking(slow.url("/token")))
        waiting = asyncio.create_task(post(client, receiver.url("/hook"), credentials=credentials))
        await slow.asked.wait()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_receiver_that_shows_what_it_was_sent_shows_no_token(client: HttpClient, receiver: Receiver) -> None:
    receiver.answers("/token", gives("t0ken"))
    async with RawReceiver(answer(b'{"authorization": "Bearer t0ken"}')) as showing:
        credentials = Credentials("ep_1", None, asking(receiver.url("/token")))
        exchange = await post(client, showing.url("/hook"), credentials=credentials)
    assert exchange.excerpt == '{"authorization": "Bearer ***"}'


def test_neither_secret_nor_token_is_in_what_is_printed() -> None:
    printed = repr((asking("https://a.example.com/?key=k3y"), Token("t0ken", 1.0)))
    assert not any(secret in printed for secret in (SECRET, "k3y", "t0ken"))

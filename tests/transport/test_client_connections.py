"""Requests and connections, as bytes: what is sent, which connections are used again, and which never are."""

import asyncio
from base64 import b64encode

import pytest
from aiohttp import web

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import READ_LIMIT, HttpClient
from tests.receiver import Received, Receiver
from tests.transport.posting import post
from tests.transport.raw_receiver import OK, RawReceiver, answer


async def test_the_request_is_what_was_asked_for_and_nothing_more(client: HttpClient) -> None:
    async with RawReceiver() as receiver:
        url = receiver.url("/a%2Fb/%c3%a4;x?token=a%20b+c&e=&f")
        exchange = await post(client, url, body='{"ä":1.0}'.encode(), headers={"X-Mine": "1", "user-agent": "us"})
    assert exchange == Exchange(status=200, error=None)
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    request_line, *headers = head.decode().split("\r\n")
    assert request_line == "POST /a%2Fb/%c3%a4;x?token=a%20b+c&e=&f HTTP/1.1"
    assert body == '{"ä":1.0}'.encode()
    assert sorted(line.lower() for line in headers if not line.lower().startswith("content-type")) == [
        "content-length: 10",
        f"host: 127.0.0.1:{receiver.port}",
        "user-agent: us",
        "x-mine: 1",
    ]


async def test_a_password_in_the_url_is_sent_as_basic_auth(client: HttpClient) -> None:
    async with RawReceiver() as receiver:
        await post(client, receiver.url("/hook", host="us%40er:p%C3%A4ss%3A@127.0.0.1"))
    expected = b64encode("us@er:päss:".encode("latin-1"))
    assert b"\r\nAuthorization: Basic " + expected + b"\r\n" in receiver.requests[0]
    assert receiver.requests[0].startswith(b"POST /hook HTTP/1.1\r\n")


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, client: HttpClient) -> None:
    async with RawReceiver() as proxy, RawReceiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert (await post(client, receiver.url())).status == 200
    assert (proxy.connections, receiver.connections) == (0, 1)


async def test_a_connection_is_used_again(client: HttpClient) -> None:
    answers = [OK, answer(b"some text"), answer(b"x" * 10_000, status="500 X")]
    async with RawReceiver(*answers) as receiver:
        for _ in range(6):
            await post(client, receiver.url())
        assert (receiver.connections, len(receiver.requests)) == (1, 6)


@pytest.mark.parametrize(
    "unclean",
    [
        answer(b"x" * (READ_LIMIT * 20)),
        answer(b"", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        answer(b"", "Upgrade: other", "Connection: upgrade", status="101 X"),
    ],
    ids=["not read to its end", "close", "http/1.0", "upgraded"],
)
async def test_a_connection_that_is_not_clean_is_not_used_again(client: HttpClient, unclean: bytes) -> None:
    async with RawReceiver(unclean) as receiver:
        for _ in range(2):
            await post(client, receiver.url())
        assert receiver.connections == 2


async def test_what_comes_after_a_timeout_is_nobody_elsesanswer(client: HttpClient) -> None:
    unfinished = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"
    async with RawReceiver(unfinished, answer(b"second")) as receiver:
        first = await post(client, receiver.url(), timeout_s=0.2)
        second = await post(client, receiver.url())
        assert receiver.connections == 2
    assert first == Exchange(status=None, error=AttemptError.TIMEOUT)
    assert second.excerpt == "second"


async def test_a_cancelled_post_travels_on_and_closes_its_connection(client: HttpClient) -> None:
    unfinished = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"
    async with RawReceiver(unfinished) as receiver, asyncio.timeout(10):
        sending = asyncio.create_task(post(client, receiver.url()))
        await receiver.asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await receiver.left.wait()


async def test_more_than_a_hundred_posts_are_in_flight_at_once(client: HttpClient, receiver: Receiver) -> None:
    everybody = asyncio.Event()

    async def when_all_are_there(_: Received) -> web.StreamResponse:
        if len(receiver.requests) == 150:
            everybody.set()
        await everybody.wait()
        return web.Response()

    receiver.answers("/hook", when_all_are_there)
    exchanges = await asyncio.gather(*(post(client, receiver.url("/hook"), timeout_s=15) for _ in range(150)))
    assert {exchange.status for exchange in exchanges} == {200}

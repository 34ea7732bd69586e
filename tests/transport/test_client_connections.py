"""Requests and connections, as bytes: what is sent, which connections are used again, and which never are."""

import asyncio
import socket
from base64 import b64encode
from contextlib import suppress

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
    expected = b64encode("us@er:päss:".encode())
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


async def test_what_was_said_while_nobody_had_asked_is_no_answer(client: HttpClient) -> None:
    async with RawReceiver(answer(b"asked")) as receiver, RawReceiver() as other:
        assert (await post(client, receiver.url())).excerpt == "asked"
        await receiver.say(answer(b"unasked"))
        # Another round trip in this loop: what was said has been read by then.
        await post(client, other.url())
        assert (await post(client, receiver.url())).excerpt == "asked"
        assert receiver.connections == 2


# Some waits in this process, or all of it in the kernel's buffers.
@pytest.mark.parametrize("size", [2**24, 2**17])
async def test_an_answer_before_the_body_was_read_costs_the_connection_only(client: HttpClient, size: int) -> None:
    async def answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"enough", status="413 X"))
        await writer.drain()

    connections: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(answer_at_once, "127.0.0.1", 0, limit=2**10) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for _ in range(2):
            exchange = await post(client, url, body=b"x" * size, timeout_s=10)
            assert (exchange.status, exchange.excerpt) == (413, "enough")
        assert len(connections) == 2
        for writer in connections:
            writer.close()


@pytest.mark.parametrize("answered", [answer(b"enough", status="413 X"), b""], ids=["answered early", "timed out"])
async def test_what_a_receiver_does_not_take_is_not_kept_for_it(client: HttpClient, answered: bytes) -> None:
    loop, size = asyncio.get_running_loop(), 2**24
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        sending = asyncio.create_task(post(client, url, body=b"x" * size, timeout_s=10 if answered else 0.2))
        taken, _ = await loop.sock_accept(listening)
        with taken:
            await loop.sock_recv(taken, 1)
            await loop.sock_sendall(taken, answered)
            await sending
            # What has left this process still comes, then the end, and not the rest of the body.
            read = 0
            async with asyncio.timeout(10):
                with suppress(ConnectionResetError):
                    while chunk := await loop.sock_recv(taken, 2**20):
                        read += len(chunk)
    assert read < size


async def test_a_header_of_two_lines_is_never_sent(client: HttpClient) -> None:
    async with RawReceiver() as receiver:
        for value in ("a\r\nX-Theirs: 1", "a\nb", "a\rb", "a\0b"):
            with pytest.raises(ValueError, match="more than one line"):
                await post(client, receiver.url(), headers={"X-Mine": value})
        assert receiver.connections == 0


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

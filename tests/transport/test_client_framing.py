"""Framing as an attack: what a receiver says about where its answer ends, and what it says beside it, harms nobody."""

import asyncio
from contextlib import suppress

import pytest

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import HttpClient
from dispatcher.transport.message import INTERIM_LIMIT
from tests.transport.posting import post
from tests.transport.raw_receiver import RawReceiver, answer

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"Content-Length: +2\r\n\r\nok",
        HEAD + b"Content-Length: 2, 2\r\n\r\nok",
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\nok",
        HEAD + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok",
        HEAD + b"X\0: a\r\nContent-Length: 2\r\n\r\nok",
        b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        CHUNKED + b"ffffffffffffffffff\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"2\nok\n0\n\n",
        CHUNKED + b"2\r\nokay\r\n0\r\n\r\n",
    ],
    ids=[
        "length and chunks",
        "chunks and length",
        "the same length twice",
        "length with a sign",
        "lengths in a list",
        "length of more than 64 bits",
        "nul in a value",
        "nul in a name",
        "another protocol",
        "status of four digits",
        "chunk of more than 64 bits",
        "chunk with a sign",
        "chunk with a prefix",
        "chunk with a bare line feed",
        "chunk longer than it says",
    ],
)
async def test_an_answer_that_can_be_read_two_ways_is_none(client: HttpClient, said: bytes) -> None:
    async with RawReceiver(said, answer(b"second")) as receiver:
        first = await post(client, receiver.url())
        assert first == Exchange(status=None, error=AttemptError.PROTOCOL)
        assert (await post(client, receiver.url())).excerpt == "second"
        assert receiver.connections == 2


@pytest.mark.parametrize(
    ("said", "excerpt"),
    [
        (CHUNKED + b"2;a=b\r\nok\r\n00\r\n\r\n", "ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nRetry-After: 7\r\nContent-Encoding: br\r\n\r\n", "ok"),
        (HEAD + b"content-length:2\r\n\r\nok", "ok"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok"),
        (CHUNKED + b"2 \r\nok\r\n0\r\n\r\n", "ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "ok"),
    ],
    ids=["extension", "trailers", "no space", "bare line feeds", "space behind a chunk's size", "no body", "no reason"],
)
async def test_what_is_odd_but_clear_is_read(client: HttpClient, said: bytes, excerpt: str) -> None:
    async with RawReceiver(said) as receiver:
        for _ in range(2):
            exchange = await post(client, receiver.url())
            assert (exchange.error, exchange.excerpt, exchange.retry_after_s) == (None, excerpt, None)
        assert receiver.connections == 1


@pytest.mark.parametrize(
    "lines",
    [b"Content-Length : 2", b"X: a\r\n Content-Length: 5\r\nContent-Length: 2"],
    ids=["space before a colon", "folded line"],
)
async def test_what_was_allowed_once_is_read_as_it_was_meant_or_refused(client: HttpClient, lines: bytes) -> None:
    async with RawReceiver(HEAD + lines + b"\r\n\r\nok") as receiver:
        refused = Exchange(status=None, error=AttemptError.PROTOCOL)
        assert await post(client, receiver.url()) in (refused, Exchange(status=200, error=None, excerpt="ok"))


@pytest.mark.parametrize(
    "said",
    [HEAD + b"\r\nto the end", HEAD + b"Transfer-Encoding: identity\r\n\r\nto the end"],
    ids=["no length", "identity"],
)
async def test_an_answer_without_a_length_ends_with_its_connection(client: HttpClient, said: bytes) -> None:
    async with RawReceiver(said) as receiver:
        sending = asyncio.create_task(post(client, receiver.url()))
        await receiver.asked.wait()
        receiver.hang_up()
        assert await sending == Exchange(status=200, error=None, excerpt="to the end")
        assert receiver.connections == 1


@pytest.mark.parametrize(
    "more",
    [answer(b"smuggled"), answer(b"smuggled")[:20], b"xxxx", INTERIM],
    ids=["an answer", "a part of one", "no http", "interim"],
)
@pytest.mark.parametrize("first", [answer(b"asked"), CHUNKED + b"5\r\nasked\r\n0\r\n\r\n"], ids=["length", "chunked"])
async def test_what_comes_behind_an_answer_is_nobodys_answer(client: HttpClient, first: bytes, more: bytes) -> None:
    async with RawReceiver(first + more, answer(b"second")) as receiver:
        # With what is no HTTP behind it, aiohttp's parser throws it away.
        assert (await post(client, receiver.url())).excerpt == "asked" or more == b"xxxx"
        assert (await post(client, receiver.url())).excerpt == "second"


@pytest.mark.parametrize("switch", ["101 Switching Protocols", "200 OK"])
async def test_no_other_protocol_is_switched_to(client: HttpClient, switch: str) -> None:
    said = f"HTTP/1.1 {switch}\r\nUpgrade: other\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n".encode()
    async with RawReceiver(said + answer(b"smuggled"), answer(b"second")) as receiver:
        assert (await post(client, receiver.url())).status == int(switch[:3])
        assert (await post(client, receiver.url())).excerpt == "second"
        assert receiver.connections == 2


async def test_a_few_interim_answers_are_passed_over_and_a_flood_is_not(client: HttpClient) -> None:
    async with RawReceiver(INTERIM * INTERIM_LIMIT + answer(b"done")) as receiver:
        assert (await post(client, receiver.url())).excerpt == "done"
    async with RawReceiver(INTERIM * (INTERIM_LIMIT + 1) + answer(b"done")) as receiver:
        assert await post(client, receiver.url()) == Exchange(status=None, error=AttemptError.PROTOCOL)
        await receiver.left.wait()


async def test_a_flood_of_interim_answers_ends_at_once_and_takes_little(client: HttpClient) -> None:
    async with RawReceiver(INTERIM * 1000, without_end=True) as receiver:
        exchange = await post(client, receiver.url(), timeout_s=45.0)
        assert exchange == Exchange(status=None, error=AttemptError.PROTOCOL)
        await receiver.left.wait()
        assert receiver.written < 2**24


@pytest.mark.parametrize(
    ("count", "size", "error"),
    [
        (100, 100, None),
        (127, 1, None),
        (129, 1, AttemptError.PROTOCOL),
        (1, 8000, None),
        (1, 9000, AttemptError.BODY_TOO_LARGE),
    ],
)
async def test_a_head_has_a_number_and_a_length_of_lines(
    client: HttpClient, count: int, size: int, error: AttemptError | None
) -> None:
    async with RawReceiver(answer(b"ok", *(f"X-{number}: {'y' * size}" for number in range(count)))) as receiver:
        assert (await post(client, receiver.url())).error is error


async def test_a_line_without_end_is_not_kept(client: HttpClient) -> None:
    async with RawReceiver(HEAD + b"X: ", b"y" * 4000, without_end=True) as receiver:
        exchange = await post(client, receiver.url(), timeout_s=45.0)
        assert exchange == Exchange(status=None, error=AttemptError.BODY_TOO_LARGE)
        await receiver.left.wait()
        assert receiver.written < 2**24


async def test_an_answer_may_come_byte_by_byte(client: HttpClient) -> None:
    async with RawReceiver(
        INTERIM + CHUNKED + b"5\r\npiece\r\n2\r\ns!\r\n0\r\nX: y\r\n\r\n", by_bytes=True
    ) as receiver:
        for _ in range(2):
            assert await post(client, receiver.url()) == Exchange(status=200, error=None, excerpt="pieces!")
        assert receiver.connections == 1


async def test_an_answer_before_the_request_is_no_later_ones(client: HttpClient) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"unasked"))
        with suppress(ConnectionError):
            await writer.drain()
            await reader.read(2**16)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        exchanges = [await post(client, url) for _ in range(3)]
    # They may cross with the request, and then are an answer like any other, but the only one of their connection.
    assert {(exchange.error, exchange.excerpt) for exchange in exchanges} <= {
        (None, "unasked"),
        (AttemptError.CONNECTION_RESET, ""),
    }

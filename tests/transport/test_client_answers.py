"""Answers, as bytes: which are a status, which are no HTTP, and how much of them is kept."""

import asyncio
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import EXCERPT_LIMIT, HttpClient, Kind
from tests.bad_receiver import BadReceiver, Misbehaviour
from tests.transport.posting import LOOPBACK, post
from tests.transport.raw_receiver import RawReceiver, answer


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_a_2xx_is_no_error(client: HttpClient, status: int) -> None:
    async with RawReceiver(answer(b"", status=f"{status} X")) as receiver:
        assert await post(client, receiver.url()) == Exchange(status=status, error=None)


@pytest.mark.parametrize("status", [101, 300, 304, 400, 401, 408, 410, 413, 429, 500, 503, 999])
async def test_every_other_status_is_an_error_of_its_own(client: HttpClient, status: int) -> None:
    async with RawReceiver(answer(b"", status=f"{status} X")) as receiver:
        assert await post(client, receiver.url()) == Exchange(status=status, error=AttemptError.HTTP_STATUS)


async def test_interim_answers_are_passed_over(client: HttpClient) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with RawReceiver(interim * 3 + answer(b"done")) as receiver:
        assert await post(client, receiver.url()) == Exchange(status=200, error=None, excerpt="done")


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        (b"", ""),
        ("größe\tist\n5".encode(), "größe\tist\n5"),
        (b"a\x00b\x1b[31mc\r\xff", "a�b�[31mc��"),
        (b"x" * 5000, "x" * EXCERPT_LIMIT),
        (b"x" + "ä".encode() * 600, "x" + "ä" * 511 + "�"),
    ],
    ids=["empty", "text", "control characters", "long", "cut inside a character"],
)
async def test_the_start_of_an_answer_is_kept_as_text_that_can_be_shown(
    client: HttpClient, body: bytes, excerpt: str
) -> None:
    async with RawReceiver(answer(body, status="500 X")) as receiver:
        assert (await post(client, receiver.url())).excerpt == excerpt


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x" * 50])
async def test_an_encoded_answer_is_not_decompressed(client: HttpClient, encoding: str) -> None:
    async with RawReceiver(answer(b"no such encoding", f"Content-Encoding: {encoding}")) as receiver:
        exchange = await post(client, receiver.url())
    assert exchange == Exchange(200, None, None, f"(16 bytes of {encoding[:20]!r}, not decompressed)")


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9000 + b"\r\n\r\n", AttemptError.BODY_TOO_LARGE),
        (b"HTTP/1.1 200 " + b"O" * 9000 + b"\r\n\r\n", AttemptError.BODY_TOO_LARGE),
        (b"HTTP/1.1 99 X\r\n\r\n", AttemptError.PROTOCOL),
        (b"HTTP/1.1 OK\r\n\r\n", AttemptError.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", AttemptError.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", AttemptError.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nXYZ\r\n", AttemptError.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", AttemptError.PROTOCOL),
        (b"", AttemptError.CONNECTION_RESET),
    ],
    ids=[
        "long header",
        "long reason",
        "no status",
        "no number",
        "negative",
        "two lengths",
        "chunk",
        "no colon",
        "none",
    ],
)
async def test_what_is_no_http_is_a_failure_with_its_own_word(
    client: HttpClient, head: bytes, error: AttemptError
) -> None:
    async with RawReceiver(head) as receiver:
        assert await post(client, receiver.url()) == Exchange(status=None, error=error)


async def test_an_answer_counts_that_comes_before_the_request_was_read(client: HttpClient) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"", "Connection: close", status="413 X"))
        with suppress(ConnectionError):
            while await reader.read(2**16):
                pass
        writer.close()
        left.set()

    left = asyncio.Event()
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        exchange = await post(client, url, body=b"x" * 1_000_000)
        await left.wait()
    assert exchange == Exchange(status=413, error=AttemptError.HTTP_STATUS)


async def test_the_worst_answers_take_little_memory(client: HttpClient, bad_receiver: BadReceiver) -> None:
    tracemalloc.start()
    try:
        for misbehaviour in (Misbehaviour.HUGE, Misbehaviour.BOMB, Misbehaviour.ENDLESS_HEADERS):
            await post(client, bad_receiver.url(misbehaviour), timeout_s=5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The bomb, of 1 GiB, costs the receiver itself 17 MiB to make.
    assert peak < 32 * 1024 * 1024


def test_on_uvloop_each_misbehaviour_is_called_the_same(kind: Kind) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed here")

    async def words() -> dict[Misbehaviour, tuple[int | None, AttemptError | None]]:
        client = HttpClient(LOOPBACK, connect_timeout_s=5.0, kind=kind)
        try:
            async with BadReceiver() as receiver:
                urls = [receiver.url(misbehaviour) for misbehaviour in Misbehaviour]
                exchanges = await asyncio.gather(*(post(client, url, timeout_s=1) for url in urls))
                return {m: (e.status, e.error) for m, e in zip(Misbehaviour, exchanges, strict=True)}
        finally:
            await client.close()

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(uvloop.run, words()).result() == threads.submit(asyncio.run, words()).result()

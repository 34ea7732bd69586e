"""Answers that go on where nobody looks: between chunks, behind the last one, in what is no body."""

import pytest

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import HttpClient
from tests.transport.posting import post
from tests.transport.raw_receiver import RawReceiver

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "an extension of a chunk": (CHUNKED + b"2;x=", b"y" * 4000),
    "extensions of many chunks": (CHUNKED, b"1;" + b"x" * 4000 + b"\r\na\r\n"),
    "a chunk's size": (CHUNKED, b"0" * 4000),
    "a trailer": (CHUNKED + b"0\r\nX: ", b"y" * 4000),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 700),
    "a body": (b"HTTP/1.1 200 OK\r\n\r\n", b"y" * 4000),
}


@pytest.mark.parametrize(("begins", "goes_on"), FLOODS.values(), ids=FLOODS)
async def test_what_goes_on_without_end_is_soon_no_longer_read(
    client: HttpClient, begins: bytes, goes_on: bytes
) -> None:
    async with RawReceiver(begins, goes_on, without_end=True) as receiver:
        exchange = await post(client, receiver.url(), timeout_s=45.0)
        await receiver.left.wait()
        assert exchange.error in (None, AttemptError.PROTOCOL, AttemptError.BODY_TOO_LARGE)
        assert receiver.written < 2**24


@pytest.mark.parametrize("status", ["000", "099", "600", "999", "1000", "20", "-20", "2O0"])
async def test_a_status_that_there_is_not_is_a_failure(client: HttpClient, status: str) -> None:
    async with RawReceiver(f"HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n".encode()) as receiver:
        exchange = await post(client, receiver.url())
        assert exchange in (
            Exchange(status=None, error=AttemptError.PROTOCOL),
            Exchange(status=int(status) if status.isdigit() else None, error=AttemptError.HTTP_STATUS),
        )

"""The receivers that other tests rely on do what they say, seen by a plain client."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from tests.bad_receiver import BadReceiver, Misbehaviour
from tests.receiver import Received, Receiver


async def _post(url: str, body: bytes = b"{}") -> int:
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers={"X-Mine": "1"}) as response:
        return response.status


async def test_it_records_a_request_as_it_came(receiver: Receiver) -> None:
    assert await _post(receiver.url("/hook?token=a%20b"), b'{"a": 1.0}') == 200
    [request] = receiver.requests
    assert (request.method, request.path, request.query) == ("POST", "/hook", "token=a%20b")
    assert request.body == b'{"a": 1.0}'
    assert request.headers["x-mine"] == "1"
    assert request.arrived_at.utcoffset() is not None


async def test_it_answers_as_told_and_the_last_answer_repeats(receiver: Receiver) -> None:
    def teapot(request: Received) -> web.Response:
        return web.Response(status=418, text=request.body.decode())

    async def later(request: Received) -> web.Response:
        return web.Response(status=202)

    receiver.answers("/hook", 500, teapot, later)
    assert [await _post(receiver.url("/hook")) for _ in range(4)] == [500, 418, 202, 202]
    assert await _post(receiver.url("/other")) == 200


async def test_waiting_ends_with_the_request_that_was_waited_for(receiver: Receiver) -> None:
    waiting = asyncio.create_task(receiver.wait_for(2, "/hook"))
    await _post(receiver.url("/other"))
    await _post(receiver.url("/hook"))
    assert not waiting.done()
    await _post(receiver.url("/hook"))
    assert [request.path for request in await waiting] == ["/hook", "/hook"]


async def test_waiting_in_vain_says_what_did_come(receiver: Receiver) -> None:
    await _post(receiver.url("/other"), b"seen")
    with pytest.raises(AssertionError, match=r"0 of 1 requests to /hook.*POST /other b'seen'"):
        await receiver.wait_for(1, "/hook", patience_s=0.05)


@pytest.mark.parametrize(
    ("misbehaviour", "error"),
    [
        (Misbehaviour.HANG, TimeoutError),
        (Misbehaviour.DRIP, TimeoutError),
        (Misbehaviour.RESET, aiohttp.ClientOSError),
        (Misbehaviour.CLOSE, aiohttp.ServerDisconnectedError),
        (Misbehaviour.LIE_ABOUT_LENGTH, aiohttp.ClientPayloadError),
        (Misbehaviour.GARBAGE, aiohttp.ClientResponseError),
        (Misbehaviour.ENDLESS_HEADERS, aiohttp.ClientResponseError),
    ],
)
async def test_a_plain_client_fails_at_a_bad_receiver(
    bad_receiver: BadReceiver, misbehaviour: Misbehaviour, error: type[Exception]
) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
        with pytest.raises(error):
            async with session.post(bad_receiver.url(misbehaviour), data=b"{}") as response:
                await response.read()
    assert bad_receiver.hits == {misbehaviour: 1}


async def test_a_huge_answer_goes_on_as_long_as_one_reads(bad_receiver: BadReceiver) -> None:
    async with aiohttp.ClientSession() as session, session.post(bad_receiver.url("huge"), data=b"{}") as response:
        await response.content.readexactly(10 * 1024 * 1024)
    assert bad_receiver.longest_answer >= 10 * 1024 * 1024


async def test_a_bomb_is_small_on_the_wire(bad_receiver: BadReceiver) -> None:
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(bad_receiver.url("bomb"), data=b"{}") as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(await response.read()) < 2 * 1024 * 1024


async def test_an_unknown_misbehaviour_is_refused(bad_receiver: BadReceiver) -> None:
    with pytest.raises(ValueError, match="sing"):
        bad_receiver.url("sing")

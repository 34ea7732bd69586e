"""One POST at receivers of every kind: a code of the closed set within the timeout, and little of the answer read."""

import asyncio
import socket
from datetime import timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import EXCERPT_LIMIT, HttpClient
from tests.bad_receiver import BadReceiver, Misbehaviour
from tests.receiver import Received, Receiver
from tests.transport.name_server import NameServer
from tests.transport.posting import NOW, Open, post
from tests.transport.raw_receiver import RawReceiver, answer


@pytest.mark.parametrize(
    ("misbehaviour", "expected"),
    [
        (Misbehaviour.HANG, AttemptError.TIMEOUT),
        (Misbehaviour.DRIP, AttemptError.TIMEOUT),
        (Misbehaviour.RESET, AttemptError.CONNECTION_RESET),
        (Misbehaviour.CLOSE, AttemptError.CONNECTION_RESET),
        (Misbehaviour.LIE_ABOUT_LENGTH, AttemptError.CONNECTION_RESET),
        (Misbehaviour.HUGE, None),
        (Misbehaviour.BOMB, None),
        (Misbehaviour.GARBAGE, AttemptError.PROTOCOL),
        (Misbehaviour.ENDLESS_HEADERS, AttemptError.PROTOCOL),
    ],
)
async def test_each_misbehaviour_has_its_code_within_the_timeout(
    client: HttpClient, bad_receiver: BadReceiver, misbehaviour: Misbehaviour, expected: AttemptError | None
) -> None:
    # Only who waits for it is to wait for long: a busy machine may stand still for half a second.
    timeout_s = 0.5 if expected is AttemptError.TIMEOUT else 10.0
    async with asyncio.timeout(25):
        exchange = await post(client, bad_receiver.url(misbehaviour), timeout_s=timeout_s)
    assert exchange.error is expected
    assert (exchange.status is None) == (expected is not None)
    assert len(exchange.excerpt) <= EXCERPT_LIMIT
    assert bad_receiver.hits[misbehaviour] == 1


def test_every_misbehaviour_of_the_receiver_is_tried() -> None:
    (mark,) = [m for m in test_each_misbehaviour_has_its_code_within_the_timeout.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(Misbehaviour)


async def test_of_an_endless_answer_little_is_read(client: HttpClient, bad_receiver: BadReceiver) -> None:
    exchange = await post(client, bad_receiver.url(Misbehaviour.HUGE))
    assert (exchange.status, exchange.excerpt) == (200, "x" * EXCERPT_LIMIT)
    # What the sockets' buffers took counts as written too.
    assert bad_receiver.longest_answer < 16 * 1024 * 1024


async def test_a_compressed_answer_stays_compressed(client: HttpClient, bad_receiver: BadReceiver) -> None:
    exchange = await post(client, bad_receiver.url(Misbehaviour.BOMB))
    assert exchange.status == 200
    assert "not decompressed" in exchange.excerpt
    assert "gzip" in exchange.excerpt


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(client: HttpClient, receiver: Receiver, status: int) -> None:
    receiver.answers("/", lambda _: web.Response(status=status, headers={"Location": receiver.url("/elsewhere")}))
    exchange = await post(client, receiver.url("/"))
    assert (exchange.status, exchange.error) == (status, AttemptError.HTTP_STATUS)
    assert [request.path for request in receiver.received()] == ["/"]


@pytest.mark.parametrize("status", ["200 OK", "404 X", "503 X"])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120.0), (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0), ("soon", None)],
)
async def test_retry_after_is_read_from_any_answer(
    client: HttpClient, status: str, value: str, seconds: float | None
) -> None:
    async with RawReceiver(answer(b"", f"Retry-After: {value}", status=status)) as receiver:
        assert (await post(client, receiver.url())).retry_after_s == seconds


async def test_cookies_are_not_kept(opened: Open) -> None:
    # By its name, since cookie jars take nothing from an address.
    client = opened(resolver=NameServer(["127.0.0.1"]))
    async with RawReceiver(answer(b"", "Set-Cookie: a=b; Path=/")) as receiver:
        for _ in range(2):
            await post(client, receiver.url(host="receiver.example"))
    assert ["cookie" in request.decode().lower() for request in receiver.requests] == [False, False]


async def test_a_closed_port_is_a_refused_connection(client: HttpClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        exchange = await post(client, f"http://127.0.0.1:{port}/")
    assert exchange == Exchange(status=None, error=AttemptError.CONNECTION_REFUSED)


async def test_a_host_that_does_not_answer_the_handshake_is_a_connect_timeout(opened: Open) -> None:
    client = opened(connect_timeout_s=0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        exchange = await post(client, f"http://127.0.0.1:{full.getsockname()[1]}/")
        for filler in fillers:
            filler.close()
    assert exchange.error is AttemptError.CONNECT_TIMEOUT


async def test_a_name_that_nobody_knows_is_dns(client: HttpClient) -> None:
    assert (await post(client, "http://no-such-host.invalid/")).error is AttemptError.DNS


async def test_answers_may_come_at_once_and_none_is_mistaken_for_another(
    client: HttpClient, receiver: Receiver
) -> None:
    def echo(request: Received) -> web.Response:
        return web.Response(status=202, body=request.body)

    receiver.answers("/", echo)
    posts = [post(client, receiver.url("/"), body=str(n).encode()) for n in range(50)]
    exchanges = await asyncio.gather(*posts)
    assert [exchange.excerpt for exchange in exchanges] == [str(n) for n in range(50)]

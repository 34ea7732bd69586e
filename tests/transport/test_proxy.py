"""Through an egress proxy: by CONNECT only, vetted as far as one can, and its failures are its own."""

import asyncio
import socket
from base64 import b64encode
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from dispatcher.rules.egress import EgressRules
from dispatcher.rules.hosts import Hosts
from dispatcher.rules.proxy import Proxy
from dispatcher.rules.verdict import PROXY_DOWN_FORGIVEN, PROXY_FORGIVEN, Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import HttpClient, Kind
from tests.receiver import Receiver
from tests.transport.certificates import Authority
from tests.transport.connect_proxy import GRANTED, ConnectProxy
from tests.transport.posting import NOTHING_SPECIAL, Open, post
from tests.transport.raw_receiver import RawReceiver


def through(proxy: ConnectProxy | int, credentials: str = "", rules: EgressRules = NOTHING_SPECIAL) -> EgressRules:
    """Rules under which everything goes through that proxy, itself at an address that they forbid."""
    port = proxy if isinstance(proxy, int) else proxy.port
    return replace(rules, proxy=Proxy.parse(f"http://{credentials}127.0.0.1:{port}"))


def failed(why: str, forgiven: int = PROXY_FORGIVEN) -> Exchange:
    return Exchange(status=None, error=AttemptError.INTERNAL, excerpt=f"the egress proxy {why}", forgiven=forgiven)


async def test_a_plain_request_goes_through_a_tunnel_that_is_used_again(opened: Open) -> None:
    async with ConnectProxy() as proxy, RawReceiver() as receiver:
        client = opened(through(proxy))
        for _ in range(3):
            assert (await post(client, receiver.url("/hook", host="receiver.example"))).status == 200
    target = f"receiver.example:{receiver.port}"
    assert proxy.requests == [f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"]
    assert (receiver.connections, len(receiver.requests)) == (1, 3)
    assert receiver.requests[0].startswith(f"POST /hook HTTP/1.1\r\nHost: {target}\r\n".encode())


async def test_the_proxy_is_told_its_password_and_the_receiver_is_not(opened: Open) -> None:
    async with ConnectProxy() as proxy, RawReceiver() as receiver:
        client = opened(through(proxy, "us%40er:p%3Ass@"))
        assert (await post(client, receiver.url(host="receiver.example"))).status == 200
    told = f"Proxy-Authorization: Basic {b64encode(b'us@er:p:ss').decode()}\r\n"
    assert told in proxy.requests[0]
    assert b"authorization" not in receiver.requests[0].lower()


async def test_tls_is_with_the_receiver(opened: Open, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    async with ConnectProxy() as proxy, RawReceiver(tls=authority.server("receiver.example")) as receiver:
        exchange = await post(opened(through(proxy)), receiver.url(host="receiver.example"))
    # Nobody vouches for it: it is the receiver's certificate that is looked at, and the receiver that is charged.
    assert exchange == Exchange(status=None, error=AttemptError.TLS)
    assert (proxy.tunnels, receiver.requests) == (1, [])


async def test_what_is_in_the_no_proxy_list_is_connected_to_directly(opened: Open, receiver: Receiver) -> None:
    rules = EgressRules(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
    async with ConnectProxy() as proxy:
        client = opened(replace(through(proxy, rules=rules), no_proxy=Hosts.parse(["127.0.0.0/8"], "no_proxy")))
        assert (await post(client, receiver.url("/hook"))).status == 200
    assert (proxy.requests, len(receiver.requests)) == ([], 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/",
        "http://metadata.google.internal/",
        "http://localhost:8080/",
        "http://db.internal/",
        "http://receiver.example:22/",
        "http://receiver.example:6379/",
    ],
)
async def test_the_proxy_is_not_asked_for_what_is_refused(opened: Open, url: str) -> None:
    async with ConnectProxy() as proxy:
        assert await post(opened(through(proxy)), url) == Exchange(status=None, error=AttemptError.BLOCKED)
    assert proxy.requests == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", failed("answered 407", PROXY_DOWN_FORGIVEN)),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno", failed("answered 502")),
        (b"HTTP/1.0 503 X\r\n\r\n", failed("answered 503")),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", failed("answered 403")),
        (b"HTTP/1.1 301 X\r\nLocation: http://evil.example/\r\n\r\n", failed("answered 301")),
        (b"HTTP/1.1 100 Continue\r\n\r\n", failed("answered 100")),
        (b"SSH-2.0-x\r\n\r\n", failed("does not speak HTTP", PROXY_DOWN_FORGIVEN)),
        (b"x" * 20_000, failed("does not speak HTTP", PROXY_DOWN_FORGIVEN)),
        # A receiver that speaks first does the same, and must not be forgiven for ever.
        (GRANTED + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", failed("has sent more than its answer")),
        (b"", failed("broke off (ConnectionResetError)")),
        (b"HTTP/1.1 ", failed("broke off (ConnectionResetError)")),
    ],
    ids=lambda value: repr(value[:14]) if isinstance(value, bytes) else "",
)
async def test_a_proxy_that_makes_no_tunnel_has_failed_itself(opened: Open, answer: bytes, expected: Exchange) -> None:
    async with ConnectProxy(answer) as proxy, RawReceiver() as receiver:
        assert await post(opened(through(proxy)), receiver.url(host="receiver.example")) == expected
    assert receiver.requests == []


async def test_a_proxy_that_is_silent_is_not_waited_for(opened: Open) -> None:
    async with ConnectProxy(None) as proxy:
        for connect_s, whole_s in ((0.2, 20.0), (20.0, 0.2)):
            exchange = await post(
                opened(through(proxy), connect_timeout_s=connect_s), "http://receiver.example/", timeout_s=whole_s
            )
            assert exchange == failed("has not answered in time")


async def test_a_proxy_that_nobody_runs_cannot_be_reached(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = int(gone.getsockname()[1])
    exchange = await post(opened(through(port)), "http://receiver.example/")
    assert (exchange.error, exchange.forgiven) == (AttemptError.INTERNAL, PROXY_DOWN_FORGIVEN)
    assert exchange.excerpt.startswith("the egress proxy cannot be reached")


async def test_a_receiver_that_fails_behind_the_proxy_has_failed_itself(opened: Open) -> None:
    async with ConnectProxy() as proxy, RawReceiver(b"") as receiver:
        exchange = await post(opened(through(proxy)), receiver.url(host="receiver.example"))
    assert exchange == Exchange(status=None, error=AttemptError.CONNECTION_RESET)


async def test_a_cancelled_post_at_the_proxy_travels_on(kind: Kind) -> None:
    async with ConnectProxy(None) as proxy:
        client = HttpClient(through(proxy), connect_timeout_s=20, kind=kind)
        sending = asyncio.create_task(post(client, "http://receiver.example/"))
        async with asyncio.timeout(10):
            await proxy.asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await client.close()

"""TLS: only who has a certificate for that very host from a trusted authority gets to see anything."""

import asyncio
import os
import socket
import ssl
import sys
from pathlib import Path

import pytest

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import HttpClient, Kind
from tests.receiver import Receiver
from tests.transport.certificates import Authority
from tests.transport.posting import Open, post
from tests.transport.raw_receiver import RawReceiver

#: A process of its own, since the trusted authorities are read once, when aiohttp is imported.
POSTS = """
import asyncio, sys
from dispatcher.transport.client import HttpClient, Kind
from tests.transport.name_server import NameServer
from tests.transport.posting import LOOPBACK, post

async def main():
    client = HttpClient(LOOPBACK, connect_timeout_s=5, kind=sys.argv[1], resolver=NameServer(["127.0.0.1"]))
    for url in sys.argv[2:]:
        exchange = await post(client, url)
        print(exchange.status, exchange.error)
    await client.close()

asyncio.run(main())
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


async def test_only_the_right_certificate_is_sent_to(authority: Authority, kind: Kind) -> None:
    tls = authority.server
    async with (
        RawReceiver(tls=tls("127.0.0.1")) as right,
        RawReceiver(tls=tls("127.0.0.2")) as of_another_host,
        RawReceiver(tls=tls("127.0.0.1", days=-1)) as expired,
    ):
        receivers = [right, of_another_host, expired]
        urls = [receiver.url() for receiver in receivers]
        assert await _posted(authority, kind, urls) == ["200 None", "None tls", "None tls"]
    assert [len(receiver.requests) for receiver in receivers] == [1, 0, 0]


async def test_a_receiver_is_known_by_its_name_whatever_its_address(authority: Authority, kind: Kind) -> None:
    asked_for: list[str | None] = []

    def named(name: str) -> ssl.SSLContext:
        tls = authority.server(name)
        tls.sni_callback = lambda _connection, asked, _tls: asked_for.append(asked)
        return tls

    async with RawReceiver(tls=named("receiver.example")) as right, RawReceiver(tls=named("other.example")) as wrong:
        # A dot at the end is the same name, and another connection's.
        hosts = ["receiver.example", "receiver.example", "receiver.example."]
        urls = [right.url(host=host) for host in hosts] + [wrong.url(host="receiver.example"), right.url()]
        assert await _posted(authority, kind, urls) == ["200 None"] * 3 + ["None tls", "None tls"]
    # An address is asked for by no name.
    assert asked_for == ["receiver.example"] * 3 + [None]
    assert {line for request in right.requests for line in request.split(b"\r\n") if line.startswith(b"Host")} == {
        f"Host: receiver.example:{right.port}".encode()
    }
    assert (right.connections, len(right.requests), wrong.requests) == (2, 3, [])


async def _posted(authority: Authority, kind: Kind, urls: list[str]) -> list[str]:
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        POSTS,
        kind,
        *urls,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "SSL_CERT_FILE": str(authority.trusted)},
    )
    printed, _ = await program.communicate()
    return printed.decode().splitlines()


async def test_a_certificate_that_nobody_vouches_for_is_sent_nothing(client: HttpClient, authority: Authority) -> None:
    async with RawReceiver(tls=authority.server("127.0.0.1")) as receiver:
        assert await post(client, receiver.url()) == Exchange(status=None, error=AttemptError.TLS)
    assert receiver.requests == []


async def test_a_receiver_that_speaks_no_tls_is_sent_nothing(client: HttpClient, receiver: Receiver) -> None:
    exchange = await post(client, receiver.url().replace("http:", "https:"))
    assert exchange == Exchange(status=None, error=AttemptError.TLS)
    assert receiver.requests == []


async def test_a_handshake_that_hangs_is_a_connect_timeout(opened: Open) -> None:
    client = opened(connect_timeout_s=0.2)
    with socket.socket() as silent:
        # The kernel accepts; nobody ever says a word.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        exchange = await post(client, f"https://127.0.0.1:{silent.getsockname()[1]}/")
    assert exchange == Exchange(status=None, error=AttemptError.CONNECT_TIMEOUT)

"""The egress guard at connect time: no socket is made to an address that is not allowed, whatever DNS says."""

import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from yarl import URL

from dispatcher.rules.egress import EgressRules
from dispatcher.states import AttemptError
from dispatcher.transport.client import HttpClient, Request
from dispatcher.transport.guard import Blocked, GuardedResolver, GuardedSockets
from tests.receiver import Receiver
from tests.transport.name_server import NameServer
from tests.transport.posting import NOW, Open
from tests.transport.raw_receiver import RawReceiver, answer

PUBLIC = EgressRules(allow_http=True, allow_networks=())
LOOPBACK = EgressRules(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))


@pytest.fixture
def client_with(opened: Open) -> Callable[..., HttpClient]:
    def make(rules: EgressRules, *answers: list[str]) -> HttpClient:
        return opened(rules, connect_timeout_s=1.0, resolver=NameServer(*answers))

    return make


@pytest.fixture
def sockets_made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every socket that a connection attempt makes, anywhere in the process."""
    made: list[Any] = []
    original = socket.socket

    class Watched(original):  # type: ignore[valid-type, misc]
        def connect(self, address: Any) -> None:
            made.append(address)
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Watched)
    return made


async def _error(client: HttpClient, url: str) -> AttemptError | None:
    exchange = await client.post(Request(URL(url, encoded=True), {}, b"{}", 3.0), NOW)
    return exchange.error


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:8080/",
        "http://[::ffff:127.0.0.1]:8080/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0:8080/",
    ],
)
async def test_a_literal_forbidden_address_is_blocked_and_nothing_connected(
    client_with: Callable[..., HttpClient], sockets_made: list[Any], url: str
) -> None:
    assert await _error(client_with(PUBLIC, ["203.0.113.1"]), url) is AttemptError.BLOCKED
    assert sockets_made == []


@pytest.mark.parametrize(
    "answer",
    [["10.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"], ["169.254.169.254"], ["2606:2800::1", "fe80::1"]],
)
async def test_one_forbidden_address_in_an_answer_blocks_them_all(
    client_with: Callable[..., HttpClient], sockets_made: list[Any], answer: list[str]
) -> None:
    assert await _error(client_with(PUBLIC, answer), "http://receiver.example/") is AttemptError.BLOCKED
    assert sockets_made == []


async def test_the_metadata_service_is_blocked_where_its_network_is_allowed(
    client_with: Callable[..., HttpClient], sockets_made: list[Any]
) -> None:
    rules = EgressRules(allow_http=True, allow_networks=(ip_network("169.254.0.0/16"),))
    client = client_with(rules, ["169.254.169.254"])
    for url in ("http://169.254.169.254/", "http://metadata.example/"):
        assert await _error(client, url) is AttemptError.BLOCKED
    assert sockets_made == []


async def test_every_answer_is_judged_anew() -> None:
    resolver = GuardedResolver(LOOPBACK, NameServer(["127.0.0.1"], ["10.0.0.1"]))
    assert [entry["host"] for entry in await resolver.resolve("receiver.example", 8080)] == ["127.0.0.1"]
    with pytest.raises(Blocked, match="private"):
        await resolver.resolve("receiver.example", 8080)
    await resolver.close()


async def test_an_allowed_name_is_connected_to(client_with: Callable[..., HttpClient], receiver: Receiver) -> None:
    url = receiver.url("/").replace("127.0.0.1", "receiver.example")
    assert await _error(client_with(LOOPBACK, ["127.0.0.1"]), url) is None
    assert receiver.received()[0].headers["host"].startswith("receiver.example:")


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
async def test_a_service_port_is_blocked_for_every_kind_of_answer(
    client_with: Callable[..., HttpClient], sockets_made: list[Any], answer: list[str]
) -> None:
    client = client_with(LOOPBACK, answer)
    for port in (22, 25, 5432, 6379):
        assert await _error(client, f"http://receiver.example:{port}/") is AttemptError.BLOCKED
        assert await _error(client, f"http://127.0.0.1:{port}/") is AttemptError.BLOCKED
    assert sockets_made == []


def test_a_socket_is_made_for_what_is_allowed() -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 8080))
    made = GuardedSockets(LOOPBACK)(address)
    assert not made.getblocking()
    made.close()
    with pytest.raises(Blocked, match="loopback"):
        GuardedSockets(PUBLIC)(address)


async def test_an_own_port_is_refused_at_every_address_of_this_machine(
    client_with: Callable[..., HttpClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawReceiver() as listener:
        rules = replace(LOOPBACK, own_ports=frozenset({listener.port}))
        for answer in (["127.0.0.1"], ["127.0.0.2"]):
            assert await _error(client_with(rules, answer), listener.url(host="me.example")) is AttemptError.BLOCKED
        # The same at an address that no rule knows for this machine's: the kernel does.
        monkeypatch.setattr(EgressRules, "connection_refusal", lambda *_: None)
        assert await _error(client_with(rules, ["127.0.0.1"]), listener.url(host="me.example")) is AttemptError.BLOCKED
        assert await _error(client_with(LOOPBACK, ["127.0.0.1"]), listener.url(host="me.example")) is None
    assert listener.connections == 1


async def test_no_redirect_is_followed(client_with: Callable[..., HttpClient]) -> None:
    async with RawReceiver() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            location = f"Location: {elsewhere.url('/stolen')}"
            async with RawReceiver(answer(b"", location, status=f"{status} X")) as receiver:
                assert await _error(client_with(LOOPBACK, []), receiver.url()) is AttemptError.HTTP_STATUS
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "host", ["metadata.google.internal", "METADATA.google.internal", "metadata.google.internal.", "localhost"]
)
async def test_a_name_that_is_refused_is_not_even_resolved(
    client_with: Callable[..., HttpClient], sockets_made: list[Any], host: str
) -> None:
    client = client_with(PUBLIC, ["93.184.216.34"])
    assert await _error(client, f"http://{host}/") is AttemptError.BLOCKED
    assert sockets_made == []


async def test_the_log_says_which_rule_refused_and_how_to_allow_it(
    client_with: Callable[..., HttpClient], caplog: pytest.LogCaptureFixture
) -> None:
    url = "http://u:s3cret@receiver.example/?t=t0ken"
    assert await _error(client_with(PUBLIC, ["10.1.2.3"]), url) is AttemptError.BLOCKED
    (written,) = [record.getMessage() for record in caplog.records if "egress.blocked" in record.getMessage()]
    for words in ("receiver.example", "a private network", "DISPATCHER_ALLOW_NETWORKS"):
        assert words in written
    for secret in ("s3cret", "t0ken"):
        assert secret not in written


async def test_an_answer_without_an_address_is_a_name_that_is_not_known(client_with: Callable[..., HttpClient]) -> None:
    assert await _error(client_with(PUBLIC, []), "http://receiver.example/") is AttemptError.DNS

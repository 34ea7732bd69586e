"""Client certificates: shown for the one endpoint that has them, over connections that nobody else uses."""

import asyncio
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dispatcher.rules.client_identity import ClientIdentity
from dispatcher.rules.credentials import Credentials
from dispatcher.states import AttemptError
from dispatcher.transport import identities
from dispatcher.transport.tls import Trust
from tests.transport.alerting_server import AlertingServer
from tests.transport.certificates import Authority
from tests.transport.posting import Open, post
from tests.transport.raw_receiver import OK, RawReceiver, answer

HOST = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "trusted")


def shown(authority: Authority, name: str, *, endpoint_id: str | None = None) -> Credentials:
    identity = ClientIdentity.parse(*authority.client(name), datetime.now(UTC))
    return Credentials(endpoint_id or f"ep_{name}", identity, None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_receiver_that_asks_who_connects_is_told(
    opened: Open, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    client, strangers = opened(ca_file=authority.trusted), Authority.make(tmp_path / "strangers")
    asking = authority.asking(HOST)
    asking.maximum_version = version
    with AlertingServer(asking) as receiver:
        for credentials in (None, shown(strangers, "somebody")):
            exchange = await post(client, receiver.url, credentials=credentials)
            assert (exchange.status, exchange.error) == (None, AttemptError.TLS)
            # The host is well, whatever this endpoint lacks.
            assert exchange.of_endpoint_alone
        assert receiver.requests == []
        exchange = await post(client, receiver.url, credentials=shown(authority, "us"))
        assert (exchange.status, exchange.error) == (200, None)


async def test_a_receiver_with_a_wrong_certificate_is_at_fault_itself(
    opened: Open, authority: Authority, tmp_path: Path
) -> None:
    client = opened(ca_file=authority.trusted)
    async with RawReceiver(tls=Authority.make(tmp_path / "other").asking(HOST, of=authority)) as receiver:
        for credentials in (None, shown(authority, "us")):
            exchange = await post(client, receiver.url(), credentials=credentials)
            assert (exchange.error, exchange.of_endpoint_alone) == (AttemptError.TLS, False)
    assert receiver.requests == []


async def test_connections_are_shared_with_no_endpoint_of_another_certificate(
    opened: Open, authority: Authority
) -> None:
    client = opened(ca_file=authority.trusted)
    one, other = shown(authority, "one"), shown(authority, "other")
    # The same certificate at another endpoint is another endpoint's all the same.
    twin = Credentials("ep_twin", one.identity, None)
    async with RawReceiver(tls=authority.asking(HOST, required=False)) as receiver:
        for _ in range(2):
            for credentials in (one, None, other, twin):
                await post(client, receiver.url(), credentials=credentials)
        assert receiver.clients == ["one", None, "other", "one"] * 2
        assert receiver.connections == 4


async def test_many_first_attempts_open_one_pool(opened: Open, authority: Authority) -> None:
    client, us = opened(ca_file=authority.trusted), shown(authority, "us")
    async with RawReceiver(tls=authority.asking(HOST)) as receiver:
        exchanges = await asyncio.gather(*(post(client, receiver.url(), credentials=us) for _ in range(5)))
        assert [exchange.status for exchange in exchanges] == [200] * 5
        # A sixth finds their connections.
        await post(client, receiver.url(), credentials=us)
        assert receiver.connections == 5


async def test_pools_are_opened_few_at_once_so_that_threads_are_left_for_others(
    opened: Open, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, inside, most = Trust.context_for, 0, 0
    counting, together = threading.Lock(), threading.Barrier(identities.OPENING)

    def watched(trust: Trust, identity: ClientIdentity) -> ssl.SSLContext:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        # Only then do they overlap for sure.
        together.wait(20)
        context = made(trust, identity)
        with counting:
            inside -= 1
        return context

    monkeypatch.setattr(Trust, "context_for", watched)
    # Whichever client it is for: a test event has one of its own.
    clients = [opened(ca_file=authority.trusted) for _ in range(3)]
    async with RawReceiver(tls=authority.asking(HOST)) as receiver:
        each = [
            (client, shown(authority, f"{n}-{m}"))
            for n, client in enumerate(clients)
            for m in range(identities.OPENING)
        ]
        exchanges = await asyncio.gather(*(post(client, receiver.url(), credentials=one) for client, one in each))
    assert [exchange.status for exchange in exchanges] == [200] * len(each)
    assert most == identities.OPENING


async def test_another_certificate_closes_the_connections_of_the_former(opened: Open, authority: Authority) -> None:
    client = opened(ca_file=authority.trusted)
    async with RawReceiver(tls=authority.asking(HOST)) as receiver:
        await post(client, receiver.url(), credentials=shown(authority, "old", endpoint_id="ep_1"))
        assert not receiver.left.is_set()
        await post(client, receiver.url(), credentials=shown(authority, "new", endpoint_id="ep_1"))
        await asyncio.wait_for(receiver.left.wait(), 10)
    assert receiver.clients == ["old", "new"]


async def test_an_attempt_under_way_outlives_its_pool(
    opened: Open, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "CAPACITY", 1)
    client = opened(ca_file=authority.trusted)
    async with RawReceiver(None, tls=authority.asking(HOST)) as slow, RawReceiver(tls=authority.asking(HOST)) as fast:
        waiting = asyncio.create_task(post(client, slow.url(), credentials=shown(authority, "one")))
        await slow.asked.wait()
        assert (await post(client, fast.url(), credentials=shown(authority, "other"))).status == 200
        await slow.say(answer(b"late"))
        assert (await waiting).excerpt == "late"
        # With its last user it is gone.
        await asyncio.wait_for(slow.left.wait(), 10)


async def test_a_certificate_that_cannot_be_used_is_the_endpoints_fault_and_is_tried_anew(
    opened: Open, authority: Authority
) -> None:
    client, good = opened(ca_file=authority.trusted), shown(authority, "us", endpoint_id="ep_1")
    assert good.identity is not None
    broken = Credentials("ep_1", ClientIdentity(good.identity.certificate, "no key"), None)
    async with RawReceiver(OK, tls=authority.asking(HOST)) as receiver:
        for _ in range(2):
            exchange = await post(client, receiver.url(), credentials=broken)
            assert (exchange.error, exchange.of_endpoint_alone) == (AttemptError.TLS, True)
        assert (await post(client, receiver.url(), credentials=good)).status == 200

"""Whose certificates are believed: the system's authorities, those of the settings beside them, and nobody else."""

import asyncio
import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dispatcher.errors import InvalidSettings
from dispatcher.rules.client_identity import ClientIdentity
from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.tls import Trust
from tests.transport.alerting_server import AlertingServer
from tests.transport.certificates import Authority, self_signed
from tests.transport.posting import Open, post
from tests.transport.raw_receiver import RawReceiver

HOST = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "trusted")


def old(tls: ssl.SSLContext) -> ssl.SSLContext:
    """A server that speaks nothing newer than TLS 1.1."""
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return tls


async def test_a_receiver_that_an_authority_of_the_settings_vouches_for_is_sent_to(
    opened: Open, authority: Authority
) -> None:
    client = opened(ca_file=authority.trusted)
    async with RawReceiver(tls=authority.server(HOST)) as receiver:
        for _ in range(2):
            assert await post(client, receiver.url()) == Exchange(status=200, error=None)
    assert receiver.connections == 1


@pytest.mark.parametrize(
    "made",
    [
        lambda authority, _: authority.server(HOST, days=-0.1),
        lambda authority, _: authority.server(HOST, days=2.1),
        lambda authority, _: authority.server("127.0.0.2"),
        lambda _, directory: self_signed(directory, HOST),
        lambda _, directory: Authority.make(directory / "other").server(HOST),
        lambda authority, _: old(authority.server(HOST)),
    ],
    ids=["expired", "not yet valid", "another host's", "self-signed", "of another authority", "TLS 1.1"],
)
async def test_no_other_receiver_is_sent_anything(
    opened: Open, authority: Authority, tmp_path: Path, made: Callable[[Authority, Path], ssl.SSLContext]
) -> None:
    client = opened(ca_file=authority.trusted)
    with AlertingServer(made(authority, tmp_path)) as receiver:
        exchange = await post(client, receiver.url)
        assert (exchange.status, exchange.error) == (None, AttemptError.TLS)
    assert receiver.requests == []


async def test_a_client_without_a_floor_would_have_spoken_to_the_old_receiver(authority: Authority) -> None:
    lenient = old(ssl.create_default_context(cafile=authority.trusted))
    async with RawReceiver(tls=old(authority.server(HOST))) as receiver:
        _, writer = await asyncio.open_connection(HOST, receiver.port, ssl=lenient)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
        writer.close()
        await writer.wait_closed()


def test_the_systems_authorities_are_believed_too(authority: Authority) -> None:
    systems = Trust(None).context().cert_store_stats()["x509_ca"]
    assert Trust(authority.trusted).context().cert_store_stats()["x509_ca"] == systems + 1


def test_the_file_is_read_once_with_the_notes_that_people_write_into_it(authority: Authority) -> None:
    identity = ClientIdentity.parse(*authority.client("client"), datetime.now(UTC))
    authority.trusted.write_bytes("# Főtanúsítvány\n".encode() + authority.trusted.read_bytes())
    trust = Trust(authority.trusted)
    authority.trusted.unlink()
    assert trust.context_for(identity).cert_store_stats() == trust.context().cert_store_stats()


def test_no_connection_goes_without_a_certificate_for_its_host(authority: Authority) -> None:
    identity = ClientIdentity.parse(*authority.client("client"), datetime.now(UTC))
    for trust in (Trust(None), Trust(authority.trusted)):
        for context in (trust.context(), trust.context_for(identity)):
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname
            assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"", "no certificates"), (b"-----BEGIN CERT", "no certificates")]
)
def test_a_file_without_authorities_is_refused_at_start(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSettings, match=rf"DISPATCHER_CA_FILE: .*{why}"):
        Trust(file)

"""HTTPS of the API's own: modern protocols only, a renewed certificate without a restart, and clear refusals."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from dispatcher.api.app import create_app
from dispatcher.api.runner import ApiRunner
from dispatcher.api.tls import ServerTls
from dispatcher.cli import listening
from dispatcher.errors import ConfigurationError
from dispatcher.store.deployment import Deployment
from tests.api.client import ADMIN_KEY
from tests.transport.certificates import Authority

SHORT_S = 0.3
PATIENCE_S = 20.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


def issue(authority: Authority) -> Path:
    """A new certificate and key for 127.0.0.1, in one file."""
    authority.server("127.0.0.1")
    return authority.directory / "server.pem"


def split(file: Path) -> tuple[Path, Path]:
    """The same as a file with the certificate and one with the key."""
    key, certificate = file.with_name("key.pem"), file.with_name("certificate.pem")
    text = file.read_text()
    at = text.index("-----BEGIN CERTIFICATE-----")
    key.write_text(text[:at])
    certificate.write_text(text[at:])
    return certificate, key


@asynccontextmanager
async def https(deployment: Deployment, tls: ServerTls) -> AsyncIterator[str]:
    runner = ApiRunner(create_app(deployment, admin_key=ADMIN_KEY), most_connections=100, access_log=None)
    async with listening.served(runner, "127.0.0.1", 0, tls.context) as url:
        yield url


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def client_of(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.trusted))


async def certificate_shown(url: str, authority: Authority) -> bytes:
    """The certificate that a connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(url), ssl=client_of(authority))
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


async def test_the_api_is_served_over_tls_with_the_newest_protocol(
    deployment: Deployment, authority: Authority
) -> None:
    certificate, key = split(issue(authority))
    async with (
        https(deployment, ServerTls(certificate, key)) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_of(authority))) as session,
    ):
        assert url.startswith("https://127.0.0.1:")
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        body = {"type": "a.b", "data": "x" * 100_000}
        async with session.post(f"{url}/v1/events", json=body, headers=headers) as published:
            assert published.status == 202
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(url), ssl=client_of(authority))
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.transport.abort()


@pytest.mark.parametrize(
    ("version", "taken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
async def test_protocols_from_before_tls_1_2_are_refused(
    deployment: Deployment, authority: Authority, version: ssl.TLSVersion, taken: bool
) -> None:
    client = client_of(authority)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        # Python tells that these are old, which is the point.
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = version
    async with https(deployment, ServerTls(issue(authority), None)) as url:
        if taken:
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(url), ssl=client)
            writer.transport.abort()
            return
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", port_of(url), ssl=client)


async def test_plain_http_at_the_same_port_is_not_answered(deployment: Deployment, authority: Authority) -> None:
    async with https(deployment, ServerTls(issue(authority), None)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert b"HTTP" not in await reader.read()
        writer.transport.abort()


async def test_a_handshake_that_does_not_end_is_cut_off(
    deployment: Deployment, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_HANDSHAKE_S", SHORT_S)
    async with https(deployment, ServerTls(issue(authority), None)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        # The head of a ClientHello, and nothing after it.
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.transport.abort()


async def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_never(
    deployment: Deployment, authority: Authority
) -> None:
    file = issue(authority)
    tls = ServerTls(file, None)
    async with https(deployment, tls) as url:
        first = await certificate_shown(url, authority)
        tls.renew()
        assert await certificate_shown(url, authority) == first
        good = issue(authority).read_bytes()
        file.write_bytes(good[: len(good) // 2])
        tls.renew()
        assert await certificate_shown(url, authority) == first
        file.unlink()
        tls.renew()
        assert await certificate_shown(url, authority) == first
        file.write_bytes(good)
        tls.renew()
        assert await certificate_shown(url, authority) != first


async def test_the_files_are_looked_at_by_themselves(
    deployment: Deployment, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.api.tls.LOOK_EVERY_S", 0.01)
    tls = ServerTls(issue(authority), None)
    looking = asyncio.create_task(tls.keep_fresh())
    async with https(deployment, tls) as url, asyncio.timeout(PATIENCE_S):
        first = await certificate_shown(url, authority)
        issue(authority)
        while await certificate_shown(url, authority) == first:
            pass
    looking.cancel()


def test_files_that_do_not_serve_are_refused_by_name(authority: Authority, tmp_path: Path) -> None:
    file = issue(authority)
    certificate, key = split(file)
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = split(issue(Authority.make(other)))
    locked = tmp_path / "locked.pem"
    sealed = BestAvailableEncryption(b"a password")
    private = load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed))
    empty = tmp_path / "empty.pem"
    empty.touch()
    for wrong in ((tmp_path / "none.pem", None), (certificate, None), (certificate, foreign), (certificate, locked)):
        with pytest.raises(ConfigurationError, match="DISPATCHER_TLS_CERT"):
            ServerTls(*wrong)
    with pytest.raises(ConfigurationError, match=r"none\.pem: No such file"):
        ServerTls(tmp_path / "none.pem", None)
    with pytest.raises(ConfigurationError, match=r"empty\.pem do not hold"):
        ServerTls(empty, None)
    # It can be looked at and not read, as the key of another user: the error of reading it does not name it.
    folder = tmp_path / "folder.pem"
    folder.mkdir()
    with pytest.raises(ConfigurationError, match=r"certificate\.pem and .*folder\.pem: Is a directory"):
        ServerTls(certificate, folder)

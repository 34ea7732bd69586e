"""One POST as the engine makes it, with little to say."""

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

from aiohttp.abc import AbstractResolver
from yarl import URL

from dispatcher.rules.credentials import Credentials
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.verdict import Exchange
from dispatcher.transport.client import HttpClient, Kind, Request

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LOOPBACK = EgressRules(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
NOTHING_SPECIAL = EgressRules(allow_http=True, allow_networks=())


class Open:
    """Opens clients of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.clients: list[HttpClient] = []
        self._kind = kind

    def __call__(
        self,
        rules: EgressRules = LOOPBACK,
        *,
        connect_timeout_s: float = 5.0,
        resolver: AbstractResolver | None = None,
        ca_file: Path | None = None,
    ) -> HttpClient:
        """Another one, to be closed with the others."""
        client = HttpClient(
            rules, connect_timeout_s=connect_timeout_s, resolver=resolver, kind=self._kind, ca_file=ca_file
        )
        self.clients.append(client)
        return client


async def post(
    client: HttpClient,
    url: str,
    *,
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 20.0,
    credentials: Credentials | None = None,
) -> Exchange:
    """What came of it."""
    return await client.post(Request(URL(url, encoded=True), headers or {}, body, timeout_s, credentials), NOW)

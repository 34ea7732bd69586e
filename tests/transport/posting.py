"""One POST as the engine makes it, with little to say."""

from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_network

from yarl import URL

from dispatcher.rules.egress import EgressRules
from dispatcher.rules.verdict import Exchange
from dispatcher.transport.client import HttpClient, Request

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LOOPBACK = EgressRules(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
NOTHING_SPECIAL = EgressRules(allow_http=True, allow_networks=())


async def post(
    client: HttpClient,
    url: str,
    *,
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 20.0,
) -> Exchange:
    """What came of it."""
    return await client.post(Request(URL(url, encoded=True), headers or {}, body, timeout_s), NOW)

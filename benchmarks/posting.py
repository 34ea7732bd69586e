"""Signed POSTs through our client, as the engine makes them, without a database."""

from collections.abc import Mapping
from datetime import UTC, datetime

from yarl import URL

from benchmarks.timing import Waiting
from dispatcher.rules.signing import signature_header
from dispatcher.transport.client import HttpClient, Request


async def post_all(client: HttpClient, url: URL, key: bytes, headers: Mapping[str, str], waiting: Waiting) -> None:
    """Takes the next event, signs it and POSTs it with `headers` too, until there is none. Raises `RuntimeError` for
    an answer other than 200.
    """
    for event_id, body in waiting:
        now = datetime.now(UTC)
        timestamp = int(now.timestamp())
        signed = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature_header((key,), event_id, timestamp, body),
            **headers,
        }
        exchange = await client.post(Request(url, signed, body, 20.0), now)
        if exchange.status != 200:
            raise RuntimeError(f"the receiver answered {exchange}")

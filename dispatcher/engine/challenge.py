"""Proof of control: a challenge that only who owns a URL can have answered, before anything is sent to it."""

import asyncio
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hmac import compare_digest

from msgspec.structs import replace

from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.test_event import send_at_once
from dispatcher.errors import NotFound, StoreUnavailable
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.states import AttemptError, Profile
from dispatcher.store import verification
from dispatcher.store.deployment import Deployment
from dispatcher.store.keyring import Unreadable

log = logger("dispatcher.challenge")

TYPE = "webhook.verify"


@dataclass(frozen=True, slots=True)
class Challenged:
    """What came of a challenge."""

    verified: bool
    #: The answer was a 2xx, whatever it said.
    answered: bool
    status: int | None
    error: AttemptError | None
    duration_ms: float


async def challenge(deployment: Deployment, endpoint_row: int) -> Challenged:
    """Sends a signed `webhook.verify` event, in the standard profile, and looks whether the answer repeats its
    challenge. If it does, the endpoint is verified from now on, unless it was changed meanwhile.

    Raises `NotFound`, `Unreadable`.
    """
    policy = await EndpointBook(deployment).read(endpoint_row)
    if policy is None:
        raise NotFound("no such endpoint")
    expected = secrets.token_urlsafe(32)
    data = {
        "message": 'To receive events here, answer with a 2xx and the challenge: {"challenge": "…"} or the text alone.',
        "challenge": expected,
        "endpoint_id": policy.endpoint_id,
    }
    # However long its owner lets attempts take, nobody has shown yet that it is theirs.
    policy = replace(policy, timeout_s=min(policy.timeout_s, deployment.settings.timeout.total_seconds()))
    exchange, duration_ms = await send_at_once(deployment, policy, TYPE, data, Profile.STANDARD)
    verified = exchange.error is None and repeats(exchange.excerpt, expected)
    if verified:
        async with deployment.database.begin() as connection:
            verified = await verification.verify(connection, deployment.database, endpoint_row, policy.version)
    log.info(
        "endpoint.challenged",
        endpoint_id=policy.endpoint_id,
        verified=verified,
        status=exchange.status,
        error=exchange.error,
    )
    return Challenged(verified, exchange.error is None, exchange.status, exchange.error, duration_ms)


def repeats(answer: str, expected: str) -> bool:
    """Whether an answer is the challenge: its text, or a JSON object with nothing but it. Who sends back all that it
    is sent, as servers for testing do, has proved nothing.
    """
    text = answer.strip()
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(found, dict) or list(found) != ["challenge"] or not isinstance(found["challenge"], str):
            return False
        text = found["challenge"]
    # JSON can write halves of characters, which UTF-8 cannot.
    return compare_digest(text.encode(errors="replace"), expected.encode())


async def challenge_all(deployment: Deployment, endpoint_rows: Iterable[int]) -> bool:
    """Challenges endpoints at once, and notes nothing but what they proved; whether one of them is verified now."""

    async def one(endpoint_row: int) -> bool:
        try:
            return (await challenge(deployment, endpoint_row)).verified
        except (NotFound, Unreadable, StoreUnavailable) as error:
            log.warning("endpoint.not_challenged", endpoint_id=public_id(Kind.ENDPOINT, endpoint_row), error=str(error))
        except Exception:
            # Whatever it is, it is about one of them.
            log.exception("endpoint.not_challenged", endpoint_id=public_id(Kind.ENDPOINT, endpoint_row))
        return False

    return any(await asyncio.gather(*(one(endpoint_row) for endpoint_row in endpoint_rows)))

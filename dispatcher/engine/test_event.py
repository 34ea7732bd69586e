"""A test event: signed and sent at once to one endpoint, answered to whoever asked, and kept nowhere.

So is what else is sent like it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from msgspec.structs import replace

from dispatcher.clock import rfc3339
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.sign import echoed_secrets, sign
from dispatcher.errors import NotFound
from dispatcher.ids import new_event_id
from dispatcher.redaction import without_echoes
from dispatcher.rules.bodies import frozen_profile
from dispatcher.rules.json_text import encode
from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.store.claimed import Claimed
from dispatcher.store.deployment import Deployment
from dispatcher.store.endpoint_policies import EndpointPolicy
from dispatcher.transport.client import HttpClient, Request

TYPE = "webhook.test"
#: So many are sent at once for those who ask for them, the others wait: each has connections of its own, and must not
#: take the open files that deliveries need.
AT_ONCE = 200
#: Of them for one tenant, whose receivers may all take their time.
AT_ONCE_PER_TENANT = 20


class _Turns:
    """Of one event loop."""

    def __init__(self) -> None:
        self.all = asyncio.Semaphore(AT_ONCE)
        # Weak, so that they are gone with the last who waits.
        self.tenants: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


@asynccontextmanager
async def turn(tenant: str) -> AsyncIterator[None]:
    """What whoever sends one because somebody of a tenant asked holds meanwhile."""
    turns = _TURNS.setdefault(asyncio.get_running_loop(), _Turns())
    # The tenant's first: who waits for its others takes no turn of anybody's.
    async with turns.tenants.setdefault(tenant, asyncio.Semaphore(AT_ONCE_PER_TENANT)), turns.all:
        yield


@dataclass(frozen=True, slots=True)
class Tested:
    """What the receiver did with a test event."""

    delivered: bool
    status: int | None
    error: AttemptError | None
    duration_ms: float
    #: The beginning of the answer's body, without what it repeats of the request's secrets; or why nothing was sent.
    excerpt: str


async def send_test(deployment: Deployment, endpoint_row: int, keys: SigningKeys | None = None) -> Tested:
    """Sends a signed `webhook.test` event, whatever the endpoint's status. Raises `NotFound`, `Unreadable`.

    With `keys` they sign, and nothing else does: what a staged secret is tried with.
    It is no delivery: it is not retried, counts for nothing, and takes no turn in any lane.
    """
    policy = await EndpointBook(deployment).read(endpoint_row)
    if policy is None:
        raise NotFound("no such endpoint")
    if keys is not None:
        policy = replace(
            policy,
            keys=(keys.secret.key,),
            legacy_key=keys.secret.text_key,
            private_keys=(keys.private_key,) if policy.private_keys else (),
        )
    sent_at = rfc3339(deployment.clock.now())
    data = {"message": "This is a test event.", "endpoint_id": policy.endpoint_id, "sent_at": sent_at}
    async with turn(policy.tenant):
        now = deployment.clock.now()
        request = _signed(deployment, policy, TYPE, data, policy.profile, now)
        exchange, duration_ms = await _post(deployment, request, now)
    excerpt = without_echoes(exchange.excerpt, echoed_secrets(policy, request)) if exchange.excerpt else ""
    return Tested(exchange.error is None, exchange.status, exchange.error, duration_ms, excerpt)


async def send_at_once(
    deployment: Deployment, policy: EndpointPolicy, event_type: str, data: Mapping[str, Any], profile: str
) -> tuple[Exchange, float]:
    """Sends an event of our own to one endpoint, signed; what came of it, and after how many ms."""
    now = deployment.clock.now()
    return await _post(deployment, _signed(deployment, policy, event_type, data, profile, now), now)


def _signed(
    deployment: Deployment,
    policy: EndpointPolicy,
    event_type: str,
    data: Mapping[str, Any],
    profile: str,
    now: datetime,
) -> Request:
    claimed = Claimed.first(
        delivery_row=0,
        endpoint_row=policy.endpoint_row,
        endpoint_version=policy.version,
        dispatcher_row=0,
        body_profile=frozen_profile(profile, deployment.settings.source),
        event_id=new_event_id(),
        event_type=event_type,
        timestamp=now,
        created_at=now,
        traceparent=None,
        data=encode(dict(data)),
    )
    return sign(claimed, policy, now)


async def _post(deployment: Deployment, request: Request, now: datetime) -> tuple[Exchange, float]:
    settings, clock = deployment.settings, deployment.clock
    client = HttpClient(
        deployment.egress,
        connect_timeout_s=settings.connect_timeout.total_seconds(),
        kind=settings.client,
        ca_file=settings.ca_file,
    )
    started = clock.monotonic()
    try:
        exchange = await client.post(request, now)
    finally:
        await client.close()
    return exchange, round((clock.monotonic() - started) * 1000, 2)

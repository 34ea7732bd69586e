"""One POST, whatever happens: keep-alive, no redirects, capped answers, foreign errors made ours."""

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, assert_never

from aiohttp.abc import AbstractResolver
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from dispatcher.logs import logger
from dispatcher.rules.credentials import Credentials
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.oauth2 import OAuth2
from dispatcher.rules.retry import retry_after_s
from dispatcher.rules.verdict import PROXY_FORGIVEN, Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.deadlines import Deadlines
from dispatcher.transport.failures import classify, of_endpoint_alone
from dispatcher.transport.guard import Blocked
from dispatcher.transport.identities import Identities
from dispatcher.transport.message import Answer, Terms, Wire
from dispatcher.transport.tls import Contexts, Trust
from dispatcher.transport.tokens import Tokens, Unauthorized
from dispatcher.transport.tunnel import CancelledAtProxy, ProxyFailed
from dispatcher.transport.wire import AiohttpWire

log = logger("dispatcher.egress")

#: So much of an answer is read, and so much of that is kept, in bytes.
READ_LIMIT = 16 * 1024
EXCERPT_LIMIT = 1024
#: Idle connections are closed before a receiver does it: Node closes after 5 s, and a POST that meets the
#: closing end is a failed attempt that cost the receiver nothing but confused its reader.
KEEP_ALIVE_S = 4.0

Kind = Literal["aiohttp", "lean"]


class Request(Struct, frozen=True, gc=False):
    """What is sent."""

    url: URL
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float
    credentials: Credentials | None = None

    def __repr__(self) -> str:
        # Its URL and headers are full of secrets.
        return f"Request(host={self.url.raw_host!r})"


class HttpClient:
    """A connection pool behind the egress guard. Use it in the event loop that runs it; close it at the end.

    Receivers' certificates may also come from the authorities in `ca_file`. Raises `InvalidSettings` where it has none.
    """

    def __init__(
        self,
        rules: EgressRules,
        *,
        connect_timeout_s: float,
        resolver: AbstractResolver | None = None,
        kind: Kind = "aiohttp",
        ca_file: Path | None = None,
    ) -> None:
        trust = Trust(ca_file)

        def opened(contexts: Contexts) -> Wire:
            return open_wire(kind, rules, resolver, connect_timeout_s, contexts)

        self._deadlines = Deadlines()
        self._wire = opened(trust.context)
        self._identities = Identities(trust, opened)
        self._tokens = Tokens(self._wire)

    def post(self, request: Request, now: datetime) -> Awaitable[Exchange]:
        """Sends it and reads the answer's beginning. `now` is what a Retry-After date is compared with."""
        # No coroutine of its own: nearly every attempt goes the first way, and none should pay for the others.
        credentials = request.credentials
        if credentials is None:
            asking = self._wire.post(request.url, request.headers, request.body)
            return self._exchange(asking, request.url, request.timeout_s, now)
        if credentials.oauth2 is None:
            return self._post_as(request, credentials, request.headers, request.timeout_s, now)
        return self._post_with_token(request, credentials, credentials.oauth2, now)

    async def _post_with_token(
        self, request: Request, credentials: Credentials, oauth2: OAuth2, now: datetime
    ) -> Exchange:
        loop = asyncio.get_running_loop()
        until = loop.time() + request.timeout_s
        try:
            async with asyncio.timeout_at(until):
                token = await self._tokens.token(oauth2)
        except TimeoutError:
            return _without_token(AttemptError.TIMEOUT, "the token endpoint did not answer in time")
        except Unauthorized as failure:
            return _without_token(failure.error, str(failure))
        except ProxyFailed as error:
            return _unsent(error)
        headers = {**request.headers, "authorization": f"Bearer {token.text}"}
        exchange = await self._post_as(request, credentials, headers, until - loop.time(), now)
        if exchange.status == 401:
            self._tokens.refused(oauth2, token)
        # Receivers that show what they were sent are common.
        return replace(exchange, excerpt=token.hidden_in(exchange.excerpt)) if exchange.excerpt else exchange

    def _post_as(
        self, request: Request, credentials: Credentials, headers: Mapping[str, str], timeout_s: float, now: datetime
    ) -> Awaitable[Exchange]:
        identity = credentials.identity
        if identity is None:
            return self._exchange(self._wire.post(request.url, headers, request.body), request.url, timeout_s, now)
        asking = self._identities.post(credentials, identity, request.url, headers, request.body)
        return self._exchange(asking, request.url, timeout_s, now)

    async def _exchange(self, asking: Awaitable[Answer], url: URL, timeout_s: float, now: datetime) -> Exchange:
        task = self._deadlines.set(timeout_s)
        try:
            answer = await asking
        except asyncio.CancelledError as error:
            if not self._deadlines.lift(task):
                raise
            if isinstance(error, CancelledAtProxy):
                return _unsent(ProxyFailed("has not answered in time", PROXY_FORGIVEN))
            return Exchange(status=None, error=AttemptError.TIMEOUT)
        except ProxyFailed as error:
            return _unsent(error)
        except Blocked as error:
            log.warning("egress.blocked", host=url.raw_host, why=str(error))
            return Exchange(status=None, error=AttemptError.BLOCKED)
        except Exception as error:  # noqa: BLE001 - `classify` raises what is not the receiver's
            return Exchange(status=None, error=classify(error), of_endpoint_alone=of_endpoint_alone(error))
        finally:
            self._deadlines.lift(task)
        status = answer.status
        return Exchange(
            status=status,
            error=None if 200 <= status < 300 else AttemptError.HTTP_STATUS,
            retry_after_s=retry_after_s(answer.retry_after, now),
            excerpt=_excerpt(answer),
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self._tokens.close()
        await self._identities.close()
        await self._wire.close()


def open_wire(
    kind: Kind, rules: EgressRules, resolver: AbstractResolver | None, connect_timeout_s: float, contexts: Contexts
) -> Wire:
    """A connection pool behind the egress guard, whose TLS is that of `contexts`."""
    terms = Terms(rules, resolver, contexts, connect_timeout_s, KEEP_ALIVE_S, READ_LIMIT)
    match kind:
        case "aiohttp":
            return AiohttpWire(terms)
        case "lean":
            # Only here, since it brings libraries with it.
            from dispatcher.transport.lean import LeanWire

            return LeanWire(terms)
        case _:
            assert_never(kind)


def _without_token(error: AttemptError, why: str) -> Exchange:
    return Exchange(status=None, error=error, excerpt=f"(no access token: {why})", of_endpoint_alone=True)


def _unsent(error: ProxyFailed) -> Exchange:
    return Exchange(status=None, error=AttemptError.INTERNAL, excerpt=str(error), forgiven=error.forgiven)


def _excerpt(answer: Answer) -> str:
    if not answer.beginning:
        return ""
    if answer.encoding not in (None, "identity"):
        return f"({len(answer.beginning)} bytes of {answer.encoding[:20]!r}, not decompressed)"
    text = answer.beginning[:EXCERPT_LIMIT].decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)

"""One POST, whatever happens: keep-alive, no redirects, capped answers, foreign errors made ours."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, assert_never

from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from dispatcher.logs import logger
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.retry import retry_after_s
from dispatcher.rules.verdict import PROXY_FORGIVEN, Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.deadlines import Deadlines
from dispatcher.transport.failures import classify
from dispatcher.transport.guard import Blocked
from dispatcher.transport.message import Answer, Wire
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


class HttpClient:
    """A connection pool behind the egress guard. Use it in the event loop that runs it; close it at the end."""

    def __init__(
        self,
        rules: EgressRules,
        *,
        connect_timeout_s: float,
        resolver: AbstractResolver | None = None,
        kind: Kind = "aiohttp",
    ) -> None:
        self._deadlines = Deadlines()
        self._wire = _wire(kind, rules, resolver, connect_timeout_s)

    async def post(self, request: Request, now: datetime) -> Exchange:
        """Sends it and reads the answer's beginning. `now` is what a Retry-After date is compared with."""
        task = self._deadlines.set(request.timeout_s)
        try:
            answer = await self._wire.post(request.url, request.headers, request.body)
        except asyncio.CancelledError as error:
            if not self._deadlines.lift(task):
                raise
            if isinstance(error, CancelledAtProxy):
                return _unsent(ProxyFailed("has not answered in time", PROXY_FORGIVEN))
            return Exchange(status=None, error=AttemptError.TIMEOUT)
        except ProxyFailed as error:
            return _unsent(error)
        except Blocked as error:
            log.warning("egress.blocked", host=request.url.raw_host, why=str(error))
            return Exchange(status=None, error=AttemptError.BLOCKED)
        except Exception as error:  # noqa: BLE001 - `classify` raises what is not the receiver's
            return Exchange(status=None, error=classify(error))
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
        await self._wire.close()


def _wire(kind: Kind, rules: EgressRules, resolver: AbstractResolver | None, connect_timeout_s: float) -> Wire:
    limits = {"connect_timeout_s": connect_timeout_s, "keep_alive_s": KEEP_ALIVE_S}
    match kind:
        case "aiohttp":
            return AiohttpWire(rules, resolver, **limits, read_limit=READ_LIMIT)
        case "lean":
            # Only here, since it brings libraries with it.
            from dispatcher.transport.lean import LeanWire

            return LeanWire(rules, resolver, **limits, read_limit=READ_LIMIT)
        case _:
            assert_never(kind)


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

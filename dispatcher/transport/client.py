"""One POST, whatever happens: aiohttp with keep-alive, no redirects, capped answers, foreign errors made ours."""

import asyncio
import errno
from collections.abc import Iterator, Mapping
from datetime import datetime

import aiohttp
from aiohttp import http_exceptions
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from dispatcher.rules.egress import EgressRules
from dispatcher.rules.retry import retry_after_s
from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.deadlines import Deadlines
from dispatcher.transport.guard import Blocked, GuardedResolver, GuardedSockets
from dispatcher.transport.wire import Answer, Wire

#: So much of an answer is read, and so much of that is kept, in bytes.
READ_LIMIT = 16 * 1024
EXCERPT_LIMIT = 1024
#: Idle connections are closed before a receiver does it: Node closes after 5 s, and a POST that meets the
#: closing end is a failed attempt that cost the receiver nothing but confused its reader.
KEEP_ALIVE_S = 4.0

#: Nobody answered at that address: no connection came about, as when it is refused.
_UNREACHABLE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
#: This process or machine has run out of something.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Request(Struct, frozen=True, gc=False):
    """What is sent."""

    url: URL
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float


class HttpClient:
    """A connection pool behind the egress guard. Use it in the event loop that runs it; close it at the end."""

    def __init__(
        self, rules: EgressRules, *, connect_timeout_s: float, resolver: AbstractResolver | None = None
    ) -> None:
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=GuardedResolver(rules, resolver),
            socket_factory=GuardedSockets(rules),
            keepalive_timeout=KEEP_ALIVE_S,
            ttl_dns_cache=10,
        )
        self._deadlines = Deadlines()
        self._wire = Wire(connector, connect_timeout_s=connect_timeout_s, read_limit=READ_LIMIT)

    async def post(self, request: Request, now: datetime) -> Exchange:
        """Sends it and reads the answer's beginning. `now` is what a Retry-After date is compared with."""
        task = self._deadlines.set(request.timeout_s)
        try:
            answer = await self._wire.post(request.url, request.headers, request.body)
        except asyncio.CancelledError:
            if self._deadlines.lift(task):
                return Exchange(status=None, error=AttemptError.TIMEOUT)
            raise
        except Exception as error:  # noqa: BLE001 - `classify` raises what is not the receiver's
            return Exchange(status=None, error=classify(error))
        finally:
            self._deadlines.lift(task)
        status = answer.status
        return Exchange(
            status=status,
            error=None if 200 <= status < 300 else AttemptError.HTTP_STATUS,
            retry_after_s=retry_after_s(answer.headers.get("Retry-After"), now),
            excerpt=_excerpt(answer),
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self._wire.close()


def _excerpt(answer: Answer) -> str:
    if not answer.beginning:
        return ""
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        return f"({len(answer.beginning)} bytes of {encoding[:20]!r}, not decompressed)"
    text = answer.beginning[:EXCERPT_LIMIT].decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)


def classify(error: BaseException) -> AttemptError:
    """The closed set's word for what a library raised. Cancellation travels on, and so does what no receiver causes."""
    match error:
        case Blocked():
            return AttemptError.BLOCKED
        case OSError() if error.errno in _OURS:
            raise error
        case aiohttp.ConnectionTimeoutError():
            return AttemptError.CONNECT_TIMEOUT
        case TimeoutError():
            return AttemptError.TIMEOUT
        case aiohttp.ClientConnectorDNSError():
            return AttemptError.DNS
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return AttemptError.TLS
        case aiohttp.ClientConnectorError() if error.errno in _UNREACHABLE or type(error.os_error) is OSError:
            # A plain OSError without a number sums up several addresses, of which each failed in its own way.
            return AttemptError.CONNECTION_REFUSED
        case aiohttp.ClientConnectorError() if error.errno == errno.ETIMEDOUT:
            return AttemptError.CONNECT_TIMEOUT
        case _ if any(isinstance(cause, http_exceptions.LineTooLong) for cause in _causes(error)):
            return AttemptError.BODY_TOO_LARGE
        case aiohttp.ClientResponseError():
            return AttemptError.PROTOCOL
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return AttemptError.CONNECTION_RESET
        case http_exceptions.HttpProcessingError() | aiohttp.ClientError():
            return AttemptError.PROTOCOL
        case _:
            raise error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__

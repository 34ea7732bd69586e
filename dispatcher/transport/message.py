"""What goes over a wire, whichever client holds it: a POST as bytes, and what is kept of its answer."""

from collections.abc import Mapping
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from dispatcher.errors import InvalidField
from dispatcher.rules.egress import EgressRules
from dispatcher.transport.tls import Contexts

#: Interim answers (1xx) that are passed over before the answer; browsers' servers send one or two.
INTERIM_LIMIT = 16
#: So many bytes of an answer are taken in, whatever they are: heads, bodies, and what goes between chunks and behind
#: them without end, which parsers pass over or collect.
ANSWER_LIMIT = 256 * 1024
#: A request that is longer may have been answered before it was read, in bytes.
READ_AT_ONCE = 64 * 1024


class Answer(Struct, frozen=True, gc=False):
    """A receiver's answer: what is read of its head, and the beginning of its body."""

    status: int
    retry_after: str | None
    encoding: str | None
    beginning: bytes

    def may_precede(self, message: bytes) -> bool:
        """Whether it may have come before the receiver had read the request, and perhaps never will: a refusal of a
        long one. What waits in the kernel's buffers nobody tells, nor what waits below TLS.
        """
        return len(message) > READ_AT_ONCE and not 200 <= self.status < 300


class Terms(Struct, frozen=True):
    """What a wire is opened with: the guard's rules, the resolver behind it, TLS, and its limits."""

    rules: EgressRules
    resolver: AbstractResolver | None
    contexts: Contexts
    connect_timeout_s: float
    #: Idle connections are closed after so long, in seconds.
    keep_alive_s: float
    #: So much of an answer's body is read, in bytes.
    read_limit: int


class Wire(Protocol):
    """A connection pool that POSTs. Use it in the event loop that runs it; close it at the end."""

    async def post(self, url: URL, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends the body and reads the answer's beginning. Raises what `classify` knows, and `InvalidField` for a
        header of more than one line.
        """
        ...

    async def close(self) -> None:
        """Closes every connection."""
        ...


def request_head(url: URL) -> str:
    """What every POST to one URL begins with; its user and password become basic authorization."""
    head = f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}"
    if url.raw_user is None and url.raw_password is None:
        return head
    return f"{head}\r\nAuthorization: {aiohttp.encode_basic_auth(url.user or '', url.password or '')}"


def serialize(head: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A POST as bytes. Raises `InvalidField` for a header of more than one line."""
    lines = [head, *[f"{name}: {value}" for name, value in headers.items()], f"Content-Length: {len(body)}\r\n\r\n"]
    text = "\r\n".join(lines)
    # Whoever let a line break into a header let its author write our requests.
    breaks = head.count("\n") + len(headers) + 3
    if text.count("\n") != breaks or text.count("\r") != breaks or "\0" in text:
        raise InvalidField("headers", "one of them has more than one line")
    return text.encode() + body

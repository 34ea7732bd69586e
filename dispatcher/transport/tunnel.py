"""Tunnels through an egress proxy, by HTTP CONNECT: a connected socket, over which the receiver is spoken to.

What fails up to here is not the receiver's fault, or it cannot be told; `ProxyFailed` says how much that forgives.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from dispatcher import metrics
from dispatcher.logs import logger
from dispatcher.rules.proxy import Proxy, answered
from dispatcher.rules.verdict import PROXY_DOWN_FORGIVEN, PROXY_FORGIVEN

log = logger("dispatcher.proxy")

#: The head of a proxy's answer has at most so many bytes.
HEAD_LIMIT = 16 * 1024

_WANTS_ANOTHER_PASSWORD = 407


class ProxyFailed(Exception):
    """There is no tunnel; nothing was sent to the receiver. `forgiven`: so many of these in a row use up no retry."""

    def __init__(self, why: str, forgiven: int) -> None:
        super().__init__(f"the egress proxy {why}")
        self.forgiven = forgiven


class CancelledAtProxy(asyncio.CancelledError):
    """The task was cancelled while there was no tunnel yet."""


async def open_tunnel(
    proxy: Proxy, connect: Callable[[], Coroutine[Any, Any, socket.socket]], host: str, port: int, *, until: float
) -> socket.socket:
    """A socket that the proxy has connected with the host, by `until` in the loop's time.

    `connect` connects with the proxy. Raises `ProxyFailed`, and `CancelledAtProxy` when it is cancelled.
    """
    # Who cannot be talked with, or does not know us, has not even tried; an error status may be about the receiver.
    forgiven, doing = PROXY_DOWN_FORGIVEN, "cannot be reached"
    try:
        async with asyncio.timeout_at(until):
            made = await connect()
            try:
                forgiven, doing = PROXY_FORGIVEN, "broke off"
                status, behind = await _ask(made, proxy.asks(host, port))
            except BaseException:
                made.close()
                raise
    except asyncio.CancelledError as error:
        raise CancelledAtProxy(*error.args) from error
    except TimeoutError as error:
        raise _failed(proxy, "has not answered in time", forgiven) from error
    except OSError as error:
        raise _failed(proxy, f"{doing} ({error.strerror or type(error).__name__})", forgiven) from error
    if status is not None and 200 <= status < 300:
        if not behind:
            return made
        made.close()
        # It would be taken for the receiver's answer, which nobody has asked yet. A receiver can speak first, too.
        raise _failed(proxy, "has sent more than its answer", PROXY_FORGIVEN)
    made.close()
    if status is None:
        raise _failed(proxy, "does not speak HTTP", PROXY_DOWN_FORGIVEN)
    forgiven = PROXY_DOWN_FORGIVEN if status == _WANTS_ANOTHER_PASSWORD else PROXY_FORGIVEN
    raise _failed(proxy, f"answered {status}", forgiven)


async def _ask(made: socket.socket, request: bytes) -> tuple[int | None, bytes]:
    """The proxy's status, None if it speaks no HTTP, and what came behind the head of its answer."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(made, request)
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = await loop.sock_recv(made, 4096)
        if not chunk:
            raise ConnectionResetError("closed")
        received += chunk
        if len(received) > HEAD_LIMIT:
            return None, b""
    head, _, behind = received.partition(b"\r\n\r\n")
    return answered(head), behind


def _failed(proxy: Proxy, why: str, forgiven: int) -> ProxyFailed:
    error = ProxyFailed(why, forgiven)
    metrics.proxy_failures.inc()
    log.warning("proxy.failed", proxy=proxy.shown, error=str(error))
    return error

"""Tunnels through an egress proxy, by HTTP CONNECT: a connected socket, over which the receiver is spoken to.

What fails up to here is not the receiver's fault, or it cannot be told; `ProxyFailed` says how much that forgives.
"""

import asyncio
import math
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from dispatcher import metrics
from dispatcher.logs import logger
from dispatcher.rules.proxy import Proxy, answered
from dispatcher.rules.verdict import PROXY_FORGIVEN

log = logger("dispatcher.proxy")

#: The head of a proxy's answer has at most so many bytes.
HEAD_LIMIT = 16 * 1024

_WANTS_ANOTHER_PASSWORD = 407


class ProxyFailed(Exception):
    """There is no tunnel; nothing was sent to the receiver. `forgiven`: so many of these in a row use up no retry."""

    def __init__(self, why: str, forgiven: float) -> None:
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
    forgiven, doing = math.inf, "cannot be reached"
    try:
        async with asyncio.timeout_at(until):
            made = await connect()
            try:
                forgiven, doing = PROXY_FORGIVEN, "broke off"
                status = await _ask(made, proxy.asks(host, port))
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
        return made
    made.close()
    if status is None:
        raise _failed(proxy, "does not speak HTTP", math.inf)
    raise _failed(proxy, f"answered {status}", math.inf if status == _WANTS_ANOTHER_PASSWORD else PROXY_FORGIVEN)


async def _ask(made: socket.socket, request: bytes) -> int | None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(made, request)
    head = b""
    while b"\r\n\r\n" not in head:
        received = await loop.sock_recv(made, 4096)
        if not received:
            raise ConnectionResetError("closed")
        head += received
        if len(head) > HEAD_LIMIT:
            return None
    status = answered(head)
    if status is not None and 200 <= status < 300 and head.partition(b"\r\n\r\n")[2]:
        # It would be taken for the receiver's answer, which nobody has asked yet.
        return None
    return status


def _failed(proxy: Proxy, why: str, forgiven: float) -> ProxyFailed:
    error = ProxyFailed(why, forgiven)
    metrics.proxy_failures.inc()
    log.warning("proxy.failed", proxy=proxy.shown, error=str(error))
    return error

"""Connections: names are resolved and addresses vetted, sockets made or tunnels dug, TLS shaken hands over.

All of the lean client's, and aiohttp's through a proxy.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, TypeVar

import aiohappyeyeballs
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from msgspec import Struct

from dispatcher.rules.egress import EgressRules
from dispatcher.rules.proxy import Proxy
from dispatcher.states import AttemptError
from dispatcher.transport.failures import Broken, unconnected
from dispatcher.transport.guard import GuardedResolver, GuardedSockets
from dispatcher.transport.tls import Contexts
from dispatcher.transport.tunnel import open_tunnel

#: An answer of the name servers is used for so long.
NAMES_KEPT_S = 10.0
#: So many answers are kept, more only while they are fresh.
NAMES_KEPT = 1024
#: The next address is tried after so long, beside the one that has not answered yet.
NEXT_ADDRESS_S = 0.25

_Address = tuple[int, int, int, str, tuple[str, int]]
_Spoken = TypeVar("_Spoken", bound=asyncio.BaseProtocol)


class Place(Struct, frozen=True, gc=False):
    """Where a connection goes to; one that goes to the same place can be used again."""

    host: str
    port: int
    tls: bool


class Dialer:
    """Opens connections to what the egress rules allow, through a proxy where they say so."""

    def __init__(
        self, rules: EgressRules, resolver: AbstractResolver | None, contexts: Contexts, *, timeout_s: float
    ) -> None:
        self._rules = rules
        self._names = _Names(GuardedResolver(rules, resolver))
        # The operator's own choice, and usually of a private network.
        self._proxy_names = _Names(resolver or ThreadedResolver())
        self._sockets = GuardedSockets(rules)
        self._contexts = contexts
        self._timeout_s = timeout_s

    async def dial(self, place: Place, protocol: Callable[[], _Spoken]) -> _Spoken:
        """A connection that is ready to be spoken over. Raises `Blocked`, `Broken`, `ProxyFailed`, and `OSError` for
        what this machine has run out of.
        """
        loop = asyncio.get_running_loop()
        proxy = self._rules.proxied(place.host)
        if proxy is not None:
            until = loop.time() + self._timeout_s
            made = await open_tunnel(
                proxy, lambda: self._connect_with_proxy(proxy), place.host, place.port, until=until
            )
            with _told():
                async with asyncio.timeout_at(until):
                    return await self._speak(made, place, protocol)
        addresses = await self._names.look_up(place.host, place.port)
        with _told():
            async with asyncio.timeout(self._timeout_s):
                return await self._speak(await _start(addresses, self._sockets), place, protocol)

    async def close(self) -> None:
        """Stops asking for names."""
        await self._proxy_names.close()
        await self._names.close()

    async def _connect_with_proxy(self, proxy: Proxy) -> socket.socket:
        try:
            addresses = await self._proxy_names.look_up(proxy.host, proxy.port)
        except Broken as error:
            raise OSError(None, "its name is not known") from error
        return await _start(addresses, None)

    async def _speak(self, made: socket.socket, place: Place, protocol: Callable[[], _Spoken]) -> _Spoken:
        loop = asyncio.get_running_loop()
        if place.tls:
            # A name may end in a dot, which no certificate has.
            name = place.host.rstrip(".")
            _, spoken = await loop.create_connection(protocol, sock=made, ssl=self._contexts(), server_hostname=name)
        else:
            _, spoken = await loop.create_connection(protocol, sock=made)
        return spoken


async def _start(addresses: list[_Address], sockets: GuardedSockets | None) -> socket.socket:
    return await aiohappyeyeballs.start_connection(
        addresses,
        happy_eyeballs_delay=NEXT_ADDRESS_S,
        interleave=1,
        loop=asyncio.get_running_loop(),
        socket_factory=sockets,
    )


@contextmanager
def _told() -> Iterator[None]:
    """What keeps a connection from coming about becomes `Broken`."""
    try:
        yield
    except TimeoutError as error:
        raise Broken(AttemptError.CONNECT_TIMEOUT) from error
    except (ssl.SSLError, ssl.CertificateError) as error:
        raise Broken(AttemptError.TLS) from error
    except OSError as error:
        raise Broken(unconnected(error)) from error


class _Names:
    """The name servers' answers, each asked for once at a time and kept a while."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver
        self._known: dict[tuple[str, int], tuple[float, deque[_Address]]] = {}
        self._asking: dict[tuple[str, int], asyncio.Task[deque[_Address]]] = {}

    async def look_up(self, host: str, port: int) -> list[_Address]:
        """The name's addresses, another one first each time. Raises `Blocked`, and `Broken` for an unknown name."""
        if _literal(host):
            return [_address(host, port)]
        key, now = (host, port), asyncio.get_running_loop().time()
        until, addresses = self._known.get(key, (0.0, deque[_Address]()))
        if until <= now:
            asking = self._asking.get(key)
            if asking is None:
                asking = self._asking[key] = asyncio.create_task(self._ask(host, port))
                asking.add_done_callback(lambda task: self._asked(key, task))
            # Whoever stops waiting stops nobody else's lookup.
            addresses = await asyncio.shield(asking)
        addresses.rotate(-1)
        return list(addresses)

    async def close(self) -> None:
        for asking in self._asking.values():
            asking.cancel()
        await self._resolver.close()

    async def _ask(self, host: str, port: int) -> deque[_Address]:
        try:
            answer = await self._resolver.resolve(host, port)
        except OSError as error:
            raise Broken(AttemptError.DNS) from error
        return deque(_entry(entry) for entry in answer)

    def _asked(self, key: tuple[str, int], task: "asyncio.Task[deque[_Address]]") -> None:
        del self._asking[key]
        if task.cancelled() or task.exception() is not None:
            return
        now = asyncio.get_running_loop().time()
        # The oldest answer is the first.
        self._known.pop(key, None)
        while len(self._known) >= NAMES_KEPT and self._known[oldest := next(iter(self._known))][0] <= now:
            del self._known[oldest]
        self._known[key] = now + NAMES_KEPT_S, task.result()


def _literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _address(host: str, port: int) -> _Address:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


def _entry(entry: ResolveResult) -> Any:
    target = (entry["host"], entry["port"])
    return entry["family"], socket.SOCK_STREAM, entry["proto"], "", target

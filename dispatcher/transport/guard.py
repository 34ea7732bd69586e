"""The egress guard at delivery: whatever was said at registration, and whatever DNS says now, a socket is only made to
an address and port that are allowed, for a URL that is.
"""

import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from dispatcher.rules.egress import EgressRules, Refusal, own_port
from dispatcher.rules.hosts import literal


class Blocked(Exception):
    """The egress rules refuse it; nothing was sent."""


def vet(rules: EgressRules, url: URL) -> None:
    """Raises `Blocked` for a URL that the rules refuse before any name is resolved: they may be others than at its
    registration. Behind a proxy, which resolves names itself, nothing else is known.
    """
    _refuse(rules.target_refusal(url.scheme, (url.raw_host or "").lower(), url.port or 0))


class GuardedResolver(AbstractResolver):
    """Resolves names; one forbidden address refuses the whole answer, so that no retry picks its neighbour."""

    def __init__(self, rules: EgressRules, resolver: AbstractResolver | None = None) -> None:
        self._rules = rules
        self._resolver = resolver or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        # Here too, since of several sockets that are refused the connector reports none.
        _refuse(self._rules.port_refusal(port))
        answer = await self._resolver.resolve(host, port, family)
        if not answer:
            raise OSError(None, "the name has no address")
        for entry in answer:
            _refuse_connection(self._rules, entry["host"], port)
        return answer

    async def close(self) -> None:
        await self._resolver.close()


class GuardedSockets:
    """Makes the connector's sockets: sees literal addresses too, which no resolver is asked about."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules

    def __call__(
        self, address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, Any]
    ) -> socket.socket:
        family, kind, protocol, _, target = address
        _refuse_connection(self._rules, str(target[0]), int(target[1]))
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def _refuse_connection(rules: EgressRules, address: str, port: int) -> None:
    _refuse(rules.connection_refusal(address, port))
    if port in rules.own_ports and _is_of_this_machine(address):
        _refuse(own_port(port))


def _is_of_this_machine(address: str) -> bool:
    # Of a datagram socket that is connected, which sends nothing, the kernel tells from where it would send: to an
    # address of this machine from that very address.
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, 9))
        except OSError:
            return False
        own: str = asking.getsockname()[0]
    return literal(own) == literal(address)


def _refuse(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise Blocked(str(refusal))

"""The egress guard at connect time: whatever DNS said before, a socket is only made to an address that is allowed."""

import socket
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from dispatcher.rules.egress import EgressRules, port_refusal


class Blocked(Exception):
    """The egress rules refuse an address; nothing was sent to it."""


class GuardedResolver(AbstractResolver):
    """Resolves names; one forbidden address refuses the whole answer, so that no retry picks its neighbour."""

    def __init__(self, rules: EgressRules, resolver: AbstractResolver | None = None) -> None:
        self._rules = rules
        self._resolver = resolver or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        # Here too, since of several sockets that are refused the connector reports none.
        _refuse(port_refusal(port))
        answer = await self._resolver.resolve(host, port, family)
        for entry in answer:
            _refuse(self._rules.refusal(entry["host"]))
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
        _refuse(self._rules.refusal(str(target[0])) or port_refusal(int(target[1])))
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


def _refuse(refusal: str | None) -> None:
    if refusal is not None:
        raise Blocked(refusal)

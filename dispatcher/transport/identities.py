"""Connections that show a client certificate: a pool for each endpoint that has one, shared with nobody."""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

from yarl import URL

from dispatcher.rules.client_identity import ClientIdentity
from dispatcher.rules.credentials import Credentials
from dispatcher.transport.message import Answer, Wire
from dispatcher.transport.tls import Contexts, Trust

#: Pools that are kept, the one used longest ago closed first: each has its own copy of the authorities, near 1 MiB.
CAPACITY = 100
#: So many are opened at once: it takes a thread for 30 ms, of those that look up everyone's names, too.
OPENING = 2

OpenWire = Callable[[Contexts], Wire]

#: By event loop, since each test event and each challenge has a client of its own.
_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class _Pool:
    """One endpoint's connections under one certificate."""

    def __init__(self, identity: ClientIdentity, opening: "asyncio.Task[Wire]") -> None:
        self.identity = identity
        self.opening = opening
        self.users = 0
        self.dropped = False


class Identities:
    """The pools of one client, opened when they are first needed."""

    def __init__(self, trust: Trust, open_wire: OpenWire) -> None:
        self._trust, self._open_wire = trust, open_wire
        self._pools: OrderedDict[str, _Pool] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self._turns = _TURNS.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(OPENING))

    async def post(
        self,
        credentials: Credentials,
        identity: ClientIdentity,
        url: URL,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        """As `Wire.post`, over connections of this endpoint and certificate only; those of an earlier one are closed.

        Raises what that raises, and `ssl.SSLError` where the certificate cannot be used.
        """
        pool = self._pool(credentials.endpoint_id, identity)
        pool.users += 1
        try:
            # Whoever stops waiting stops nobody else.
            wire = await asyncio.shield(pool.opening)
            return await wire.post(url, headers, body)
        finally:
            pool.users -= 1
            if pool.dropped and not pool.users:
                self._close(pool)

    async def close(self) -> None:
        """Closes every connection."""
        while self._pools:
            self._drop(next(iter(self._pools)))
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _pool(self, endpoint_id: str, identity: ClientIdentity) -> _Pool:
        pool = self._pools.get(endpoint_id)
        if pool is not None and pool.identity == identity and not _failed(pool.opening):
            self._pools.move_to_end(endpoint_id)
            return pool
        if pool is not None:
            self._drop(endpoint_id)
        elif len(self._pools) >= CAPACITY:
            self._drop(next(iter(self._pools)))
        pool = self._pools[endpoint_id] = _Pool(identity, asyncio.create_task(self._open(identity)))
        return pool

    async def _open(self, identity: ClientIdentity) -> Wire:
        async with self._turns:
            context = await asyncio.to_thread(self._trust.context_for, identity)

        def shown() -> ssl.SSLContext:
            return context

        return self._open_wire(shown)

    def _drop(self, endpoint_id: str) -> None:
        pool = self._pools.pop(endpoint_id)
        pool.dropped = True
        if not pool.users:
            self._close(pool)

    def _close(self, pool: _Pool) -> None:
        async def close() -> None:
            wire = await pool.opening
            await wire.close()

        closing = asyncio.create_task(close())
        self._closing.add(closing)
        closing.add_done_callback(self._closed)

    def _closed(self, closing: "asyncio.Task[None]") -> None:
        self._closing.discard(closing)
        if not closing.cancelled():
            # Seen: a pool that never opened said so to whoever asked for it.
            closing.exception()


def _failed(opening: "asyncio.Task[Wire]") -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)

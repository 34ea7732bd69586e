"""Several hosts in one URL: which of them takes writes is found out at each connection, in the time for each."""

from collections.abc import Sequence
from typing import Any

import asyncpg

#: What one host says, or doesn't, that another may say otherwise: it is down, starting, silent or a standby.
_NEXT = (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)


class Hosts:
    """Makes connections for one engine. The host that took writes last is asked first, the others in their order.

    The driver asks all of them within one timeout, which the first uses up if its network swallows everything.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._last: tuple[str, int] | None = None

    async def connect(self, *, host: Sequence[str], port: Sequence[int], **arguments: Any) -> Any:
        """A connection to the first host that takes writes. Raises what the last of them failed with."""
        addresses = sorted(zip(host, port, strict=True), key=lambda address: address != self._last)
        failure: BaseException = ConnectionError("the URL names no host")
        for address in addresses:
            try:
                connection = await asyncpg.connect(
                    host=address[0],
                    port=address[1],
                    timeout=self._patience_s / len(addresses),
                    target_session_attrs="read-write",
                    **arguments,
                )
            except _NEXT as error:
                failure = error
            else:
                self._last = address
                return connection
        raise failure

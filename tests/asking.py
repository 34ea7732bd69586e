"""Asking again and again until it is so: for what tells nobody when it comes about, such as a row in a database."""

import asyncio
from collections.abc import Awaitable, Callable

#: How long something hoped for may take to come about, and how often it is asked for, in seconds.
PATIENCE_S = 25.0
EVERY_S = 0.02


async def until(is_so: Callable[[], Awaitable[object]], *, patience_s: float = PATIENCE_S) -> None:
    """Returns as soon as the answer is true. Raises `TimeoutError` when it does not come to be."""
    async with asyncio.timeout(patience_s):
        while not await is_so():  # noqa: ASYNC110 - what is asked has no event
            await asyncio.sleep(EVERY_S)

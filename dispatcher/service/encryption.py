"""A change of the key that encrypts secrets at rest: what is stored follows, online, and can be asked about."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from sqlalchemy import Column
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import Conflict
from dispatcher.service.models import EncryptionRotation
from dispatcher.store import reencryption
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from dispatcher.store.keyring import KeyRing

#: How often everything is gone over, where others go on to encrypt with an older key meanwhile.
_ROUNDS = 3
_BEFORE_ALL = -1


async def rotate_encryption(
    deployment: Deployment, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> EncryptionRotation:
    """Brings everything that is sealed under the first key of the ring, beside dispatchers and producers at work.

    In small transactions, so that it can be ended at any time and begun again. `on_progress` is told after each how
    many values are done, of how many. Raises `Conflict` where a living dispatcher lacks that key: it could not decrypt
    what it then finds.
    """
    database, keyring = deployment.database, deployment.keyring
    async with database.read() as connection:
        lacking = await reencryption.without_key(connection, database, keyring.key_ids[0])
        _, waiting, _ = await under_other_keys(connection, database, keyring)
    if lacking:
        raise Conflict(
            f"{', '.join(lacking)} did not start with the first key of DISPATCHER_SECRET_KEY, and could not decrypt"
            " what is brought under it; restart it with that key in its list, then run this again"
        )
    done = 0
    for _ in range(_ROUNDS):
        moved = 0
        for column in reencryption.sealed_columns(database.tables):
            # First what nobody holds, many at a time; then what was passed over, one by one.
            for waits in (False, True):
                async for count in _rewrap(database, column, keyring, waits=waits):
                    moved += count
                    on_progress(done + moved, max(waiting, done + moved))
        done += moved
        if not moved:
            break
    async with database.read() as connection:
        total, remaining, unreadable = await under_other_keys(connection, database, keyring)
    return EncryptionRotation(
        key_id=keyring.key_ids[0].hex(), total=total, rewrapped=done, remaining=remaining, unreadable=unreadable
    )


async def under_other_keys(connection: AsyncConnection, database: Database, keyring: KeyRing) -> tuple[int, int, int]:
    """How many values are sealed, how many of them not under the first key, and how many under none of the ring."""
    total, old = await _count(connection, database, keyring.key_ids[:1])
    _, foreign = await _count(connection, database, keyring.key_ids)
    return total, old, foreign


async def _count(connection: AsyncConnection, database: Database, key_ids: tuple[bytes, ...]) -> tuple[int, int]:
    counts = [
        await reencryption.count(connection, column, key_ids) for column in reencryption.sealed_columns(database.tables)
    ]
    return sum(total for total, _ in counts), sum(foreign for _, foreign in counts)


async def _rewrap(database: Database, column: Column[Any], keyring: KeyRing, *, waits: bool) -> AsyncIterator[int]:
    after_row: int | None = _BEFORE_ALL
    while after_row is not None:
        async with database.begin() as connection:
            batch = await reencryption.rewrap_batch(connection, column, keyring, after_row, waits=waits)
        after_row = batch.last_row
        yield batch.done

"""What PostgreSQL says was read, so that a test can see what a hot statement goes through."""

from sqlalchemy import text

from dispatcher.store.hot import HotStore
from dispatcher.store.postgres.connection import Role
from tests.outpost import Outpost

_TELL = "SELECT pg_stat_force_next_flush()"


async def tell_what_was_read(store: HotStore) -> None:
    """Has the store's sessions tell the server's statistics what they have read so far."""
    for role in [role for role in vars(store).values() if isinstance(role, Role)]:
        await role.run(lambda driver: driver.execute(_TELL))


async def rows_read(outpost: Outpost, store: HotStore) -> dict[str, int]:
    """Rows that were read so far: by index, and by table where that was read from end to end."""
    await tell_what_was_read(store)
    async with outpost.database.begin() as connection:
        # What the test itself has read; else it would come to light at any time later.
        await connection.execute(text(_TELL))
    async with outpost.database.read() as connection:
        rows = await connection.execute(
            text(
                "SELECT relname, seq_tup_read FROM pg_stat_user_tables"
                " UNION ALL SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes"
            )
        )
        return {row[0]: row[1] for row in rows}

"""Retaining: what is old is deleted, and the attempt log gets its partitions, so that the tables stay small."""

from datetime import timedelta

from dispatcher.engine.schedule import STEPS
from dispatcher.store import retention
from dispatcher.store.deployment import Deployment
from dispatcher.store.partitions import create_partitions


class Retaining:
    """Keeps a deployment's tables small."""

    def __init__(self, deployment: Deployment) -> None:
        self._clock = deployment.clock
        self._database = deployment.database
        self._retention = deployment.settings.retention
        self._dead_letter_retention = deployment.settings.dead_letter_retention
        self._cursor = 0

    async def retire_secrets(self) -> None:
        """Forgets secrets whose overlap has ended."""
        async with self._database.begin() as connection:
            await retention.drop_retired_secrets(connection, self._database)

    async def retain(self) -> None:
        """Deletes what is older than the retention, a few batches at a time."""
        database, now = self._database, self._clock.now()
        before = now - self._retention
        for _ in range(STEPS):
            async with database.begin() as connection:
                self._cursor = await retention.drop_events(connection, database, before, self._cursor)
            if not self._cursor:
                break
        async with database.begin() as connection:
            await retention.drop_dead_letters(connection, database, now - self._dead_letter_retention)
            await retention.drop_jobs(connection, database, before)
            await retention.drop_endpoints(connection, database, before)
            await retention.drop_runs(connection, database, before)
            if database.dialect == "postgresql":
                await connection.run_sync(
                    lambda sync: retention.drop_attempts(sync, database.tables, (before - timedelta(days=1)).date())
                )

    async def make_partitions(self) -> None:
        """PostgreSQL: makes the attempt log's partitions of the days to come."""
        if self._database.dialect == "postgresql":
            async with self._database.begin() as connection:
                await connection.run_sync(
                    lambda sync: create_partitions(sync, self._database.tables, self._clock.now().date())
                )

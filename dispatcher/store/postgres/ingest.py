"""Ingest on PostgreSQL: one statement for all events that gathered, which is its own transaction where it can be."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

import asyncpg

from dispatcher.store.ingest import Answer, Apart, Group, Held, Key, Stored, answers, in_order, refused
from dispatcher.store.postgres.connection import Driver, committed
from dispatcher.store.tables import Tables

#: What the event brings about, and no other beside it.
REFUSALS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.ProgramLimitExceededError)


#: How long a transaction of somebody else's may hold all who publish up, and each of them once they are stored apart.
LOCK_MS = 1000
LOCK_APART_MS = 100


class Ingest:
    """The statements of the ingest, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name("events")
        self._insert = f"""
            INSERT INTO {name} (id, tenant, type, data, job_id, kind, timestamp, traceparent, created_at)
            SELECT id, tenant, type, data, job_id, kind, COALESCE(at, $9, clock_timestamp()), traceparent,
                   COALESCE($9, clock_timestamp())
            FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                        $8::text[]) AS e(id, tenant, type, data, job_id, kind, at, traceparent)
            ON CONFLICT (tenant, id) DO NOTHING RETURNING tenant, id, created_at, row_id
        """
        self._there = f"""
            SELECT e.tenant, e.id, e.type, e.job_id, e.kind, e.data, e.timestamp, e.created_at
            FROM unnest($1::text[], $2::text[]) AS k(tenant, id) JOIN {name} e ON e.tenant = k.tenant AND e.id = k.id
        """

    async def together(
        self, driver: Driver, groups: Sequence[Group], now: datetime | None
    ) -> tuple[list[Answer], list[int]]:
        """All groups in one go, with the rows of the events that are new; in the caller's transaction, or in none where
        all of them are `independent`.

        Raises `Apart`, `Held`, and what a bad event makes of all.
        """
        events = in_order(groups)
        try:
            rows = await driver.fetch(
                self._insert,
                [event.id for event in events],
                [event.tenant for event in events],
                [event.type for event in events],
                [event.data for event in events],
                [event.job_id for event in events],
                [event.kind for event in events],
                [event.timestamp for event in events],
                [event.traceparent for event in events],
                now,
            )
        except asyncpg.LockNotAvailableError as error:
            raise Held from error
        created = {(tenant, event_id): created_at for tenant, event_id, created_at, _ in rows}
        there: dict[Key, Stored] = {}
        if len(created) < len(events):
            # Of a repeated id something else may be stored, or be among these very events.
            keys = sorted({event.key for event in events if event.repeatable or event.key not in created})
            found = await driver.fetch(self._there, [tenant for tenant, _ in keys], [event_id for _, event_id in keys])
            there = {(row[0], row[1]): Stored(*row[2:]) for row in found}
        return answers(groups, created, there), [row[3] for row in rows]

    async def apart(
        self, driver: Driver, groups: Sequence[Group], now: datetime | None
    ) -> tuple[list[Answer], list[int]]:
        """Each group in a savepoint of the caller's transaction: what is wrong with one leaves the others."""
        result: list[Answer] = []
        new: list[int] = []
        await driver.execute(f"SET LOCAL lock_timeout = {LOCK_APART_MS}")
        for group in groups:
            try:
                made, rows = await committed(driver, partial(self.together, groups=[group], now=now))
                result += made
                new += rows
            except Apart as found:
                result.append(found.conflict)
            except Held as held:
                result.append(held)
            except REFUSALS as error:
                result.append(refused(error))
        return result, new

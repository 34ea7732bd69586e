"""Ingest on PostgreSQL: one statement for all events that gathered, which is its own transaction where it can be."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg

from dispatcher.store.ingest import Answer, Apart, Group, Held, Key, Stored, answers, in_order, refused
from dispatcher.store.postgres.connection import Driver, committed, texts
from dispatcher.store.postgres.fan_out import TAKEN
from dispatcher.store.tables import Tables

#: What the event brings about, and no other beside it.
REFUSALS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.ProgramLimitExceededError)


#: As parameters, what `_columns` makes of events; `unnest` takes them.
_EVENTS = (
    "$1::text::text[], $2::text::text[], $3::text::text[], $4::text[], $5::text::text[], $6::text::text[],"
    " $7::timestamptz[], $8::text::text[]"
)

#: How long a transaction of somebody else's may hold all who publish up, and each of them once they are stored apart.
LOCK_MS = 1000
LOCK_APART_MS = 100


class Ingest:
    """The statements of the ingest, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name("events")
        insert = f"""
            INSERT INTO {name} (id, tenant, type, data, job_id, kind, timestamp, traceparent, created_at)
            SELECT id, tenant, type, data, job_id, kind, COALESCE(at, {{now}}), traceparent, {{now}}
            FROM unnest({{events}}) AS e(id, tenant, type, data, job_id, kind, at, traceparent)
            ON CONFLICT (tenant, id) DO NOTHING RETURNING tenant, id, created_at, row_id
        """
        self._insert = insert.format(
            now="COALESCE($9, clock_timestamp())",
            events=_EVENTS,
        )
        stored = insert.format(
            now="COALESCE(at_time, clock_timestamp())",
            events="ids, tenants, types, datas, job_ids, kinds, moments, traceparents",
        )
        # What is stored, and what waits before it, is taken from the queue in the same round trip.
        self.setup = f"""
            CREATE OR REPLACE FUNCTION pg_temp.dispatcher_store_and_take(
                ids text[], tenants text[], types text[], datas text[], job_ids text[], kinds text[],
                moments timestamptz[], traceparents text[], at_time timestamptz,
                before int, last_tenant text, marked_tenants text[], marked_rows bigint[])
            RETURNS SETOF record LANGUAGE plpgsql AS $body$
            DECLARE new_tenants text[]; new_ids text[]; new_moments timestamptz[]; new_rows bigint[];
            BEGIN
                WITH stored AS ({stored})
                SELECT array_agg(s.tenant), array_agg(s.id), array_agg(s.created_at), array_agg(s.row_id)
                INTO new_tenants, new_ids, new_moments, new_rows FROM stored s;
                RETURN QUERY SELECT new_tenants, new_ids, new_moments, new_rows, t.*
                FROM pg_temp.dispatcher_take(COALESCE(cardinality(new_rows), 0) + before, last_tenant,
                                             marked_tenants, marked_rows) AS t({TAKEN});
            END $body$
        """
        self._store_and_take = f"""
            SELECT * FROM pg_temp.dispatcher_store_and_take({_EVENTS}, $9, $10, $11, $12, $13)
            AS t(new_tenants text[], new_ids text[], new_moments timestamptz[], new_rows bigint[], {TAKEN})
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
        try:
            rows = await driver.fetch(self._insert, *_columns(groups), now)
        except asyncpg.LockNotAvailableError as error:
            raise Held from error
        return await self.answers(driver, groups, {row[:2]: row[2] for row in rows}), [row[3] for row in rows]

    async def together_and_take(
        self, driver: Driver, groups: Sequence[Group], now: datetime | None, taking: Sequence[object]
    ) -> tuple[list[Answer], list[int], Sequence[Any]]:
        """As `together`, in the caller's transaction; and what fan-out's `dispatcher_take`, called with `taking`, takes
        from the queue: so many events that were there before, and these.
        """
        rows = await driver.fetch(self._store_and_take, *_columns(groups), now, *taking)
        tenants, ids, moments, new = (column or () for column in rows[0][:4])
        created = dict(zip(zip(tenants, ids, strict=True), moments, strict=True))
        return await self.answers(driver, groups, created), list(new), [row[4:] for row in rows]

    async def answers(self, driver: Driver, groups: Sequence[Group], created: Mapping[Key, datetime]) -> list[Answer]:
        """What each group comes to, given what was inserted and when. Raises `Apart`."""
        events = in_order(groups)
        there: dict[Key, Stored] = {}
        if len(created) < len(events):
            # Of a repeated id something else may be stored, or be among these very events.
            keys = sorted({event.key for event in events if event.repeatable or event.key not in created})
            found = await driver.fetch(self._there, [tenant for tenant, _ in keys], [event_id for _, event_id in keys])
            there = {(row[0], row[1]): Stored(*row[2:]) for row in found}
        return answers(groups, created, there)

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


def _columns(groups: Sequence[Group]) -> tuple[object, ...]:
    events = in_order(groups)
    moments = [event.timestamp for event in events]
    return (
        texts([event.id for event in events]),
        texts([event.tenant for event in events]),
        texts([event.type for event in events]),
        [event.data for event in events],
        texts([event.job_id for event in events]),
        texts([event.kind for event in events]),
        moments if any(moments) else [],
        texts([event.traceparent for event in events]),
    )

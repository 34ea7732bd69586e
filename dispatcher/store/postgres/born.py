"""Born in flight: events stored by one statement with their deliveries claimed, where nothing speaks against it.

What it makes is what storing, fanning out and claiming would have made; whatever is not plain goes that way.
"""

from collections.abc import Sequence
from datetime import datetime

from dispatcher.rules.new_events import NewEvent
from dispatcher.store.hot import Limits
from dispatcher.store.ingest import Group, Ingested, Straight, in_order, independent
from dispatcher.store.postgres.bearer import Bearer
from dispatcher.store.postgres.bearing import Events
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.ingest import Ingest
from dispatcher.store.tables import FANNED_OUT, QUIET, Tables

#: The years whose moments every driver reads, with a day to spare at either end.
_YEARS = range(2, 9999)


class Born:
    """The statement, for one set of tables."""

    def __init__(self, tables: Tables, limits: Limits, ingest: Ingest, *, source: str) -> None:
        name = tables.name
        self._ingest = ingest
        # What waits in the queue goes first.
        alone = f"(SELECT event_row FROM {name('fanout_queue')} ORDER BY tenant, event_row LIMIT 1) IS NULL"
        store = f"""
            INSERT INTO {name("events")} (id, tenant, type, data, kind, timestamp, traceparent, created_at)
            SELECT e.id, e.tenant, e.type, e.data, e.kind, COALESCE(e.at, at_time), e.traceparent, at_time
            FROM unnest(ids, tenants, types, datas, kinds, moments, traceparents)
                 AS e(id, tenant, type, data, kind, at, traceparent)
            WHERE EXISTS (SELECT FROM {name("dispatchers")} me
                          WHERE me.row_id = claimer AND me.leased_until > at_time)
            ON CONFLICT (tenant, id) DO NOTHING RETURNING row_id, id
        """
        self._bearer = Bearer(
            tables,
            limits,
            Events(
                function="dispatcher_bear",
                given=(
                    "ids text[]",
                    "tenants text[]",
                    "types text[]",
                    "datas text[]",
                    "kinds text[]",
                    "moments timestamptz[]",
                    "traceparents text[]",
                ),
                alone=alone,
                first="",
                before=f"PERFORM set_config('{QUIET}', '{FANNED_OUT}', true);",
                keep=store,
                number="array_position(ids, found_one.id)",
            ),
            source=source,
        )
        self.setup = self._bearer.setup

    async def run(
        self, driver: Driver, groups: Sequence[Group], straight: Straight, dispatcher_row: int, now: datetime | None
    ) -> Ingested | None:
        """Stores the events with their deliveries in a transaction of its own; null, and nothing is stored, where they
        are not plain: of a job, not independent, or for an endpoint that is to wait.

        Raises what a bad event makes of all.
        """
        events = in_order(groups)
        if self._bearer.rest.now or not _plain(events) or not independent(groups):
            return None
        brought = await self._bearer.run(
            driver,
            events,
            (
                [event.id for event in events],
                [event.tenant for event in events],
                [event.type for event in events],
                [event.data for event in events],
                [event.kind for event in events],
                [event.timestamp for event in events],
                [event.traceparent for event in events],
            ),
            straight,
            dispatcher_row,
            now,
        )
        if brought is None:
            return None
        return Ingested(
            await self._ingest.answers(driver, groups, {event.key: brought.at for event in brought.kept.values()}),
            list(brought.kept),
            brought.fanned_out(),
        )


def _plain(events: Sequence[NewEvent]) -> bool:
    """Whether these may be born in flight, for all that can be said without the database."""
    return len({event.id for event in events}) == len(events) and all(
        event.job_id is None and (event.timestamp is None or event.timestamp.year in _YEARS) for event in events
    )

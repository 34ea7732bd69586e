"""Deliveries that are born in flight on PostgreSQL: what `bearing` is given, and what it comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dispatcher.rules.event_types import patterns_for
from dispatcher.rules.new_events import NewEvent
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.hot import FannedOut, Limits
from dispatcher.store.ingest import Straight
from dispatcher.store.postgres.bearing import PARAMETERS, RESULT, Events, bearing
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.marks import Rest
from dispatcher.store.tables import Tables


@dataclass(frozen=True, slots=True)
class Brought:
    """What was born: by row the events that were kept, and when; and their deliveries."""

    kept: Mapping[int, NewEvent]
    at: datetime
    claimed: Sequence[Claimed]

    def fanned_out(self) -> FannedOut:
        """The same, as a fan-out tells it."""
        return FannedOut(
            len(self.kept),
            len(self.claimed),
            rows=frozenset(self.kept),
            ids=[event.id for event in self.kept.values()],
            claimed=ClaimedBatch(self.claimed) if self.claimed else None,
        )


class InTheWay(Exception):
    """Somebody else is at these events; nothing has changed."""


class Bearer:
    """Bears what comes of events from one source."""

    def __init__(self, tables: Tables, limits: Limits, events: Events, *, source: str) -> None:
        self._limits = limits
        self._source = source
        self.rest = Rest()
        self.setup = bearing(tables.name, events)
        marks = ", ".join(f"${number}" for number in range(1, len(events.given) + len(PARAMETERS) + 1))
        self._bear = f"SELECT * FROM pg_temp.{events.function}({marks}) AS t({RESULT})"

    async def run(
        self,
        driver: Driver,
        events: Sequence[NewEvent],
        given: Sequence[object],
        straight: Straight,
        dispatcher_row: int,
        now: datetime | None,
        created_at: Sequence[datetime] = (),
    ) -> Brought | None:
        """Bears the deliveries of these events, for which `given` stands, in a transaction of its own; null, and
        nothing has changed, where something speaks against it. `created_at`: of each, where that is not now.

        Raises `InTheWay`.
        """
        wanted = [
            (number, event.tenant, pattern)
            for number, event in enumerate(events, 1)
            for pattern in patterns_for(event.type)
        ]
        rows = await driver.fetch(
            self._bear,
            *given,
            now,
            [number for number, _, _ in wanted],
            [tenant for _, tenant, _ in wanted],
            [pattern for _, _, pattern in wanted],
            straight.most,
            self._limits.per_endpoint,
            self._limits.per_destination,
            self._limits.per_process,
            dispatcher_row,
            [row for row, _ in straight.ended],
            [attempt for _, attempt in straight.ended],
            self._source,
        )
        if not rows:
            raise InTheWay
        looked_s, at, kept, kept_rows = rows[0][:4]
        self.rest.took(looked_s)
        if not kept_rows:
            return None
        by_row = {
            row: (events[number - 1], created_at[number - 1] if created_at else at)
            for row, number in zip(kept_rows, kept, strict=True)
        }
        return Brought(
            {row: event for row, (event, _) in by_row.items()},
            at,
            [_claimed(row[4:], *by_row[row[5]], dispatcher_row) for row in rows if row[4] is not None],
        )


def _claimed(row: Sequence[Any], event: NewEvent, created_at: datetime, dispatcher_row: int) -> Claimed:
    delivery_row, _, endpoint_row, version, body_profile, destination_row = row
    return Claimed.first(
        delivery_row=delivery_row,
        endpoint_row=endpoint_row,
        endpoint_version=version,
        dispatcher_row=dispatcher_row,
        body_profile=body_profile,
        event_id=event.id,
        event_type=event.type,
        # As the database would say it.
        timestamp=created_at if event.timestamp is None else event.timestamp.astimezone(UTC),
        created_at=created_at,
        traceparent=event.traceparent,
        data=event.data,
        destination_row=destination_row,
    )

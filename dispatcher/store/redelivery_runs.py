"""Bulk redeliveries, step by step: what is done is in the database, so a restart goes on where it stopped."""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.states import RunState
from dispatcher.store.database import Database
from dispatcher.store.hot import CLOCK_SLACK_S
from dispatcher.store.transitions import put_back

#: Deliveries put back in one transaction.
BATCH = 200
#: A run that was not stepped for longer makes up for no more than this and one delivery, in seconds.
SAVED_UP_S = 2.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of a run did."""

    put_back: int
    skipped: int
    finished: bool
    #: The rate allows nothing more just now.
    throttled: bool


def any_running(database: Database, _: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that a run is not done."""
    runs = database.tables.redeliveries.c
    return exists(select(runs.row_id).where(runs.state == RunState.RUNNING))


async def running(connection: AsyncConnection, database: Database) -> list[int]:
    """The runs that are not done."""
    runs = database.tables.redeliveries.c
    rows = await connection.execute(select(runs.row_id).where(runs.state == RunState.RUNNING).order_by(runs.row_id))
    return list(rows.scalars())


async def step(connection: AsyncConnection, database: Database, run_row: int) -> Step:
    """Puts the next deliveries of a run back, as many as its rate allows, in publish order."""
    runs, items = database.tables.redeliveries, database.tables.redelivery_items
    now = (await connection.execute(select(database.now()))).scalar_one()
    run = (
        await connection.execute(
            select(runs).where(runs.c.row_id == run_row, runs.c.state == RunState.RUNNING).with_for_update()
        )
    ).one_or_none()
    if run is None:
        return Step(0, 0, finished=True, throttled=False)
    rate, saved_s = run.rate_per_s, (now - (run.stepped_at or run.created_at)).total_seconds()
    if saved_s < -CLOCK_SLACK_S:
        # The clock was set back: nobody waits until it is again as late as it was.
        saved_s = SAVED_UP_S + (1 / rate if rate else 0)
    # A rate of less than one a second is saved up for longer, until it is one.
    if rate is not None and rate * saved_s > 1:
        saved_s = min(saved_s, SAVED_UP_S + 1 / rate)
    earned = BATCH if rate is None else math.floor(rate * max(0.0, saved_s))
    allowed = min(BATCH, earned)
    if allowed == 0:
        return Step(0, 0, finished=False, throttled=True)
    next_items = (
        await connection.execute(
            select(items.c.event_row, items.c.endpoint_row)
            .where(items.c.redelivery_row == run_row, items.c.put_back.is_(False))
            .order_by(items.c.event_row, items.c.endpoint_row)
            .limit(allowed)
        )
    ).all()
    pairs = [(row.event_row, row.endpoint_row) for row in next_items]
    done = skipped = 0
    if pairs:
        results = await put_back(connection, database, pairs, newest_only=True)
        done = sum(result.outcome == "put_back" for result in results)
        skipped = len(results) - done
        attempts = {(r.event_row, r.endpoint_row): r.attempts for r in results if r.outcome == "put_back"}
        here = items.c.redelivery_row == run_row
        await connection.execute(
            update(items).where(here, tuple_(items.c.event_row, items.c.endpoint_row).in_(pairs)).values(put_back=True)
        )
        for count in set(attempts.values()):
            chosen = [pair for pair, made in attempts.items() if made == count]
            await connection.execute(
                update(items)
                .where(here, tuple_(items.c.event_row, items.c.endpoint_row).in_(chosen))
                .values(attempts_before=count)
            )
    finished = len(pairs) < allowed
    await connection.execute(
        update(runs)
        .where(runs.c.row_id == run_row)
        .values(
            done=runs.c.done + done,
            skipped=runs.c.skipped + skipped,
            stepped_at=now if rate is None else now - timedelta(seconds=saved_s - allowed / rate),
            state=RunState.DONE if finished else RunState.RUNNING,
            finished_at=now if finished else None,
        )
    )
    return Step(done, skipped, finished, throttled=rate is not None and allowed == earned)

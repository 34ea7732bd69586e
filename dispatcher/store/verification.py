"""Proof of control in rows: which endpoints are to be challenged when, and which of them have answered.

An endpoint that must prove it is paused and has no `verified_at`; `awaits_proof` says that nobody else has paused it.
While it is to be challenged by itself it has a `challenge_due_at`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.states import EndpointStatus
from dispatcher.store.database import Database
from dispatcher.store.duty_rows import later
from dispatcher.store.hot import CLOCK_SLACK_S

#: A challenge that is not answered is repeated after so long, three times as long after each, an hour at most; so often
#: in all, which is about a day.
FIRST_S = 10.0
LONGEST_S = 3600.0
CHALLENGES = 30
#: Endpoints challenged in one step, and of them at one destination.
AT_ONCE = 50
AT_ONE_DESTINATION = 5
#: So many that are due are looked at in one step. Where it has that many, what a destination has beyond its share waits
#: for so long.
LOOKED_AT = 1000
LOOKED_AGAIN_S = 60.0

# Written as its partial index is declared: a parameter in place of a word would hide the index from the planner.
_TO_CHALLENGE = "challenge_due_at IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Due:
    """Which endpoints are to be challenged now, and which callbacks were often enough."""

    challenge: Sequence[int]
    given_up: Sequence[int]


def due(database: Database, now: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that an endpoint is to be challenged."""
    e = database.tables.endpoints.c
    return exists(select(e.row_id).where(text(_TO_CHALLENGE), e.challenge_due_at <= now))


async def take_due(connection: AsyncConnection, database: Database, rate: float, at_most: int = AT_ONCE) -> Due:
    """Takes so many of those that are due, and puts their next challenge off; of one that was challenged often enough
    there is none.

    To one destination no more go than its `rate` a second for what it has not asked for allows; it is spent.
    """
    endpoints = database.tables.endpoints
    e, d = endpoints.c, database.tables.destinations.c
    found = await connection.execute(
        select(e.row_id, e.destination_row, e.challenges, e.job_id, e.status, e.deleted_at, *_bucket(database))
        .join_from(endpoints, database.tables.destinations, d.row_id == e.destination_row)
        .where(text(_TO_CHALLENGE), e.challenge_due_at <= database.now())
        .order_by(e.challenge_due_at)
        .limit(LOOKED_AT)
    )
    rows = found.all()
    taken: list[Any] = []
    crowding, room = [], dict[int, int]()
    for row in rows:
        there = row.destination_row
        left = room.setdefault(there, min(AT_ONE_DESTINATION, floor(_tokens(row, rate))))
        if _is_asked(row) and left <= 0:
            crowding.append(row.row_id)
            continue
        room[there] = left - _is_asked(row)
        if len(taken) < at_most:
            taken.append(row)
    granted = await _spend(connection, database, Counter(row.destination_row for row in taken if _is_asked(row)), rate)
    if crowding and len(rows) == LOOKED_AT:
        # Others may wait behind those of a few destinations.
        await connection.execute(
            update(endpoints).where(e.row_id.in_(crowding)).values(challenge_due_at=later(database, LOOKED_AGAIN_S))
        )
    challenge, given_up = [], []
    for row in taken:
        next_at: ColumnElement[object] | None = None
        if _is_asked(row):
            granted[row.destination_row] -= 1
            if granted[row.destination_row] < 0:
                # A claim was faster: it is due still.
                continue
            challenge.append(row.row_id)
            next_at = later(database, min(FIRST_S * 3.0**row.challenges, LONGEST_S))
        elif _goes_on(row) and row.job_id is not None:
            given_up.append(row.row_id)
            # Should it not be disabled now, it is looked at again; disabled, it has no next time.
            next_at = later(database, LONGEST_S)
        await connection.execute(
            update(endpoints)
            .where(e.row_id == row.row_id)
            .values(challenge_due_at=next_at, challenges=e.challenges + 1)
        )
    return Due(challenge, given_up)


async def may_challenge(connection: AsyncConnection, database: Database, destination_row: int, rate: float) -> bool:
    """Whether one more challenge may go to a destination now, of `rate` a second that strangers' URLs may cause there;
    spends it.
    """
    return (await _spend(connection, database, {destination_row: 1}, rate))[destination_row] == 1


def _goes_on(row: Any) -> bool:
    return bool(row.status == EndpointStatus.PAUSED and row.deleted_at is None)


def _is_asked(row: Any) -> bool:
    """Whether it is challenged once more."""
    return _goes_on(row) and row.challenges < CHALLENGES


def _bucket(database: Database) -> tuple[ColumnElement[Any], ...]:
    d = database.tables.destinations.c
    return d.tokens, d.tokens_at, database.now().label("now")


def _tokens(row: Any, rate: float) -> float:
    """What a destination has left, as the claim counts the callbacks of jobs, with which it is shared."""
    most = max(rate, 1.0)
    if row.tokens is None or row.tokens_at is None:
        return most
    elapsed_s = (row.now - row.tokens_at).total_seconds()
    # The clock was set back: nobody waits until it is again as late as it was.
    return most if elapsed_s < -CLOCK_SLACK_S else min(most, float(row.tokens) + rate * max(0.0, elapsed_s))


async def _spend(
    connection: AsyncConnection, database: Database, wanted: Mapping[int, int], rate: float
) -> Counter[int]:
    """Spends so many tokens of each destination, or those that there are; how many."""
    d = database.tables.destinations.c
    granted = Counter[int]()
    if not wanted:
        return granted
    found = await connection.execute(
        select(d.row_id, *_bucket(database))
        .where(d.row_id.in_(list(wanted)))
        .order_by(d.row_id)
        .with_for_update(key_share=True)
    )
    for row in found.all():
        tokens = _tokens(row, rate)
        granted[row.row_id] = min(wanted[row.row_id], floor(tokens))
        if granted[row.row_id]:
            await connection.execute(
                update(database.tables.destinations)
                .where(d.row_id == row.row_id)
                .values(tokens=tokens - granted[row.row_id], tokens_at=database.now())
            )
    return granted


async def verify(connection: AsyncConnection, database: Database, endpoint_row: int, version: int) -> bool:
    """Notes that an endpoint has proved it; False if it was changed since. Paused → enabled where it waited for that
    alone.
    """
    e = database.tables.endpoints.c
    proved = await connection.execute(
        update(database.tables.endpoints)
        .where(e.row_id == endpoint_row, e.version == version, e.deleted_at.is_(None))
        .values(
            verified_at=database.now(),
            awaits_proof=False,
            challenge_due_at=None,
            status=case(
                (and_(e.status == EndpointStatus.PAUSED, e.awaits_proof), EndpointStatus.ENABLED.value),
                else_=e.status,
            ),
            version=e.version + 1,
            updated_at=database.now(),
        )
        .returning(e.row_id)
    )
    return proved.scalar() is not None

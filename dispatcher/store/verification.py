"""Proof of control in rows: which endpoints are to be challenged when, and which of them have answered.

An endpoint that must prove it is paused and has no `verified_at`; while it is to be challenged by itself it has a
`challenge_due_at`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.states import EndpointStatus
from dispatcher.store.database import Database
from dispatcher.store.duty_rows import later

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


async def due(connection: AsyncConnection, database: Database) -> bool:
    """Whether an endpoint is to be challenged."""
    e = database.tables.endpoints.c
    found = select(e.row_id).where(text(_TO_CHALLENGE), e.challenge_due_at <= database.now()).limit(1)
    return (await connection.execute(found)).first() is not None


async def take_due(connection: AsyncConnection, database: Database, at_most: int = AT_ONCE) -> Due:
    """Takes so many of those that are due, and puts their next challenge off; of one that was challenged often enough
    there is none.
    """
    endpoints = database.tables.endpoints
    e = endpoints.c
    found = await connection.execute(
        select(e.row_id, e.destination_row, e.challenges, e.job_id, e.status, e.deleted_at)
        .where(text(_TO_CHALLENGE), e.challenge_due_at <= database.now())
        .order_by(e.challenge_due_at)
        .limit(LOOKED_AT)
    )
    rows = found.all()
    taken: list[Any] = []
    crowding, turns = [], Counter[int]()
    for row in rows:
        turns[row.destination_row] += 1
        if turns[row.destination_row] > AT_ONE_DESTINATION:
            crowding.append(row.row_id)
        elif len(taken) < at_most:
            taken.append(row)
    if crowding and len(rows) == LOOKED_AT:
        # Others may wait behind those of a few destinations.
        await connection.execute(
            update(endpoints).where(e.row_id.in_(crowding)).values(challenge_due_at=later(database, LOOKED_AGAIN_S))
        )
    challenge, given_up = [], []
    for row in taken:
        goes_on = row.status == EndpointStatus.PAUSED and row.deleted_at is None
        next_at: ColumnElement[object] | None = None
        if goes_on and row.challenges < CHALLENGES:
            challenge.append(row.row_id)
            next_at = later(database, min(FIRST_S * 3.0**row.challenges, LONGEST_S))
        elif goes_on and row.job_id is not None:
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
    d = database.tables.destinations.c
    row = (
        await connection.execute(
            select(d.tokens, d.tokens_at, database.now().label("now"))
            .where(d.row_id == destination_row)
            .with_for_update()
        )
    ).one()
    most, elapsed_s = max(rate, 1.0), 0.0
    if row.tokens_at is not None:
        elapsed_s = max(0.0, (row.now - row.tokens_at).total_seconds())
    # As the claim counts the callbacks of jobs, which it adds to.
    tokens = most if row.tokens is None else min(most, row.tokens + rate * elapsed_s)
    if tokens < 1:
        return False
    await connection.execute(
        update(database.tables.destinations)
        .where(d.row_id == destination_row)
        .values(tokens=tokens - 1, tokens_at=database.now())
    )
    return True


async def verify(
    connection: AsyncConnection, database: Database, endpoint_row: int, version: int, *, resumes: bool
) -> bool:
    """Notes that an endpoint has proved it; False if it was changed since. `resumes`: paused → enabled, where it had
    not proved it before.
    """
    e = database.tables.endpoints.c
    proved = await connection.execute(
        update(database.tables.endpoints)
        .where(e.row_id == endpoint_row, e.version == version, e.deleted_at.is_(None))
        .values(
            verified_at=database.now(),
            challenge_due_at=None,
            status=case(
                (
                    and_(e.status == EndpointStatus.PAUSED, e.verified_at.is_(None), true() if resumes else false()),
                    EndpointStatus.ENABLED.value,
                ),
                else_=e.status,
            ),
            version=e.version + 1,
            updated_at=database.now(),
        )
        .returning(e.row_id)
    )
    return proved.scalar() is not None

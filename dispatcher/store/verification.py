"""Proof of control in rows: which endpoints are to be challenged when, and which of them have answered.

An endpoint that must prove it is paused and has no `verified_at`; while it is to be challenged by itself it has a
`challenge_due_at`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, case, false, func, select, text, true, update
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


async def take_due(connection: AsyncConnection, database: Database) -> Due:
    """Takes those that are due, and puts their next challenge off; of one that was challenged often enough there is
    none.
    """
    endpoints = database.tables.endpoints
    e = endpoints.c
    turn = func.row_number().over(partition_by=e.destination_row, order_by=e.challenge_due_at).label("turn")
    waiting = (
        select(e.row_id, e.challenge_due_at, turn)
        .where(text(_TO_CHALLENGE), e.challenge_due_at <= database.now())
        .subquery()
    )
    rows = select(waiting.c.row_id).where(waiting.c.turn <= AT_ONE_DESTINATION)
    taken = list((await connection.execute(rows.order_by(waiting.c.challenge_due_at).limit(AT_ONCE))).scalars())
    if not taken:
        return Due((), ())
    found = await connection.execute(
        select(e.row_id, e.challenges, e.job_id, e.status, e.deleted_at).where(e.row_id.in_(taken))
    )
    challenge, given_up = [], []
    for row in found.all():
        goes_on = row.status == EndpointStatus.PAUSED and row.deleted_at is None
        if goes_on and row.challenges < CHALLENGES:
            challenge.append(row.row_id)
            delay_s = min(FIRST_S * 3.0**row.challenges, LONGEST_S)
            next_at = later(database, delay_s)
        else:
            next_at = None
            if goes_on and row.job_id is not None:
                given_up.append(row.row_id)
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

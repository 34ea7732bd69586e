"""Outcomes on their way to PostgreSQL: one JSON text for a batch, and what reads it there.

As arrays they cost this process five times as much: the driver asks of each element whether it is an array itself.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.json import Encoder

from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store.hot import Finished

_encode = Encoder().encode


class _Delivered(Struct, frozen=True, omit_defaults=True, gc=False):
    row_id: int
    attempt: int
    dispatcher_row: int
    status: int | None
    started_at: datetime
    duration_ms: float
    excerpt: str = ""


class _Failed(_Delivered, frozen=True, omit_defaults=True, gc=False):
    error: AttemptError | None = None
    state: DeliveryState | None = None
    reason: Reason | None = None
    failures: int | None = None
    interruptions: int | None = None
    delay_s: float | None = None
    hold_s: float | None = None


def _read(columns: str) -> str:
    # What always holds is asked for all the same: it has the planner expect ten rows instead of a hundred, and take
    # the index for each, whatever it believes of the size of `deliveries`.
    return f"SELECT * FROM json_to_recordset($2) AS r({columns}) WHERE row_id > 0 AND dispatcher_row > 0"


_COLUMNS = (
    "row_id bigint, attempt int, dispatcher_row bigint, status int, started_at timestamptz, duration_ms float8,"
    " excerpt text"
)
#: What reads, as the second parameter, that which `delivered_as_json` and `failed_as_json` write.
DELIVERED = _read(_COLUMNS)
FAILED = _read(
    f"{_COLUMNS}, error text, state text, reason text, failures int, interruptions int, delay_s float8, hold_s float8"
)


def delivered_as_json(batch: Sequence[Finished]) -> str:
    """What there is to say of attempts that delivered."""
    rows = [
        _Delivered(f.delivery_row, f.attempt, f.dispatcher_row, f.status, f.started_at, f.duration_ms, f.excerpt)
        for f in batch
    ]
    return _encode(rows).decode()


def failed_as_json(batch: Sequence[Finished]) -> str:
    """What there is to say of the others."""
    rows = [
        _Failed(
            f.delivery_row,
            f.attempt,
            f.dispatcher_row,
            f.status,
            f.started_at,
            f.duration_ms,
            f.excerpt,
            f.error,
            f.state,
            f.reason,
            f.failures,
            f.interruptions,
            f.delay_s,
            f.hold_s,
        )
        for f in batch
    ]
    return _encode(rows).decode()

"""What a claim took: deliveries whose attempts have begun, each with the event it carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Claimed(Struct, frozen=True, gc=False):
    """A delivery whose attempt has begun: claimed for this dispatcher, with the event it carries."""

    delivery_row: int
    endpoint_row: int
    endpoint_version: int
    #: Who claimed it: with the attempt's number the fence around its outcome.
    dispatcher_row: int
    attempt: int
    failures: int
    interruptions: int
    lane: int | None
    sequence: int | None
    previous_sequence: int | None
    late: bool
    replay: bool
    body_profile: str
    event_id: str
    event_type: str
    job_id: str | None
    timestamp: datetime
    created_at: datetime
    traceparent: str | None
    data: str
    #: The job's row if it carries progress of a job.
    progress_of: int | None = None
    destination_row: int = 0
    #: Its destination was unverified or had been failing: what it answers is to be noted.
    watched: bool = False
    #: Why it cannot be sent, and nobody could: its row, or its event's, is not what was written there.
    defect: str | None = None

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Claimed":
        """A row of the claim, its columns in the order of these fields; with a `defect` where it has one.

        What the event lacks, or the driver could not read of it, is null.
        """
        attempt, failures, interruptions = row[4:7]
        event_id, event_type, _, timestamp, created_at, _, data = row[13:20]
        if event_id is None:
            defect = "its event's row is gone"
        elif timestamp is None or created_at is None:
            defect = "its event's timestamp is none"
        elif type(event_type) is not str or type(data) is not str:
            defect = "its event's type or data is no text"
        elif type(attempt) is type(failures) is type(interruptions) is int and (
            attempt > 0 and failures >= 0 and interruptions >= 0
        ):
            return cls(*row)
        else:
            defect = "its row counts no attempts"
        return cls.unreadable(row[0], row[1], row[3], attempt, row[7], row[20], defect)

    @classmethod
    def first(
        cls,
        *,
        delivery_row: int,
        endpoint_row: int,
        endpoint_version: int,
        dispatcher_row: int,
        body_profile: str,
        event_id: str,
        event_type: str,
        timestamp: datetime,
        created_at: datetime,
        traceparent: str | None,
        data: str,
        destination_row: int = 0,
    ) -> "Claimed":
        """The first attempt of a delivery whose event is of no job."""
        return cls(
            delivery_row=delivery_row,
            endpoint_row=endpoint_row,
            endpoint_version=endpoint_version,
            dispatcher_row=dispatcher_row,
            attempt=1,
            failures=0,
            interruptions=0,
            lane=None,
            sequence=None,
            previous_sequence=None,
            late=False,
            replay=False,
            body_profile=body_profile,
            event_id=event_id,
            event_type=event_type,
            job_id=None,
            timestamp=timestamp,
            created_at=created_at,
            traceparent=traceparent,
            data=data,
            destination_row=destination_row,
        )

    @classmethod
    def unreadable(
        cls,
        delivery_row: int,
        endpoint_row: int,
        dispatcher_row: int,
        attempt: int,
        lane: int | None,
        progress_of: int | None,
        defect: str,
    ) -> "Claimed":
        """A claimed delivery of which no more can be said than what its outcome is recorded with."""
        return cls(
            delivery_row=delivery_row,
            endpoint_row=endpoint_row,
            endpoint_version=0,
            dispatcher_row=dispatcher_row,
            attempt=attempt,
            failures=0,
            interruptions=0,
            lane=lane,
            sequence=None,
            previous_sequence=None,
            late=False,
            replay=False,
            body_profile="",
            event_id="",
            event_type="",
            job_id=None,
            timestamp=_LONG_AGO,
            created_at=_LONG_AGO,
            traceparent=None,
            data="",
            progress_of=progress_of,
            defect=defect,
        )


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """What one claim took, and why it took no more."""

    deliveries: Sequence[Claimed]
    #: A limit of this claim ended it: claim again at once.
    limited: bool = False
    #: An endpoint may have more to claim than it has room: claim again when an attempt has ended.
    starved: bool = False
    #: Another dispatcher was claiming for a destination: claim again in a moment.
    contended: bool = False
    #: Endpoints that deliveries wait for and that have no row: nobody can say where to send them.
    homeless: Sequence[int] = ()

"""What a body is made of: the stored event, whichever profile it is sent in."""

from datetime import datetime

from msgspec import Struct


class EventFacts(Struct, frozen=True, gc=False):
    """What a body is made of."""

    id: str
    type: str
    timestamp: datetime
    job_id: str | None
    sequence: int | None
    #: JSON text as stored.
    data: str
    traceparent: str | None = None

"""An event that may be stored, and when a stored one of the same id says the same."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from dispatcher.errors import IdempotencyConflict
from dispatcher.rules.json_text import same
from dispatcher.states import EventKind

#: Bodies above this many bytes are legal and unusual: receivers' defaults begin to refuse them.
WARN_ABOVE = 20_000


class NewEvent(Struct, frozen=True):
    """An event that may be inserted."""

    id: str
    tenant: str
    type: str
    #: Compact JSON text.
    data: str
    job_id: str | None
    kind: EventKind | None
    timestamp: datetime | None
    traceparent: str | None
    #: The field that its id follows from, where an event of this id may exist already with the same content.
    repeatable: Literal["id", "idempotency_key"] | None
    #: How an error names it in a batch, like `events/3/`.
    at: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Tenant and id, by which the outbox knows it."""
        return self.tenant, self.id

    @property
    def warnings(self) -> list[str]:
        """What is legal and unwise."""
        size = len(self.data.encode())
        found = [f"data is {size} bytes; some receivers refuse bodies above 20 kB"] if size > WARN_ABOVE else []
        if self.job_id is None and self.kind not in (None, EventKind.STATE):
            found.append(f"kind {self.kind} has no effect without a job_id")
        return found

    def says(self, type: str, job_id: str | None, kind: str | None, data: str, timestamp: datetime) -> bool:
        """Whether a stored event says the same: type, job, kind, data as parsed JSON, and the timestamp if it has one
        of its own.
        """
        return (
            self.type == type
            and self.job_id == job_id
            and self.kind == kind
            and (self.timestamp is None or self.timestamp == timestamp)
            and (self.data == data or same(self.data, data))
        )

    def conflict(self) -> IdempotencyConflict:
        """What its publisher is told where one of its id says something else."""
        field = self.repeatable or "id"
        return IdempotencyConflict(
            f"{self.at}{field}: event {self.id} exists already with other content; use a fresh {field}"
        )

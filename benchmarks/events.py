"""What is sent in every measurement: events whose bodies have 1 KB."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from dispatcher.ids import new_event_id
from dispatcher.rules.bodies import EventFacts, render

#: Signs everything.
SECRET = "whsec_" + "YmVuY2htYXJrcyBzaWduIHRoaXMgd2l0aCAzMiBieXQ="
TYPE = "bench.event"
#: The size of a body, in bytes.
BODY_BYTES = 1024
_TIMESTAMP = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def _facts(event_id: str, data: str) -> EventFacts:
    return EventFacts(id=event_id, type=TYPE, timestamp=_TIMESTAMP, job_id=None, sequence=None, data=data)


def _text() -> str:
    frame = len(render("standard", _facts(new_event_id(), '{"text":""}')))
    return "x" * (BODY_BYTES - frame)


#: The `data` of every event, as a value and as JSON.
DATA_VALUE = {"text": _text()}
DATA = json.dumps(DATA_VALUE, separators=(",", ":"))


def bodies(count: int) -> Iterator[tuple[str, bytes]]:
    """Ids and bodies as the dispatcher sends them."""
    for _ in range(count):
        event_id = new_event_id()
        yield event_id, render("standard", _facts(event_id, DATA))

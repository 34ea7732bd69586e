"""Profiles `cloudevents` and `cloudevents-binary`: an event as CloudEvents 1.0, in structured or binary mode."""

from urllib.parse import quote

from dispatcher.clock import rfc3339
from dispatcher.rules.event_facts import EventFacts
from dispatcher.rules.json_text import quoted

#: What a header's value says as it is; space, `"`, `%` and everything beyond printable ASCII is percent-encoded.
_SAFE = "".join(character for character in map(chr, range(0x21, 0x7F)) if character not in '"%')

#: The sequence extension wants values that sort as texts, so each has the digits of the greatest number there can be.
SEQUENCE_DIGITS = 19


def structured(event: EventFacts, source: str, data: bytes) -> bytes:
    """The whole event as one JSON object; `data` is compact JSON."""
    attributes = {**_attributes(event, source), "datacontenttype": "application/json"}
    head = b",".join(b'"%b":%b' % (name.encode(), quoted(value)) for name, value in attributes.items())
    return b'{%b,"data":%b}' % (head, data)


def binary_headers(event: EventFacts, source: str) -> dict[str, str]:
    """The event's attributes as headers, beside a body that is its data alone."""
    return {f"ce-{name}": quote(value, safe=_SAFE) for name, value in _attributes(event, source).items()}


def _attributes(event: EventFacts, source: str) -> dict[str, str]:
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": event.type,
        "time": rfc3339(event.timestamp),
    }
    if event.job_id:
        attributes["subject"] = event.job_id
        if event.sequence is not None:
            attributes["sequence"] = f"{event.sequence:0{SEQUENCE_DIGITS}d}"
    if event.traceparent is not None:
        attributes["traceparent"] = event.traceparent
    return attributes

"""Bodies: one stored event becomes, per profile, the bytes that are signed and sent on every attempt.

Deterministic: the same event gives the same bytes in any process at any time.
"""

from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from dispatcher.errors import InvalidField
from dispatcher.rules.json_text import compact, members
from dispatcher.states import Profile


class EventFacts(Struct, frozen=True, gc=False):
    """What a body is made of."""

    id: str
    type: str
    timestamp: datetime
    job_id: str | None
    sequence: int | None
    #: JSON text as stored.
    data: str


def render(profile: str, event: EventFacts) -> bytes:
    """The body of an event as compact UTF-8 JSON, data's numbers as written.

    Raises `InvalidField` for data that is not JSON and for an unknown profile.
    """
    data = compact(event.data).encode()
    match profile:
        case Profile.STANDARD:
            return _standard(event, data)
        case Profile.FLAT:
            return _flat(event, data)
        case Profile.RAW:
            return data
        case _:
            raise InvalidField("profile", f"{profile[:80]!r} is unknown; choose {', '.join(Profile)}")


def _standard(event: EventFacts, data: bytes) -> bytes:
    head = b'{"type":%b,"id":%b,"timestamp":%b' % (_text(event.type), _text(event.id), _moment(event.timestamp))
    return b'%b%b,"data":%b}' % (head, _job(event), data)


def _job(event: EventFacts) -> bytes:
    if event.job_id is None:
        return b""
    return b',"job_id":%b%b' % (
        _text(event.job_id),
        b"" if event.sequence is None else b',"sequence":%d' % event.sequence,
    )


def _flat(event: EventFacts, data: bytes) -> bytes:
    taken = members(data.decode())
    kind, identity = _text(event.type), _text(event.id)
    ours = {
        "type": kind,
        "event": kind,
        "event_type": kind,
        "id": identity,
        "event_id": identity,
        "timestamp": _moment(event.timestamp),
    }
    if event.job_id is not None:
        ours["job_id"] = _text(event.job_id)
        if event.sequence is not None:
            ours["sequence"] = b"%d" % event.sequence
    parts = [b'"%b":%b' % (name.encode(), value) for name, value in ours.items() if name not in (taken or ())]
    if taken is None:
        parts.append(b'"data":' + data)
    elif taken:
        # The object's own text, not its parsed members: duplicate keys stay, as everywhere.
        parts.append(data[1:-1])
    return b"{%b}" % b",".join(parts)


def _text(value: str) -> bytes:
    return msgspec.json.encode(value)


def _moment(value: datetime) -> bytes:
    # The text of `clock.rfc3339`, made ten times faster.
    return msgspec.json.encode(value.astimezone(UTC))

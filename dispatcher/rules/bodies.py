"""Bodies: one stored event becomes, per profile, the bytes that are signed and sent on every attempt.

Deterministic: the same event gives the same bytes in any process at any time.
"""

from collections.abc import Mapping

from dispatcher.errors import InvalidField
from dispatcher.rules.a2a_bodies import stream_response
from dispatcher.rules.cloudevents import binary_headers, structured
from dispatcher.rules.event_facts import EventFacts
from dispatcher.rules.json_text import compact, members, moment, quoted
from dispatcher.states import Profile

__all__ = ["SOURCE_MARK", "WITH_SOURCE", "EventFacts", "body_headers", "frozen_profile", "render"]

#: Profiles whose bodies name `DISPATCHER_SOURCE`, and what stands before it in a frozen profile.
WITH_SOURCE = (Profile.CLOUDEVENTS, Profile.CLOUDEVENTS_BINARY)
SOURCE_MARK = ";source="

_JSON = {"content-type": "application/json"}
_HEADERS: Mapping[str, Mapping[str, str]] = {
    Profile.STANDARD: _JSON,
    Profile.FLAT: _JSON,
    Profile.RAW: _JSON,
    Profile.A2A_1_0: {"content-type": "application/a2a+json"},
}


def frozen_profile(profile: str, source: str) -> str:
    """The profile with everything beside the event that its bodies are made of.

    A delivery keeps it from its first attempt on, so that the setting may change and its body may not.
    """
    return f"{profile}{SOURCE_MARK}{source}" if profile in WITH_SOURCE else profile


def render(profile: str, event: EventFacts) -> bytes:
    """The body of an event as compact UTF-8 JSON, data's numbers as written; `profile` is a frozen one.

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
        case Profile.A2A_1_0:
            return stream_response(event, data)
        case _:
            return _cloudevent(profile, event, data)


def body_headers(profile: str, event: EventFacts) -> Mapping[str, str]:
    """The headers that say what a body is, for a frozen profile that `render` knows."""
    plain = _HEADERS.get(profile)
    if plain is not None:
        return plain
    name, _, source = profile.partition(SOURCE_MARK)
    if name == Profile.CLOUDEVENTS:
        return {"content-type": "application/cloudevents+json"}
    return {**_JSON, **binary_headers(event, source)}


def _cloudevent(profile: str, event: EventFacts, data: bytes) -> bytes:
    name, _, source = profile.partition(SOURCE_MARK)
    if source and name == Profile.CLOUDEVENTS:
        return structured(event, source, data)
    if source and name == Profile.CLOUDEVENTS_BINARY:
        return data
    raise InvalidField("profile", f"{profile[:80]!r} is unknown; choose {', '.join(Profile)}")


def _standard(event: EventFacts, data: bytes) -> bytes:
    head = b'{"type":%b,"id":%b,"timestamp":%b' % (quoted(event.type), quoted(event.id), moment(event.timestamp))
    return b'%b%b,"data":%b}' % (head, _job(event), data)


def _job(event: EventFacts) -> bytes:
    if event.job_id is None:
        return b""
    return b',"job_id":%b%b' % (
        quoted(event.job_id),
        b"" if event.sequence is None else b',"sequence":%d' % event.sequence,
    )


def _flat(event: EventFacts, data: bytes) -> bytes:
    taken = members(data.decode())
    kind, identity = quoted(event.type), quoted(event.id)
    ours = {
        "type": kind,
        "event": kind,
        "event_type": kind,
        "id": identity,
        "event_id": identity,
        "timestamp": moment(event.timestamp),
    }
    if event.job_id is not None:
        ours["job_id"] = quoted(event.job_id)
        if event.sequence is not None:
            ours["sequence"] = b"%d" % event.sequence
    parts = [b'"%b":%b' % (name.encode(), value) for name, value in ours.items() if name not in (taken or ())]
    if taken is None:
        parts.append(b'"data":' + data)
    elif taken:
        # The object's own text, not its parsed members: duplicate keys stay, as everywhere.
        parts.append(data[1:-1])
    return b"{%b}" % b",".join(parts)

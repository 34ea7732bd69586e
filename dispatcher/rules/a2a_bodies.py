"""Profile `a2a-1.0`: an event as an A2A 1.0 push notification, a `StreamResponse` in ProtoJSON.

Data that is A2A already goes through as it is written. Any other event becomes a `statusUpdate` whose state follows
from its type, an `artifactUpdate`, or, when it is about no job, a `message`; its data is a part of it.
"""

from collections.abc import Mapping

from dispatcher.rules.event_facts import EventFacts
from dispatcher.rules.json_text import members, moment, quoted

#: The task's state by the last segment of the event's type; every other type says that the task is working.
STATES: Mapping[str, str] = {
    "queued": "TASK_STATE_SUBMITTED",
    "submitted": "TASK_STATE_SUBMITTED",
    "completed": "TASK_STATE_COMPLETED",
    "failed": "TASK_STATE_FAILED",
    "canceled": "TASK_STATE_CANCELED",
    "cancelled": "TASK_STATE_CANCELED",
    "rejected": "TASK_STATE_REJECTED",
    "input_required": "TASK_STATE_INPUT_REQUIRED",
    "auth_required": "TASK_STATE_AUTH_REQUIRED",
}
OTHERWISE = "TASK_STATE_WORKING"

#: Last segments of types whose events carry a piece of the result.
ARTIFACTS = frozenset({"artifact", "output"})

#: The fields that ProtoJSON may write for each member of a StreamResponse.
_FIELDS = {
    "task": frozenset({"id", "contextId", "status", "artifacts", "history", "metadata"}),
    "statusUpdate": frozenset({"taskId", "contextId", "status", "metadata"}),
    "artifactUpdate": frozenset({"taskId", "contextId", "artifact", "append", "lastChunk", "metadata"}),
    "message": frozenset(
        {"messageId", "contextId", "taskId", "role", "parts", "metadata", "extensions", "referenceTaskIds"}
    ),
}


def stream_response(event: EventFacts, data: bytes) -> bytes:
    """The event as a StreamResponse with exactly one member; `data` is compact JSON."""
    fields = members(data.decode()) or {}
    return _passed_through(event, data, fields) or _mapped(event, data, fields)


def _passed_through(event: EventFacts, data: bytes, fields: Mapping[str, bytes]) -> bytes | None:
    """Data that is a StreamResponse, or a member of one, with the ids that it lacks; None for other data."""
    if len(fields) == 1:
        [(member, inner)] = fields.items()
        inside = members(inner.decode()) if member in _FIELDS else None
        if inside is not None and _member_of(inside) == member:
            return _wrapped(event, member, inner, inside)
    bare = _member_of(fields)
    return None if bare is None else _wrapped(event, bare, data, fields)


def _member_of(fields: Mapping[str, bytes]) -> str | None:
    """Which member of a StreamResponse an object is, by what each must have and may have."""
    if _has(fields, "status", "state", b'"TASK_STATE_'):
        member = "task" if "id" in fields else "statusUpdate"
    elif _has(fields, "artifact", "parts", b"["):
        member = "artifactUpdate"
    elif "messageId" in fields and fields.get("parts", b"").startswith(b"["):
        member = "message"
    else:
        return None
    return member if fields.keys() <= _FIELDS[member] else None


def _has(fields: Mapping[str, bytes], outer: str, inner: str, start: bytes) -> bool:
    inside = members(fields[outer].decode()) if outer in fields else None
    return inside is not None and inside.get(inner, b"").startswith(start)


def _wrapped(event: EventFacts, member: str, inner: bytes, fields: Mapping[str, bytes]) -> bytes | None:
    task_field = "id" if member == "task" else "taskId"
    job = quoted(event.job_id) if event.job_id is not None else None
    task = fields.get(task_field, job)
    if task is None and member != "message":
        # About no task that anybody knows.
        return None
    ids = {task_field: task, "contextId": fields.get("contextId", job or task)}
    added = b"".join(
        b'"%b":%b,' % (name.encode(), value) for name, value in ids.items() if name not in fields and value is not None
    )
    return b'{"%b":{%b%b}' % (member.encode(), added, inner[1:])


def _mapped(event: EventFacts, data: bytes, fields: Mapping[str, bytes]) -> bytes:
    last = event.type.rpartition(".")[2]
    context = _text_field(fields, "context_id")
    parts = b'{"data":%b}' % data
    words = _words(fields)
    if words is not None:
        parts = b'{"text":%b},%b' % (words, parts)
    if event.job_id is None:
        ids = b"" if context is None else b'"contextId":%b,' % context
        return b'{"message":{%b}}' % _message(event, ids, parts, b',"metadata":%b' % _metadata(event))
    task = quoted(event.job_id)
    ids = b'"taskId":%b,"contextId":%b,' % (task, context or task)
    if last in ARTIFACTS:
        return b'{"artifactUpdate":{%b"artifact":%b,"metadata":%b}}' % (
            ids,
            _artifact(event, data, fields),
            _metadata(event),
        )
    return b'{"statusUpdate":{%b"status":{"state":"%b","message":{%b},"timestamp":%b},"metadata":%b}}' % (
        ids,
        STATES.get(last, OTHERWISE).encode(),
        _message(event, ids, parts),
        moment(event.timestamp),
        _metadata(event),
    )


def _message(event: EventFacts, ids: bytes, parts: bytes, more: bytes = b"") -> bytes:
    return b'"messageId":%b,%b"role":"ROLE_AGENT","parts":[%b]%b' % (quoted(event.id), ids, parts, more)


def _artifact(event: EventFacts, data: bytes, fields: Mapping[str, bytes]) -> bytes:
    identity = _text_field(fields, "artifact_id") or quoted(event.id)
    name, text = _text_field(fields, "name"), _text_field(fields, "text")
    flags = b"".join(
        b',"%b":true' % ours
        for ours, theirs in ((b"append", "append"), (b"lastChunk", "last_chunk"))
        if fields.get(theirs) == b"true"
    )
    return b'{"artifactId":%b%b,"parts":[%b]}%b' % (
        identity,
        b"" if name is None else b',"name":%b' % name,
        b'{"data":%b}' % data if text is None else b'{"text":%b}' % text,
        flags,
    )


def _metadata(event: EventFacts) -> bytes:
    sequence = b"" if event.sequence is None else b',"sequence":%d' % event.sequence
    return b'{"type":%b,"id":%b%b}' % (quoted(event.type), quoted(event.id), sequence)


def _words(fields: Mapping[str, bytes]) -> bytes | None:
    """What people may be told of it: data's `message` or `error`, else its `percentage`."""
    words = _text_field(fields, "message") or _text_field(fields, "error")
    percentage = fields.get("percentage", b"")
    if words is None and percentage[:1].isdigit():
        words = b'"%b%%"' % percentage
    return words


def _text_field(fields: Mapping[str, bytes], name: str) -> bytes | None:
    """The JSON text of a member that is a text and not empty."""
    raw = fields.get(name, b"")
    return raw if raw.startswith(b'"') and raw != b'""' else None

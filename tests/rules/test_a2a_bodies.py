"""A2A bodies: the released SDK reads each as a StreamResponse that says what the event says."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from a2a.types import Message, StreamResponse, Task, TaskState
from google.protobuf.json_format import MessageToDict, Parse
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.rules.a2a_bodies import STATES
from dispatcher.rules.bodies import EventFacts, render

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def facts(data: object, type: str = "job.progress", job_id: str | None = "job_1") -> EventFacts:
    return EventFacts("evt_1", type, WHEN, job_id, None if job_id is None else 3, json.dumps(data))


def read(data: object, type: str = "job.progress", job_id: str | None = "job_1") -> StreamResponse:
    """What the SDK reads; it refuses a field that it does not know, and a second member."""
    response = StreamResponse()
    Parse(render("a2a-1.0", facts(data, type, job_id)), response)
    return response


def texts(message: Message) -> list[str]:
    return [part.text for part in message.parts if part.HasField("text")]


def datas(message: Message) -> list[Any]:
    return [MessageToDict(part.data) for part in message.parts if part.HasField("data")]


def test_progress_is_a_status_update_with_its_words_and_its_data() -> None:
    response = read({"percentage": 40, "message": "searching"})
    assert response.WhichOneof("payload") == "status_update"
    update = response.status_update
    assert (update.task_id, update.context_id) == ("job_1", "job_1")
    assert update.status.state == TaskState.TASK_STATE_WORKING
    assert update.status.timestamp.ToDatetime(UTC) == WHEN
    assert update.status.message.message_id == "evt_1"
    assert (update.status.message.task_id, update.status.message.context_id) == ("job_1", "job_1")
    assert texts(update.status.message) == ["searching"]
    assert datas(update.status.message) == [{"percentage": 40.0, "message": "searching"}]
    assert dict(update.metadata) == {"type": "job.progress", "id": "evt_1", "sequence": 3.0}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"percentage": 40}, ["40%"]),
        ({"percentage": 12.50}, ["12.5%"]),
        ({"percentage": "most"}, []),
        ({"error": "out of memory"}, ["out of memory"]),
        ({"message": "", "error": "late", "percentage": 1}, ["late"]),
        ({"message": {"of": "mine"}}, []),
        ([1, 2], []),
        (None, []),
    ],
)
def test_people_are_told_the_message_the_error_or_the_percentage(data: object, words: list[str]) -> None:
    message = read(data).status_update.status.message
    assert texts(message) == words
    assert datas(message) == [data]


@pytest.mark.parametrize(
    ("type", "state"),
    [
        ("job.queued", "TASK_STATE_SUBMITTED"),
        ("job.started", "TASK_STATE_WORKING"),
        ("job.completed", "TASK_STATE_COMPLETED"),
        ("job.failed", "TASK_STATE_FAILED"),
        ("job.canceled", "TASK_STATE_CANCELED"),
        ("job.rejected", "TASK_STATE_REJECTED"),
        ("job.input_required", "TASK_STATE_INPUT_REQUIRED"),
        ("job.auth_required", "TASK_STATE_AUTH_REQUIRED"),
        ("research.run.completed", "TASK_STATE_COMPLETED"),
        ("completed", "TASK_STATE_COMPLETED"),
        ("job.completed.late", "TASK_STATE_WORKING"),
    ],
)
def test_the_state_follows_from_the_last_segment_of_the_type(type: str, state: str) -> None:
    assert TaskState.Name(read({}, type).status_update.status.state) == state


def test_every_state_of_the_table_is_the_sdk_s() -> None:
    assert set(STATES.values()) <= set(TaskState.keys())


@pytest.mark.parametrize("type", ["job.completed", "job.artifact", "note"])
def test_data_names_the_context(type: str) -> None:
    response = read({"context_id": "ctx_7"}, type)
    assert (getattr(response, response.WhichOneof("payload") or "")).context_id == "ctx_7"


def test_an_artifact_has_its_own_name_text_and_place() -> None:
    response = read({"artifact_id": "a1", "name": "report", "text": "so it is", "append": True}, "job.artifact")
    assert response.WhichOneof("payload") == "artifact_update"
    update = response.artifact_update
    assert (update.task_id, update.context_id, update.append, update.last_chunk) == ("job_1", "job_1", True, False)
    assert (update.artifact.artifact_id, update.artifact.name) == ("a1", "report")
    assert [part.text for part in update.artifact.parts] == ["so it is"]


def test_an_artifact_without_a_name_is_named_after_the_event_and_carries_its_data() -> None:
    update = read({"rows": [1, 2], "last_chunk": True}, "job.output").artifact_update
    assert (update.artifact.artifact_id, update.last_chunk) == ("evt_1", True)
    assert [MessageToDict(part.data) for part in update.artifact.parts] == [{"rows": [1.0, 2.0], "last_chunk": True}]


def test_an_event_of_no_job_is_a_message() -> None:
    response = read({"message": "hello"}, "webhook.test", job_id=None)
    assert response.WhichOneof("payload") == "message"
    assert (response.message.message_id, response.message.task_id) == ("evt_1", "")
    assert texts(response.message) == ["hello"]
    assert dict(response.message.metadata) == {"type": "webhook.test", "id": "evt_1"}


STATUS = {"state": "TASK_STATE_INPUT_REQUIRED", "timestamp": "2026-01-01T00:00:00Z"}
MEMBERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("task", {"id": "t1", "contextId": "c1", "status": STATUS, "artifacts": []}, {"id": "t1", "contextId": "c1"}),
    ("task", {"id": "t1", "status": STATUS}, {"id": "t1", "contextId": "job_1"}),
    ("statusUpdate", {"status": STATUS}, {"taskId": "job_1", "contextId": "job_1"}),
    ("statusUpdate", {"contextId": "c1", "status": STATUS}, {"taskId": "job_1", "contextId": "c1"}),
    ("artifactUpdate", {"artifact": {"artifactId": "a", "parts": [{"text": "x"}]}}, {"taskId": "job_1"}),
    ("message", {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "x"}]}, {"taskId": "job_1"}),
]


@pytest.mark.parametrize(("member", "inside", "ids"), MEMBERS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_data_that_is_a2a_goes_through_with_the_ids_that_it_lacks(
    member: str, inside: dict[str, Any], ids: dict[str, Any], wrapped: bool
) -> None:
    data = {member: inside} if wrapped else inside
    body = render("a2a-1.0", facts(data, "job.completed"))
    [(name, sent)] = json.loads(body).items()
    assert name == member
    assert sent.items() >= {**inside, **ids}.items()
    assert sent.keys() - inside.keys() <= {"taskId", "contextId"}
    Parse(body, StreamResponse())


def test_data_that_is_a2a_and_whole_goes_through_byte_for_byte() -> None:
    data = (
        '{"statusUpdate":{"taskId":"t","contextId":"c","status":{"state":"TASK_STATE_WORKING"},"metadata":{"n":1.50}}}'
    )
    assert render("a2a-1.0", EventFacts("evt_1", "job.step", WHEN, "job_1", 1, data)) == data.encode()


@pytest.mark.parametrize(
    "data",
    [
        {"message": {"text": "no A2A message"}},
        {"task": {"id": 7}},
        {"status": "completed"},
        {"status": {"state": "done"}},
        {"status": STATUS, "percentage": 4},
        {"artifact": {"parts": "none"}},
        {"statusUpdate": {"status": STATUS}, "more": 1},
    ],
)
def test_data_that_only_looks_like_a2a_is_data(data: dict[str, Any]) -> None:
    update = read(data).status_update
    assert update.status.state == TaskState.TASK_STATE_WORKING
    assert datas(update.status.message) == [json.loads(json.dumps(data), parse_int=float)]


def test_an_update_of_no_known_task_is_a_message() -> None:
    assert read({"status": STATUS}, job_id=None).WhichOneof("payload") == "message"
    known = read({"taskId": "t1", "status": STATUS}, job_id=None).status_update
    assert (known.task_id, known.context_id) == ("t1", "t1")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    ["message", "error", "percentage", "context_id", "artifact_id", "text", "status", "task", "id"]
)


@given(
    data=_VALUES | st.dictionaries(_NAMES, _VALUES, max_size=4),
    last=st.sampled_from(["progress", "completed", "artifact", "anything"]),
    job_id=st.none() | st.text(min_size=1, max_size=5),
)
def test_the_sdk_reads_any_event(data: object, last: str, job_id: str | None) -> None:
    assert read(data, f"job.{last}", job_id).WhichOneof("payload") is not None


def test_a_task_keeps_its_history_and_artifacts() -> None:
    task = Task(id="t1", context_id="c1")
    task.status.state = TaskState.TASK_STATE_COMPLETED
    task.artifacts.add(artifact_id="a").parts.add(text="done")
    task.history.add(message_id="m").parts.add(text="please")
    assert read(MessageToDict(task)).task == task

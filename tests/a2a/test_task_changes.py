"""What one save of a task tells: each change once, nothing else."""

from a2a.types import (
    Artifact,
    Message,
    Part,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)

from dispatcher.a2a.task_changes import changes


def task(**given: object) -> Task:
    status = TaskStatus(state=TaskState.TASK_STATE_WORKING)
    return Task(**{"id": "t", "context_id": "c", "status": status, **given})  # type: ignore[arg-type]


def artifact(*texts: str, name: str = "report") -> Artifact:
    return Artifact(artifact_id="a", name=name, parts=[Part(text=text) for text in texts])


def test_a_new_task_is_told_whole() -> None:
    new = task(artifacts=[artifact("1")])
    assert changes(None, new) == [new]


def test_the_same_task_and_a_longer_history_tell_nothing() -> None:
    assert changes(task(artifacts=[artifact("1")]), task(artifacts=[artifact("1")])) == []
    assert changes(task(), task(history=[Message(message_id="m")])) == []


def test_a_message_that_moved_to_the_history_tells_nothing() -> None:
    asked = Message(message_id="m", parts=[Part(text="which year?")])
    status = TaskStatus(state=TaskState.TASK_STATE_WORKING, message=asked)
    assert changes(task(status=status), task(history=[asked])) == []
    [update] = changes(task(), task(status=status))
    assert isinstance(update, TaskStatusUpdateEvent)
    assert update.status.message == asked


def test_a_new_state_is_told_after_the_artifacts() -> None:
    done = TaskStatus(state=TaskState.TASK_STATE_COMPLETED)
    first, last = changes(task(), task(status=done, artifacts=[artifact("1")]))
    assert first == TaskArtifactUpdateEvent(task_id="t", context_id="c", artifact=artifact("1"))
    assert last == TaskStatusUpdateEvent(task_id="t", context_id="c", status=done)


def test_an_artifact_that_only_grew_is_told_by_its_new_parts() -> None:
    [update] = changes(task(artifacts=[artifact("1")]), task(artifacts=[artifact("1", "2", "3")]))
    assert update == TaskArtifactUpdateEvent(task_id="t", context_id="c", artifact=artifact("2", "3"), append=True)


def test_an_artifact_that_changed_is_told_whole() -> None:
    for after in (artifact("2"), artifact("1", name="other"), artifact("2", "1"), artifact()):
        [update] = changes(task(artifacts=[artifact("1")]), task(artifacts=[after]))
        assert update == TaskArtifactUpdateEvent(task_id="t", context_id="c", artifact=after)


def test_metadata_tells_what_is_new_in_it() -> None:
    before = task(metadata={"kept": {"n": [1]}, "old": 1})
    [update] = changes(before, task(metadata={"kept": {"n": [1]}, "old": 2, "new": None}))
    assert isinstance(update, TaskStatusUpdateEvent)
    assert dict(update.metadata) == {"old": 2, "new": None}

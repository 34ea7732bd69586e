"""What a saved task tells that the one before did not: the updates that A2A has for it."""

from a2a.server.tasks import PushNotificationEvent
from a2a.types import Artifact, Task, TaskArtifactUpdateEvent, TaskStatus, TaskStatusUpdateEvent
from google.protobuf.json_format import MessageToDict


def changes(before: Task | None, after: Task) -> list[PushNotificationEvent]:
    """The updates that lead from one to the other: artifacts, then status; a new task is told whole.

    The history alone is no update.
    """
    if before is None:
        return [after]
    known = {artifact.artifact_id: artifact for artifact in before.artifacts}
    updates: list[PushNotificationEvent] = [
        _artifact_update(after, known.get(artifact.artifact_id), artifact)
        for artifact in after.artifacts
        if artifact != known.get(artifact.artifact_id)
    ]
    told = MessageToDict(before.metadata)
    metadata = {
        name: value for name, value in MessageToDict(after.metadata).items() if name not in told or told[name] != value
    }
    if metadata or not _says_the_same(before.status, after.status):
        update = TaskStatusUpdateEvent(task_id=after.id, context_id=after.context_id, status=after.status)
        update.metadata.update(metadata)
        updates.append(update)
    return updates


def _says_the_same(before: TaskStatus, after: TaskStatus) -> bool:
    if not after.HasField("message"):
        # The SDK moves a status's message to the history when the client answers it.
        silent = TaskStatus()
        silent.CopyFrom(before)
        silent.ClearField("message")
        before = silent
    return before == after


def _artifact_update(task: Task, before: Artifact | None, after: Artifact) -> TaskArtifactUpdateEvent:
    update = TaskArtifactUpdateEvent(task_id=task.id, context_id=task.context_id)
    update.artifact.CopyFrom(after)
    if before is not None and _only_longer(before, after):
        update.append = True
        del update.artifact.parts[: len(before.parts)]
    return update


def _only_longer(before: Artifact, after: Artifact) -> bool:
    shortened = Artifact()
    shortened.CopyFrom(after)
    del shortened.parts[len(before.parts) :]
    return len(after.parts) > len(before.parts) and shortened == before

"""An update of an A2A task as an event of ours: its type follows from the state, its data is a StreamResponse."""

from collections.abc import Mapping

from a2a.server.tasks import PushNotificationEvent
from a2a.types import Task, TaskArtifactUpdateEvent, TaskState
from a2a.utils.proto_utils import to_stream_response
from google.protobuf.json_format import MessageToDict

from dispatcher.errors import TooLargeField
from dispatcher.outbox.publish import publish
from dispatcher.outbox.session import Unit

#: The event's type by the task's state. The type decides the kind: the ends of a task are the built-in terminal types.
#: Nothing is `job.progress`, since a later update does not say what an earlier one said: each is delivered.
TYPES: Mapping[int, str] = {
    TaskState.TASK_STATE_SUBMITTED: "job.submitted",
    TaskState.TASK_STATE_WORKING: "job.working",
    TaskState.TASK_STATE_INPUT_REQUIRED: "job.input_required",
    TaskState.TASK_STATE_AUTH_REQUIRED: "job.auth_required",
    TaskState.TASK_STATE_COMPLETED: "job.completed",
    TaskState.TASK_STATE_FAILED: "job.failed",
    TaskState.TASK_STATE_CANCELED: "job.canceled",
    TaskState.TASK_STATE_REJECTED: "job.rejected",
}
ARTIFACT = "job.artifact"
#: For a state that this release does not know.
OTHERWISE = "job.updated"


def event_type(update: PushNotificationEvent) -> str:
    """The type of the event that an update becomes."""
    return ARTIFACT if isinstance(update, TaskArtifactUpdateEvent) else TYPES.get(update.status.state, OTHERWISE)


def publish_update(unit: Unit, update: PushNotificationEvent, *, task_id: str, tenant: str) -> str:
    """Publishes an update in the caller's transaction and returns the event's id; no await, no commit.

    A task that is larger than `DISPATCHER_MAX_PAYLOAD` goes without its history, which the receiver can ask the
    server for. Raises `TooLargeField` where that does not help, `InvalidField`, `ConfigurationError`.
    """
    try:
        return _publish(unit, update, task_id, tenant)
    except TooLargeField:
        if not isinstance(update, Task) or not update.history:
            raise
    short = Task()
    short.CopyFrom(update)
    short.ClearField("history")
    return _publish(unit, short, task_id, tenant)


def _publish(unit: Unit, update: PushNotificationEvent, task_id: str, tenant: str) -> str:
    data = MessageToDict(to_stream_response(update))
    return publish(unit, event_type(update), data, job_id=task_id, tenant=tenant)

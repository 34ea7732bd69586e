"""Updates in the outbox: their types, what is too large, and that a task and its event share one fate."""

import json
import subprocess
import sys

import pytest
from a2a.server.context import ServerCallContext
from a2a.types import Message, Part, Task, TaskArtifactUpdateEvent, TaskState, TaskStatus, TaskStatusUpdateEvent
from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher import InvalidField
from dispatcher.a2a import OutboxPushNotificationSender, OutboxTaskStore
from dispatcher.a2a.updates import TYPES, event_type
from dispatcher.outbox.publish import producer_settings
from tests.outpost import Outpost

CONTEXT = ServerCallContext()


def task(size: int = 1, state: TaskState = TaskState.TASK_STATE_SUBMITTED) -> Task:
    question = Message(message_id="m", parts=[Part(text="x" * size)])
    return Task(id="t", context_id="c", status=TaskStatus(state=state), history=[question])


def large_artifact() -> TaskArtifactUpdateEvent:
    update = TaskArtifactUpdateEvent(task_id="t", context_id="c")
    update.artifact.parts.add(text="x" * 2000)
    return update


@pytest.fixture
def small(producer_environment: pytest.MonkeyPatch) -> None:
    producer_environment.setenv("DISPATCHER_MAX_PAYLOAD", "1KiB")
    producer_settings.cache_clear()


def test_every_state_has_a_type_of_its_own() -> None:
    assert set(TYPES) == set(TaskState.values()) - {TaskState.TASK_STATE_UNSPECIFIED}
    assert len(set(TYPES.values())) == len(TYPES)
    for state, type in TYPES.items():
        status = TaskStatus(state=TaskState.Name(state))
        assert event_type(TaskStatusUpdateEvent(status=status)) == event_type(Task(status=status)) == type
    assert event_type(large_artifact()) == "job.artifact"
    assert event_type(TaskStatusUpdateEvent()) == "job.updated"


async def test_what_was_sent_is_an_event_of_the_task_with_the_sdk_s_json(outpost: Outpost, engine: AsyncEngine) -> None:
    await OutboxPushNotificationSender(engine, tenant="acme").send_notification("t", task())
    [event] = await outpost.rows("events")
    assert (event.type, event.job_id, event.tenant) == ("job.submitted", "t", "acme")
    [(member, inside)] = json.loads(event.data).items()
    assert (member, inside["id"], inside["status"]) == ("task", "t", {"state": "TASK_STATE_SUBMITTED"})
    assert inside["history"][0]["parts"] == [{"text": "x"}]


async def test_a_task_that_is_too_large_goes_without_its_history(
    outpost: Outpost, engine: AsyncEngine, small: None
) -> None:
    await OutboxPushNotificationSender(engine).send_notification("t", task(2000))
    [event] = await outpost.rows("events")
    assert json.loads(event.data) == {
        "task": {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_SUBMITTED"}}
    }


async def test_an_artifact_that_is_too_large_is_refused_and_the_task_is_not_saved_either(
    outpost: Outpost, engine: AsyncEngine, small: None
) -> None:
    with pytest.raises(InvalidField, match="data"):
        await OutboxPushNotificationSender(engine).send_notification("t", large_artifact())
    store = OutboxTaskStore(engine)
    await store.save(task(), CONTEXT)
    grown = task(state=TaskState.TASK_STATE_COMPLETED)
    grown.artifacts.append(large_artifact().artifact)
    with pytest.raises(InvalidField, match="data"):
        await store.save(grown, CONTEXT)
    stored = await store.get("t", CONTEXT)
    assert stored == task()
    assert [event.type for event in await outpost.rows("events")] == ["job.submitted"]


async def test_a_save_that_fails_publishes_nothing(outpost: Outpost, engine: AsyncEngine) -> None:
    store = OutboxTaskStore(engine)
    await store.save(task(), CONTEXT)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE tasks RENAME COLUMN artifacts TO moved")
    with pytest.raises(Exception, match="artifacts"):
        await store.save(task(state=TaskState.TASK_STATE_COMPLETED), CONTEXT)
    assert [event.type for event in await outpost.rows("events")] == ["job.submitted"]


async def test_saves_are_told_once_each_in_their_order(outpost: Outpost, engine: AsyncEngine) -> None:
    store = OutboxTaskStore(engine, tenant="acme", create_table=True)
    for state in (TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING, TaskState.TASK_STATE_WORKING):
        await store.save(task(state=state), CONTEXT)
    done = task(state=TaskState.TASK_STATE_COMPLETED)
    done.artifacts.add(artifact_id="a").parts.add(text="1")
    await store.save(done, CONTEXT)
    assert [(event.type, event.tenant) for event in await outpost.rows("events")] == [
        (f"job.{what}", "acme") for what in ("submitted", "working", "artifact", "completed")
    ]
    assert await store.get("t", CONTEXT) == done


def test_without_the_sdk_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['a2a'] = None; import dispatcher; import dispatcher.a2a"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: dispatcher.a2a needs the A2A SDK: pip install 'outbox-dispatcher[a2a]'" in done.stderr

"""An A2A server as it is, with our parts in the place of the SDK's: what its clients are told, whatever happens."""

from collections.abc import Sequence

import pytest
from a2a.types import (
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    ListTaskPushNotificationConfigsRequest,
    StreamResponse,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import InvalidParamsError
from google.protobuf.json_format import Parse
from sqlalchemy.ext.asyncio import AsyncEngine

from dispatcher import verify
from dispatcher.a2a import OutboxPushNotificationConfigStore, OutboxPushNotificationSender, OutboxTaskStore
from tests.a2a.agent import send, serving
from tests.deployed import LOCAL
from tests.outpost import Outpost
from tests.programs import running_python
from tests.receiver import Received, Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def secret_for(owner: str) -> str:
    return SECRET


def push(receiver: Receiver, path: str = "/push", token: str = "t0ken") -> TaskPushNotificationConfig:
    config = TaskPushNotificationConfig(url=receiver.url(path), token=token)
    config.authentication.scheme, config.authentication.credentials = "Bearer", "s3cret"
    return config


def told(requests: Sequence[Received]) -> list[tuple[str, str]]:
    """What each notification says: its member, and the state or the artifact's text; all of them checked."""
    said = []
    for request in requests:
        verify(request.body, request.headers, SECRET)
        assert request.headers["x-a2a-notification-token"] == request.headers["a2a-notification-token"] == "t0ken"
        assert request.headers["authorization"] == "Bearer s3cret"
        assert request.headers["content-type"] == "application/a2a+json"
        response = StreamResponse()
        Parse(request.body, response)
        match response.WhichOneof("payload"):
            case "task":
                said.append(("task", TaskState.Name(response.task.status.state)))
            case "status_update":
                said.append(("status", TaskState.Name(response.status_update.status.state)))
            case "artifact_update":
                update = response.artifact_update
                words = " ".join(part.text for part in update.artifact.parts)
                said.append(("artifact", f"+{words}" if update.append else words))
            case other:
                raise AssertionError(other)
    return said


STORY = [
    ("task", "TASK_STATE_SUBMITTED"),
    ("status", "TASK_STATE_WORKING"),
    ("artifact", "page 1"),
    ("artifact", "+page 2"),
    ("status", "TASK_STATE_COMPLETED"),
]


async def test_a_task_s_notifications_come_in_order_with_token_authorization_and_signature(
    outpost: Outpost, engine: AsyncEngine, receiver: Receiver
) -> None:
    configs = OutboxPushNotificationConfigStore(engine, secret_for=secret_for)
    async with serving(configs, OutboxPushNotificationSender(engine)) as client:
        task = await send(client, "papers", push(receiver))
    assert receiver.requests == []
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    requests = receiver.received("/push")
    assert told(requests) == STORY
    response = StreamResponse()
    Parse(requests[-1].body, response)
    assert (response.status_update.task_id, response.status_update.context_id) == (task.id, task.context_id)


async def test_notifications_survive_a_kill_of_the_dispatcher_and_are_retried_in_order(
    outpost: Outpost, engine: AsyncEngine, receiver: Receiver
) -> None:
    receiver.answers("/push", 503, 500, 200)
    configs = OutboxPushNotificationConfigStore(engine, secret_for=secret_for)
    settings = LOCAL | {"database_url": outpost.settings.database_url, "retry_schedule": ",".join(["100ms"] * 40)}
    environment = {f"DISPATCHER_{name.upper()}": str(value) for name, value in settings.items()}
    environment["DISPATCHER_LEASE"] = "1s"
    async with running_python("-m", "dispatcher", "work", **environment) as first:
        await first.says("dispatcher.started")
        async with serving(configs, OutboxPushNotificationSender(engine)) as client:
            await send(client, "papers", push(receiver))
            await receiver.wait_for(1)
            await first.kill()
    async with running_python("-m", "dispatcher", "work", **environment) as second:
        await second.says("dispatcher.started")
        # How many came is not known: what the kill interrupted may come twice.
        while told(receiver.received("/push"))[-1] != STORY[-1]:
            await receiver.wait_for(len(receiver.received("/push")) + 1, "/push")
    seen: list[tuple[str, str]] = []
    for one in told(receiver.received("/push")):
        if one not in seen:
            seen.append(one)
    assert seen == STORY


async def test_the_task_store_tells_the_same_without_a_sender(
    outpost: Outpost, engine: AsyncEngine, receiver: Receiver
) -> None:
    configs = OutboxPushNotificationConfigStore(engine, secret_for=secret_for)
    async with serving(configs, None, OutboxTaskStore(engine)) as client:
        await send(client, "papers", push(receiver))
        asked = await send(client, "ask", push(receiver, "/asked"))
        await send(client, "in 2026", task=asked)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert told(receiver.received("/push")) == STORY
    assert told(receiver.received("/asked")) == [
        STORY[0],
        STORY[1],
        ("status", "TASK_STATE_INPUT_REQUIRED"),
        *STORY[1:],
    ]


async def test_the_client_sees_changes_and_deletes_its_configs(
    outpost: Outpost, engine: AsyncEngine, receiver: Receiver
) -> None:
    configs = OutboxPushNotificationConfigStore(engine, secret_for=secret_for)
    async with serving(configs, OutboxPushNotificationSender(engine), OutboxTaskStore(engine)) as client:
        asked = await send(client, "ask")
        first, wanted = push(receiver, "/one"), push(receiver, "/other")
        first.id, wanted.id = "one", "other"
        for config in (first, wanted):
            config.task_id = asked.id
            assert await client.create_task_push_notification_config(config) == config
        get = GetTaskPushNotificationConfigRequest(task_id=asked.id, id="other")
        assert await client.get_task_push_notification_config(get) == wanted
        await client.delete_task_push_notification_config(
            DeleteTaskPushNotificationConfigRequest(task_id=asked.id, id="one")
        )
        left = await client.list_task_push_notification_configs(
            ListTaskPushNotificationConfigsRequest(task_id=asked.id)
        )
        assert list(left.configs) == [wanted]


async def test_a_url_that_the_egress_rules_refuse_is_the_client_s_error(
    outpost: Outpost, engine: AsyncEngine, receiver: Receiver
) -> None:
    configs = OutboxPushNotificationConfigStore(engine)
    async with serving(configs, OutboxPushNotificationSender(engine)) as client:
        with pytest.raises(InvalidParamsError, match="url"):
            await send(client, "papers", TaskPushNotificationConfig(url="https://169.254.169.254/latest"))
    assert await outpost.count("endpoints") == 0

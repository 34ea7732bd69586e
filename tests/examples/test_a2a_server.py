"""The example A2A server, run as its reader runs it: the SDK's client gets its task, a receiver its notifications."""

from pathlib import Path

import httpx
from a2a.client import ClientConfig, create_client
from a2a.types import StreamResponse, TaskPushNotificationConfig, TaskState
from google.protobuf.json_format import Parse

from dispatcher import verify
from tests.a2a.agent import send
from tests.deployed import LOCAL
from tests.programs import running_python
from tests.receiver import Receiver

_EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "a2a_server.py"
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def test_the_example_a2a_server_notifies_a_receiver_that_fails_at_first(
    empty_sqlite_url: str, receiver: Receiver
) -> None:
    receiver.answers("/push", 503, 200)
    settings = LOCAL | {"database_url": empty_sqlite_url}
    environment = {f"DISPATCHER_{name.upper()}": str(value) for name, value in settings.items()}
    async with running_python(_EXAMPLE, WEBHOOK_SECRET=_SECRET, **environment) as server:
        url = await server.url()
        await server.says("Application startup complete")
        async with httpx.AsyncClient() as http:
            client = await create_client(url, ClientConfig(streaming=False, httpx_client=http))
            task = await send(client, "papers", TaskPushNotificationConfig(url=receiver.url("/push"), token="t0ken"))
        arrived = await receiver.wait_for(5, "/push")
    assert task.status.state == TaskState.TASK_STATE_COMPLETED
    told = [StreamResponse() for _ in arrived]
    for request, response in zip(arrived, told, strict=True):
        verify(request.body, request.headers, _SECRET)
        assert request.headers["x-a2a-notification-token"] == "t0ken"
        Parse(request.body, response)
    members = [response.WhichOneof("payload") for response in told]
    assert members == ["task", "task", "status_update", "artifact_update", "status_update"]
    assert arrived[0].body == arrived[1].body
    assert told[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
    assert told[-1].status_update.task_id == task.id

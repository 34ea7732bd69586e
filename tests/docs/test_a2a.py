"""docs/a2a.md: its server notifies a receiver that reads as it says, either way; its table is the code's."""

import re
import sys
from types import ModuleType

import pytest
from a2a.helpers import new_text_message
from a2a.server.context import ServerCallContext
from a2a.types import AgentCapabilities, AgentCard, Role, SendMessageRequest, TaskState

from dispatcher.a2a.updates import ARTIFACT, OTHERWISE, TYPES
from dispatcher.clock import SystemClock
from tests.a2a.agent import Researcher
from tests.docs.pages import ROOT
from tests.docs.python_blocks import python_of
from tests.outpost import Outpost
from tests.receiver import Receiver

_PAGE = ROOT / "docs" / "a2a.md"
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize("way", ["handler", "with_a_sender"])
async def test_a_server_built_as_the_page_says_notifies_a_receiver(
    database_url: str, receiver: Receiver, producer_environment: pytest.MonkeyPatch, way: str
) -> None:
    yours = ModuleType("my_agent")
    yours.__dict__.update(
        agent=Researcher(), card=AgentCard(name="a", capabilities=AgentCapabilities(push_notifications=True))
    )
    producer_environment.setitem(sys.modules, "my_agent", yours)
    producer_environment.setenv("DISPATCHER_DATABASE_URL", database_url)
    producer_environment.setenv("WEBHOOK_SECRET", _SECRET)
    outpost = Outpost(database_url, SystemClock())
    request = SendMessageRequest(message=new_text_message("papers", role=Role.ROLE_USER))
    request.configuration.task_push_notification_config.url = receiver.url("/push")
    async with python_of(_PAGE) as names:
        await names[way].on_message_send(request, ServerCallContext())
        await names[way].aclose()
        async with outpost.dispatcher() as dispatcher:
            await dispatcher.until_idle()
        told = [names["notification"](one.body, one.headers, _SECRET) for one in receiver.received("/push")]
    await outpost.close()
    assert [one.WhichOneof("payload") for one in told] == [
        "task",
        "status_update",
        "artifact_update",
        "artifact_update",
        "status_update",
    ]
    assert told[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED


def test_the_types_of_the_table_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (?:`(TASK_STATE_\w+)`|an artifact|a state .*) \| `(job\.\w+)` \|$", _PAGE.read_text(), re.M)
    assert rows == [*((TaskState.Name(state), type) for state, type in TYPES.items()), ("", ARTIFACT), ("", OTHERWISE)]

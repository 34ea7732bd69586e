"""Which client delivers is a setting; what is delivered and recorded is the same."""

from collections.abc import Callable
from typing import Any, get_args

import pytest

from dispatcher.engine.test_event import send_test
from dispatcher.states import DeliveryState
from dispatcher.transport.client import Kind
from dispatcher.transport.lean import LeanWire
from dispatcher.transport.wire import AiohttpWire
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Receiver


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The class of the wire of each POST, in turns."""
    seen: list[type] = []

    def watched(wire: type[AiohttpWire] | type[LeanWire]) -> Callable[..., Any]:
        original = wire.post

        async def post(self: Any, *given: Any) -> Any:
            seen.append(type(self))
            return await original(self, *given)

        return post

    for wire in (AiohttpWire, LeanWire):
        monkeypatch.setattr(wire, "post", watched(wire))
    return seen


@pytest.mark.parametrize("client", get_args(Kind))
async def test_the_client_that_was_chosen_delivers_and_tests(
    database_url: str, clock: FakeClock, receiver: Receiver, wires: list[type], client: Kind
) -> None:
    outpost = Outpost(database_url, clock, client=client)
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish("a")
    async with outpost.dispatcher():
        await receiver.wait_for(1)
    assert [row.state for row in await outpost.deliveries()] == [DeliveryState.DELIVERED]
    assert (await send_test(outpost.deployment, endpoint.row)).delivered
    assert wires == [LeanWire if client == "lean" else AiohttpWire] * 2
    await outpost.close()

"""Test events, and challenges on demand: sent for whoever asks, and for few at once."""

import asyncio
from typing import Any

import pytest

from dispatcher.engine import test_event
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.rules.verdict import Exchange
from dispatcher.service import endpoints
from dispatcher.store.endpoint_policies import EndpointPolicy
from tests.outpost import PATIENCE_S, Outpost

#: So many times others are read for while nothing may happen.
OFTEN = 20


class Sending:
    """In the place of what sends: counts who does at once, and holds them up."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.released = asyncio.Event()

    async def __call__(self, *_: Any) -> tuple[Exchange, float]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.released.wait()
        self.inside -= 1
        return Exchange(status=200, error=None), 1.0


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Sending:
    made = Sending()
    monkeypatch.setattr(test_event, "AT_ONCE", 2)
    for module in ("test_event", "challenge"):
        monkeypatch.setattr(f"dispatcher.engine.{module}.send_at_once", made)
    return made


async def test_of_those_who_ask_few_are_sent_for_at_once(
    sqlite_outpost: Outpost, sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = EndpointBook.read, 0

    async def counted(book: EndpointBook, endpoint_row: int) -> EndpointPolicy | None:
        nonlocal reads
        found = await read(book, endpoint_row)
        # Who has it goes on in the same turn of the loop.
        reads += 1
        return found

    monkeypatch.setattr(EndpointBook, "read", counted)
    endpoint = await sqlite_outpost.endpoint()
    deployment = sqlite_outpost.deployment
    asked = [asyncio.create_task(endpoints.send_test(deployment, endpoint.id, tenant=None)) for _ in range(6)]
    async with asyncio.timeout(PATIENCE_S):
        while reads < len(asked):
            await endpoints.get(deployment, endpoint.id, tenant=None)
    assert sending.inside == 2
    sending.released.set()
    assert [(await one).delivered for one in asked] == [True] * len(asked)
    assert sending.most == 2


async def test_a_challenge_on_demand_waits_for_its_turn_among_them(sqlite_outpost: Outpost, sending: Sending) -> None:
    endpoint = await sqlite_outpost.endpoint()
    deployment = sqlite_outpost.deployment
    async with test_event.turn(), test_event.turn():
        asked = asyncio.create_task(endpoints.verify(deployment, endpoint.id, tenant=None))
        for _ in range(OFTEN):
            await endpoints.get(deployment, endpoint.id, tenant=None)
        assert sending.inside == 0
    sending.released.set()
    assert (await asked).status == 200

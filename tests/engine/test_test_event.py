"""Test events, and challenges on demand: sent for whoever asks, and for few at once."""

import asyncio
from typing import Any

import pytest

from dispatcher.engine import test_event
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.rules.verdict import Exchange
from dispatcher.service import endpoints
from dispatcher.service.models import TestResult
from dispatcher.store.endpoint_policies import EndpointPolicy
from tests.outpost import PATIENCE_S, Outpost, Registered

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


class Asking:
    """Asks for test events of an endpoint, until all of them are sent or wait for their turn."""

    def __init__(self, outpost: Outpost, monkeypatch: pytest.MonkeyPatch) -> None:
        self._deployment = outpost.deployment
        self._reads, self._asked = 0, 0
        read = EndpointBook.read

        async def counted(book: EndpointBook, endpoint_row: int) -> EndpointPolicy | None:
            found = await read(book, endpoint_row)
            # Who has it goes on in the same turn of the loop.
            self._reads += 1
            return found

        monkeypatch.setattr(EndpointBook, "read", counted)

    async def __call__(self, endpoint: Registered, times: int) -> list[asyncio.Task[TestResult]]:
        asking = endpoints.send_test
        asked = [asyncio.create_task(asking(self._deployment, endpoint.id, tenant=None)) for _ in range(times)]
        self._asked += times
        async with asyncio.timeout(PATIENCE_S):
            while self._reads < self._asked:
                await endpoints.get(self._deployment, endpoint.id, tenant=None)
        return asked


@pytest.fixture
def asking(sqlite_outpost: Outpost, monkeypatch: pytest.MonkeyPatch) -> Asking:
    return Asking(sqlite_outpost, monkeypatch)


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Sending:
    made = Sending()
    monkeypatch.setattr(test_event, "AT_ONCE", 2)
    monkeypatch.setattr(test_event, "_post", made)
    return made


async def test_of_those_who_ask_few_are_sent_for_at_once(
    sqlite_outpost: Outpost, sending: Sending, asking: Asking
) -> None:
    endpoint = await sqlite_outpost.endpoint()
    asked = await asking(endpoint, 6)
    assert sending.inside == 2
    sending.released.set()
    assert [(await one).delivered for one in asked] == [True] * len(asked)
    assert sending.most == 2


async def test_one_tenant_does_not_take_the_turns_of_all(
    sqlite_outpost: Outpost, sending: Sending, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_event, "AT_ONCE", 3)
    monkeypatch.setattr(test_event, "AT_ONCE_PER_TENANT", 2, raising=False)
    slow, other = await sqlite_outpost.endpoint(tenant="acme"), await sqlite_outpost.endpoint(tenant="rival")
    asked = await asking(slow, 6)
    assert sending.inside == 2
    asked += await asking(other, 1)
    assert sending.inside == 3
    sending.released.set()
    assert [(await one).delivered for one in asked] == [True] * len(asked)
    assert sending.most == 3


async def test_a_challenge_on_demand_waits_for_its_turn_among_them(sqlite_outpost: Outpost, sending: Sending) -> None:
    endpoint = await sqlite_outpost.endpoint()
    deployment = sqlite_outpost.deployment
    async with test_event.turn("default"), test_event.turn("other"):
        asked = asyncio.create_task(endpoints.verify(deployment, endpoint.id, tenant=None))
        for _ in range(OFTEN):
            await endpoints.get(deployment, endpoint.id, tenant=None)
        assert sending.inside == 0
    sending.released.set()
    assert (await asked).status == 200

"""What a hostile name server can say, in real packets: no answer leads to an address that is not allowed."""

from collections.abc import Sequence
from typing import Any

import pytest

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from tests.receiver import Receiver
from tests.transport.dns_server import Answer, DnsServer
from tests.transport.posting import LOOPBACK, Open, post

BLOCKED, UNKNOWN = AttemptError.BLOCKED, AttemptError.DNS


async def _posted(opened: Open, receiver: Receiver, names: dict[str, Sequence[Answer]]) -> Exchange:
    async with DnsServer(names) as server:
        client = opened(LOOPBACK, connect_timeout_s=2.0, resolver=server.resolver())
        return await post(client, receiver.url("/").replace("127.0.0.1", "receiver.example"), timeout_s=5)


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["alias.example"],
    ],
)
async def test_an_allowed_answer_is_connected_to(opened: Open, receiver: Receiver, answer: list[str]) -> None:
    names: dict[str, Any] = {
        "receiver.example": [answer], "alias.example": [["other.example"]], "other.example": [["127.0.0.1"]],
    }  # fmt: skip
    assert (await _posted(opened, receiver, names)).status == 200
    assert receiver.received()[0].headers["host"].startswith("receiver.example:")


@pytest.mark.parametrize(
    "names",
    [
        {"receiver.example": [["10.0.0.1"]]},
        {"receiver.example": [["127.0.0.1", "10.0.0.1"]]},
        {"receiver.example": [["10.0.0.1", "127.0.0.1"]]},
        {"receiver.example": [["127.0.0.1", "fd00:ec2::254"]]},
        {"receiver.example": [["::ffff:10.0.0.1"]]},
        {"receiver.example": [["64:ff9b::a9fe:a9fe"]]},
        {"receiver.example": [["169.254.169.254"]]},
        {"receiver.example": [["0.0.0.0"]]},
        {"receiver.example": [["alias.example"]], "alias.example": [["metadata.example"]],
         "metadata.example": [["169.254.169.254"]]},
    ],
    ids=lambda names: str(names["receiver.example"][0]),
)  # fmt: skip
async def test_one_forbidden_address_anywhere_in_an_answer_blocks_it(
    opened: Open, receiver: Receiver, names: dict[str, Sequence[Answer]]
) -> None:
    assert await _posted(opened, receiver, names) == Exchange(status=None, error=BLOCKED)
    assert not receiver.requests


@pytest.mark.parametrize(
    "names",
    [{}, {"receiver.example": [[]]}, {"receiver.example": [None]}, {"receiver.example": [["nowhere.example"]]}],
    ids=["no such name", "no address", "silence", "an alias of nothing"],
)
async def test_no_address_is_no_connection(
    opened: Open, receiver: Receiver, names: dict[str, Sequence[Answer]]
) -> None:
    assert await _posted(opened, receiver, names) == Exchange(status=None, error=UNKNOWN)
    assert not receiver.requests


async def test_an_answer_that_changes_between_attempts_is_judged_anew(opened: Open, receiver: Receiver) -> None:
    answers: list[Answer] = [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]]
    url = receiver.url("/").replace("127.0.0.1", "receiver.example")
    async with DnsServer({"receiver.example": answers}) as server:
        # One client each, since a client keeps an answer for ten seconds, and vets what it keeps.
        exchanges = [await post(opened(LOOPBACK, resolver=server.resolver()), url) for _ in answers]
    assert [exchange.error for exchange in exchanges] == [None, BLOCKED, BLOCKED, None]
    assert len(receiver.requests) == 2

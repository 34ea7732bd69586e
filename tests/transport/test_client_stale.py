"""Stale connections: one that its receiver has closed costs no attempt, and an attempt stays one POST."""

import asyncio

import pytest

from dispatcher.rules.verdict import Exchange
from dispatcher.states import AttemptError
from dispatcher.transport.client import HttpClient
from dispatcher.transport.conversation import Conversation
from tests.transport.posting import post
from tests.transport.raw_receiver import OK, RawReceiver

BROKEN = Exchange(status=None, error=AttemptError.CONNECTION_RESET)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_that_was_closed_while_idle_costs_no_attempt(client: HttpClient, reset: bool) -> None:
    async with RawReceiver() as receiver, RawReceiver() as other:
        for count in (1, 2, 3):
            assert await post(client, receiver.url()) == Exchange(status=200, error=None)
            assert receiver.connections == count
            receiver.hang_up(reset=reset)
            # Other round trips in this loop: its end has been seen by then.
            for _ in range(2):
                await post(client, other.url())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "said",
    [
        None,
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nX: y\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
    ],
    ids=["nothing", "half a line", "half a head", "interim", "head"],
)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
async def test_a_post_is_sent_once_though_its_connection_breaks(
    client: HttpClient, used: bool, said: bytes | None, reset: bool
) -> None:
    async with RawReceiver(OK) as receiver:
        if used:
            assert (await post(client, receiver.url())).status == 200
            receiver.asked.clear()
        receiver.answer_next(said)
        sending = asyncio.create_task(post(client, receiver.url()))
        await receiver.asked.wait()
        receiver.hang_up(reset=reset)
        assert await sending == BROKEN
        assert (receiver.connections, len(receiver.requests)) == (1, 1 + used)


async def test_a_connection_that_is_closing_is_not_asked_again() -> None:
    loop = asyncio.get_running_loop()
    async with RawReceiver() as receiver:
        transport, lean = await loop.create_connection(lambda: Conversation(loop, 100), "127.0.0.1", receiver.port)
        await lean.ask(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        fit = lean.fit
        # As the loop does when it reads the end, a turn before it tells.
        transport.close()
        assert (fit, lean.fit) == (True, False)

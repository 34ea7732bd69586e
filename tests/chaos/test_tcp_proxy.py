"""The proxy of the faults does what its names say: else the faults would prove nothing."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Self

import pytest

from tests.chaos.tcp_proxy import TcpProxy


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    async def echo(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while chunk := await reader.read(100):
                writer.write(chunk)
        except ConnectionError:
            # The client was cut off.
            return
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with TcpProxy(*server.sockets[0].getsockname()) as opened:
        yield opened
    server.close()


class Client:
    """A connection of the test's, through the proxy."""

    def __init__(self, proxy: TcpProxy) -> None:
        host, port = proxy.address.split(":")
        self._address = host, int(port)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def says(self, text: bytes) -> bytes:
        """What is echoed."""
        self._writer.write(text)
        return await self._reader.read(100)


async def test_it_forwards_both_ways(proxy: TcpProxy) -> None:
    async with Client(proxy) as client:
        assert await client.says(b"hello") == b"hello"


async def test_a_cut_resets_what_is_open_and_nothing_else(proxy: TcpProxy) -> None:
    async with Client(proxy) as before:
        assert await before.says(b"hello") == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await before.says(b"hello")
    async with Client(proxy) as after:
        assert await after.says(b"again") == b"again"


async def test_one_that_refuses_can_be_restored_on_its_port(proxy: TcpProxy) -> None:
    async with Client(proxy) as before:
        assert await before.says(b"hello") == b"hello"
        await proxy.refuse()
        with pytest.raises(ConnectionResetError):
            await before.says(b"hello")
    with pytest.raises(ConnectionRefusedError):
        await Client(proxy).__aenter__()
    await proxy.restore()
    async with Client(proxy) as after:
        assert await after.says(b"again") == b"again"


async def test_one_that_swallows_takes_everything_and_gives_it_back_when_restored(proxy: TcpProxy) -> None:
    async with Client(proxy) as before:
        assert await before.says(b"hello") == b"hello"
        proxy.swallow()
        async with Client(proxy) as new:
            answers = [asyncio.ensure_future(one.says(b"anybody?")) for one in (before, new)]
            done, _ = await asyncio.wait(answers, timeout=0.2)
            assert not done
            await proxy.restore()
            async with asyncio.timeout(10):
                assert await asyncio.gather(*answers) == [b"anybody?", b"anybody?"]


async def test_one_that_abandons_is_silent_for_ever_and_takes_new_connections(proxy: TcpProxy) -> None:
    async with Client(proxy) as before:
        assert await before.says(b"hello") == b"hello"
        proxy.abandon()
        answer = asyncio.ensure_future(before.says(b"anybody?"))
        async with Client(proxy) as after:
            assert await after.says(b"again") == b"again"
        await proxy.restore()
        assert not answer.done()
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)


async def test_a_slow_one_takes_its_time_in_each_direction(proxy: TcpProxy) -> None:
    loop = asyncio.get_running_loop()
    async with Client(proxy) as slow:
        proxy.slow_down(0.1)
        began_s = loop.time()
        assert await slow.says(b"hello") == b"hello"
        assert loop.time() - began_s >= 0.2

"""A name server: speaks DNS over UDP on loopback, and answers as a test says, another answer to each question."""

import asyncio
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Self

from aiohttp.resolver import AsyncResolver

_A, _CNAME, _AAAA = 1, 5, 28
_RESPONSE, _NO_SUCH_NAME = 0x8180, 0x8183

#: Addresses, and names that the asked one stands for; nothing: it has no address. None: silence.
Answer = Sequence[str] | None


class DnsServer(asyncio.DatagramProtocol):
    """The server; an async context manager. The last answer of a name repeats; a name without one does not exist."""

    def __init__(self, names: Mapping[str, Sequence[Answer]]) -> None:
        self.names = names
        #: How often a name was asked for its addresses, by name and type.
        self.asked: Counter[tuple[str, int]] = Counter()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def resolver(self) -> AsyncResolver:
        """Asks this server, and no other."""
        port = int(self._transport.get_extra_info("sockname")[1])
        return AsyncResolver(nameservers=[f"127.0.0.1:{port}"], timeout=0.3, tries=1)

    # What the event loop calls.

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _name(data, 12)
        (kind,) = struct.unpack_from("!H", data, end)
        question = data[12 : end + 4]
        answers = self.names.get(name)
        if answers is None:
            self._transport.sendto(data[:2] + struct.pack("!5H", _NO_SUCH_NAME, 1, 0, 0, 0) + question, addr)
            return
        answer = answers[min(self.asked[name, kind], len(answers) - 1)]
        self.asked[name, kind] += 1
        if answer is not None:
            records = self._records(name, kind, answer)
            head = data[:2] + struct.pack("!5H", _RESPONSE, 1, len(records), 0, 0)
            self._transport.sendto(head + question + b"".join(records), addr)

    def _records(self, name: str, kind: int, answer: Sequence[str]) -> list[bytes]:
        # With all that aliases lead to, as a server does that asks on.
        records = []
        for entry in answer:
            try:
                address = ip_address(entry)
            except ValueError:
                records.append(_record(name, _CNAME, _encoded(entry)))
                records += self._records(entry, kind, (self.names.get(entry) or [()])[0] or ())
                continue
            if kind == (_A if address.version == 4 else _AAAA):
                records.append(_record(name, kind, address.packed))
        return records


def _name(data: bytes, start: int) -> tuple[str, int]:
    labels = []
    while length := data[start]:
        labels.append(data[start + 1 : start + 1 + length].decode().lower())
        start += 1 + length
    return ".".join(labels), start + 1


def _encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _record(name: str, kind: int, value: bytes) -> bytes:
    return _encoded(name) + struct.pack("!HHIH", kind, 1, 0, len(value)) + value

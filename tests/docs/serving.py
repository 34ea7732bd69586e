"""A page's shell commands against a real `dispatcher serve` and a receiver; answers are as the page shows them."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.docs.alike import difference
from tests.docs.pages import blocks
from tests.docs.shell import Shell
from tests.programs import Program, running_python
from tests.receiver import Receiver

_ADMIN_KEY = "admin-key-of-the-documentation"
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a page talks to."""

    server: Program
    url: str
    shell: Shell
    session: aiohttp.ClientSession
    database: Path

    async def settled(self) -> None:
        """Returns when no redelivery runs, nothing waits and nothing is in flight, as somebody who types sees it."""
        headers = {"Authorization": f"Bearer {_ADMIN_KEY}"}
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                redelivers = self._redelivers()
                async with self.session.get(f"{self.url}/v1/stats", headers=headers) as answer:
                    stats = await answer.json()
                waits = any(stats[what]["count"] for what in ("not_fanned_out", "pending", "sending"))
                if not redelivers and not waits:
                    return

    def _redelivers(self) -> bool:
        # A run takes its deliveries a little later, and until then they are none that wait.
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            [found] = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM redeliveries WHERE state = 'running')"
            ).fetchone()
        return bool(found)

    async def run(self, page: Path) -> None:
        """Runs the page's commands. Fails where an answer is not like the one that the page shows."""
        said = ""
        for block in blocks(page, "sh", "json"):
            if block.not_run:
                continue
            if block.language == "json":
                [last] = said.strip().splitlines()[-1:]
                found = difference(json.loads(block.text), json.loads(last))
                assert found is None, f"{block.place}: {found}"
            else:
                said = await self.shell.run(block)
                await self.settled()


@asynccontextmanager
async def served(directory: Path, receiver: Receiver) -> AsyncIterator[Served]:
    """Runs `dispatcher serve` meanwhile, on SQLite in the directory."""
    receiver.answers("/broken", 500)
    environment = {
        "DISPATCHER_ADMIN_KEY": _ADMIN_KEY,
        "DISPATCHER_ALLOW_HTTP": "true",
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
        "DISPATCHER_DATABASE_URL": f"sqlite:///{directory}/dispatcher.db",
        "DISPATCHER_LOG_FORMAT": "json",
    }
    async with (
        running_python("-m", "dispatcher", "serve", "--port", "0", **environment) as server,
        aiohttp.ClientSession() as session,
    ):
        url = await server.url()
        replaced = {"http://127.0.0.1:8080": url, "http://127.0.0.1:9000": receiver.url().rstrip("/")}
        yield Served(server, url, Shell(directory, replaced, **environment), session, directory / "dispatcher.db")

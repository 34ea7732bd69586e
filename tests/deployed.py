"""A whole deployment in the test's own process: API and dispatcher on a database, as `dispatcher serve` runs them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from dispatcher.api.app import create_app
from dispatcher.api.runner import ApiRunner
from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.settings import load

ADMIN_KEY = "admin-key-of-the-tests-that-nobody-guesses"
SECRET_KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="

#: Receivers of tests are on this machine, and wait for no one.
LOCAL: dict[str, Any] = {
    "secret_key": SECRET_KEY,
    "allow_http": True,
    "allow_networks": "127.0.0.0/8",
    "retry_schedule": "20ms,20ms",
    "retry_jitter": 0,
}


@dataclass(frozen=True, slots=True)
class Deployed:
    """Requests to the API, and the dispatcher beside it."""

    dispatcher: Dispatcher
    url: str
    session: aiohttp.ClientSession

    async def post(self, path: str, body: object = None, key: str = ADMIN_KEY) -> Any:
        """The answer; fails when it is no success."""
        async with self.session.post(self.url + path, json=body, headers={"authorization": f"Bearer {key}"}) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def redeliver(self, event_id: str) -> None:
        """Sends an event's deliveries again, once what is on its way is on record."""
        await self.dispatcher.until_idle()
        for delivery in (await self.get(f"/v1/events/{event_id}"))["deliveries"]:
            await self.post(f"/v1/deliveries/{delivery['id']}/redeliver")


@asynccontextmanager
async def deployed(database_url: str, **settings: Any) -> AsyncIterator[Deployed]:
    """Runs a deployment meanwhile, for receivers on this machine."""
    dispatcher = Dispatcher(settings=load(database_url=database_url, **{**LOCAL, **settings}))
    async with dispatcher, aiohttp.ClientSession() as session:
        app = create_app(
            dispatcher.deployment,
            admin_key=ADMIN_KEY,
            on_published=dispatcher.wake,
            ingest=dispatcher.ingest,
            condition=dispatcher.condition,
        )
        runner = ApiRunner(app, most_connections=100, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield Deployed(dispatcher, f"http://127.0.0.1:{runner.addresses[0][1]}", session)
        finally:
            await runner.cleanup()

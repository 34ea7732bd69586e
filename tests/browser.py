"""A real Chromium without a window, driven by chromedriver over WebDriver; tests of pages skip where there is none."""

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.programs import running

#: How long something on a page may take, in milliseconds.
PATIENCE_MS = 30_000

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: WebDriver's name for the key of an element's id.
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_WAIT = """
    const done = arguments[arguments.length - 1];
    const holds = () => { try { return %s; } catch { return false; } };
    if (holds()) { done(true); } else {
      const observer = new MutationObserver(() => { if (holds()) { observer.disconnect(); done(true); } });
      observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    }
"""


class Browser:
    """One session: a window with one tab, without a past."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, command: str, body: object = None) -> Any:
        """What WebDriver answers to a command. Raises `AssertionError` with its complaint."""
        async with self._session.post(f"{self._url}/{command}", json=body or {}) as answer:
            value = (await answer.json())["value"]
            assert answer.status == 200, value["message"]
            return value

    async def open(self, url: str) -> None:
        """Loads a page."""
        await self.ask("url", {"url": url})

    async def reload(self) -> None:
        """Loads the page again."""
        await self.ask("refresh")

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return await self.ask("execute/sync", {"script": f"return {expression};", "args": []})

    async def until(self, expression: str) -> None:
        """Returns as soon as the page has changed so that a JavaScript expression holds."""
        try:
            await self.ask("execute/async", {"script": _WAIT % expression, "args": []})
        except AssertionError as error:
            shown = await self.run("document.body.innerText")
            raise AssertionError(f"{expression} did not come to hold ({error}); the page: {shown}") from None

    async def click(self, selector: str) -> None:
        """Clicks the element, as a user who sees it."""
        await self.ask(f"element/{await self._find(selector)}/click")

    async def type(self, selector: str, text: str) -> None:
        """Types a text into the element."""
        await self.ask(f"element/{await self._find(selector)}/value", {"text": text})

    async def picture(self, path: Path) -> None:
        """Keeps what the window shows, as PNG."""
        async with self._session.get(f"{self._url}/screenshot") as answer:
            path.write_bytes(base64.b64decode((await answer.json())["value"]))

    async def _find(self, selector: str) -> str:
        found = await self.ask("element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Runs a browser meanwhile; skips the test, with the reason, where none is installed."""
    driver = shutil.which("chromedriver")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if driver is None or program is None:
        pytest.skip("Chromium and chromedriver are not both installed here")
    arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=900,1000"]
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": {"binary": program, "args": arguments},
        "timeouts": {"script": PATIENCE_MS, "pageLoad": PATIENCE_MS},
    }
    async with running(driver, "--port=0") as server, aiohttp.ClientSession() as session:
        [line] = await server.says("started successfully on port")
        sessions = f"http://127.0.0.1:{line.rstrip('.').rsplit(' ', 1)[1]}/session"
        async with session.post(sessions, json={"capabilities": {"alwaysMatch": wanted}}) as answer:
            value = (await answer.json())["value"]
            assert answer.status == 200, value["message"]
        url = f"{sessions}/{value['sessionId']}"
        try:
            yield Browser(session, url)
        finally:
            async with asyncio.timeout(PATIENCE_MS / 1000), session.delete(url):
                pass

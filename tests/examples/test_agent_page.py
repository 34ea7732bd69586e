"""The page of the example agent API in a real browser: follows a job live, misses nothing over a reload, and ends."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.browser import Browser, browsing
from tests.examples.agent_api import PAGES, AgentApi, agent_api, serving


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with browsing() as running:
        yield running


@pytest.fixture
async def api(browser: Browser, empty_sqlite_url: str) -> AsyncIterator[AgentApi]:
    """The example, once there is a browser for it, with its page opened."""
    async with serving(empty_sqlite_url) as environment, agent_api("aiohttp_app.py", environment) as running:
        await browser.open(running.url)
        yield running


def _shown(text: str, element: str = "outcome") -> str:
    return f"document.getElementById('{element}').textContent.startsWith('{text}')"


async def _sequences(browser: Browser) -> Any:
    return await browser.run(
        "[...document.querySelectorAll('#events tr')].map((row) => Number(row.cells[0].innerText))"
    )


async def test_the_page_follows_a_job_to_its_end_and_closes_then(browser: Browser, api: AgentApi) -> None:
    await browser.click("#new button")
    await browser.until(_shown("closed", "connection"))
    assert await _sequences(browser) == list(range(PAGES + 2, 0, -1))
    outcome, status, value = await browser.run(
        "[document.getElementById('outcome').innerText, document.getElementById('job').dataset.status,"
        " document.getElementById('progress').value]"
    )
    assert (outcome, status, value) == (f"Completed: Summarise the report: read {PAGES} pages", "completed", 100)
    assert await browser.run("source.readyState === EventSource.CLOSED")
    asked = await browser.run("performance.getEntriesByType('resource').map((entry) => new URL(entry.name).origin)")
    events = await browser.run("new URL(job.events_url).origin")
    assert events != api.url
    assert set(asked) <= {api.url, events, "null"}, "the page loads nothing from elsewhere"
    # Nothing of a settled job is asked for again.
    await browser.reload()
    await browser.until(_shown("closed", "connection"))
    assert await browser.run("source") is None
    assert await _sequences(browser) == list(range(PAGES + 2, 0, -1))


async def test_the_page_reads_what_it_missed_from_where_it_had_come(browser: Browser, api: AgentApi) -> None:
    await browser.click("#new option[value=question]")
    await browser.click("#new button")
    await browser.until(_shown("Waits for your answer"))
    job = await browser.run("job")
    await browser.open("about:blank")
    assert (await api.post(f"/jobs/{job['job_id']}/input", {"answer": "yes"}))[0] == 200
    await api.events(job, "job.completed")
    await browser.open(api.url)
    await browser.until(_shown("closed", "connection"))
    assert await browser.run("document.getElementById('job').dataset.status") == "completed"
    assert await _sequences(browser) == list(range(PAGES + 4, 0, -1))
    # As many as it had before it was left: the rest came from behind these.
    assert await browser.run(f"source.url.endsWith('&after={PAGES // 2 + 2}')")


async def test_the_page_asks_for_a_new_link_when_its_own_has_expired(browser: Browser, api: AgentApi) -> None:
    await browser.click("#new option[value=question]")
    await browser.click("#new button")
    await browser.until(_shown("Waits for your answer"))
    await browser.run("(job.events_url = job.events_url.slice(0, -10), keep(), null)")
    await browser.reload()
    await browser.until(_shown("connected", "connection"))
    await browser.type("#input input", "yes")
    await browser.click("#input button")
    await browser.until(_shown("closed", "connection"))
    assert await _sequences(browser) == list(range(PAGES + 4, 0, -1))


async def test_the_page_lets_its_user_answer_and_cancel_and_says_why_a_job_failed(
    browser: Browser, api: AgentApi
) -> None:
    await browser.click("#new option[value=question]")
    await browser.click("#new button")
    await browser.until("!document.getElementById('input').hidden")
    assert (await browser.run("document.getElementById('question').innerText")).endswith("?")
    await browser.type("#input input", "yes, please")
    await browser.click("#input button")
    await browser.until(_shown("Completed"))
    assert await browser.run("document.getElementById('input').hidden && document.getElementById('cancel').hidden")
    assert "yes, please" in await browser.run("document.getElementById('events').innerText")

    await browser.click("#new button")
    await browser.until(_shown("Waits for your answer"))
    await browser.click("#cancel")
    await browser.until(_shown("Canceled"))

    await browser.click("#new option[value=failure]")
    await browser.click("#new button")
    await browser.until(_shown(f"Failed: page {PAGES // 2 + 1} cannot be read"))
    await browser.until(_shown("closed", "connection"))

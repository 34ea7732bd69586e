"""docs/catch-up.md, run: its commands against a real server, its Python and JavaScript to the end of a job."""

import asyncio
import base64
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from dispatcher.rules import job_links
from tests.docs.pages import ROOT, blocks
from tests.docs.python_blocks import python_of
from tests.docs.serving import Served, served
from tests.outpost import SECRET_KEY
from tests.receiver import Receiver

_PAGE = ROOT / "docs" / "catch-up.md"
_ADMIN = {"Authorization": "Bearer admin-key-of-the-documentation"}


async def finished_job(guide: Served, directory: Path) -> None:
    """`job_1` with three events; settled, as its terminal event notes it."""
    for event_type in ("job.started", "job.step", "job.completed"):
        body: dict[str, object] = {"type": event_type, "job_id": "job_1", "data": {}}
        async with guide.session.post(f"{guide.url}/v1/events", json=body, headers=_ADMIN) as answer:
            assert answer.status == 202
    await guide.settled()
    with closing(sqlite3.connect(directory / "dispatcher.db", timeout=20)) as database, database:
        changed = database.execute("UPDATE jobs SET settled_at = 1 WHERE last_sequence = 3").rowcount
    assert changed == 1


async def link_of(guide: Served) -> str:
    async with guide.session.post(f"{guide.url}/v1/jobs/job_1/link", json={}, headers=_ADMIN) as answer:
        return str(guide.url + (await answer.json())["path"])


async def test_every_command_works_and_answers_as_written(tmp_path: Path, receiver: Receiver) -> None:
    async with served(tmp_path, receiver) as guide:
        await guide.run(_PAGE)
    assert len(receiver.received("/hook")) == 2


async def test_the_python_reads_a_job_to_its_end_and_makes_a_link(
    tmp_path: Path, receiver: Receiver, producer_environment: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, receiver) as guide, python_of(_PAGE) as names:
        await finished_job(guide, tmp_path)

        def read() -> list[int]:
            with httpx.Client(base_url=guide.url, headers=_ADMIN) as client:
                return [event["sequence"] for event in names["catch_up"](client, "job_1", 1)]

        assert await asyncio.to_thread(read) == [2, 3]
        read_link = job_links.read([base64.b64decode(SECRET_KEY)], names["link"].token)
        assert read_link is not None
        assert read_link.job_id == "job_1"
        assert names["url"].startswith("https://hooks.example.com/v1/jobs/job_1/events?token=job_")


def _script(function: str) -> str:
    [block] = [block for block in blocks(_PAGE, "javascript") if f"function {function}(" in block.text]
    return block.text


async def test_the_javascript_reads_a_job_to_its_end(tmp_path: Path, receiver: Receiver) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed here")
    (tmp_path / "page.mjs").write_text(_script("catchUp"))
    (tmp_path / "main.mjs").write_text(
        'import { catchUp } from "./page.mjs";\n'
        "const seen = [];\n"
        "await catchUp(process.argv[2], 1, (event) => seen.push(event.sequence));\n"
        "console.log(JSON.stringify(seen));\n"
    )
    async with served(tmp_path, receiver) as guide:
        await finished_job(guide, tmp_path)
        said = await _output(node, str(tmp_path / "main.mjs"), await link_of(guide))
    assert json.loads(said) == [2, 3]


async def test_the_javascript_follows_a_job_in_a_browser(tmp_path: Path, receiver: Receiver) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed here")
    async with served(tmp_path, receiver) as guide:
        await finished_job(guide, tmp_path)
        link = await link_of(guide)
        page = (
            "<!doctype html><title></title><script type='module'>"
            f"{_script('follow')}\nconst seen = [];\n"
            f"follow({json.dumps(link)}, (event) => seen.push(event.sequence),"
            " () => (document.title = seen.join(' ')));</script>"
        )
        receiver.answers("/page", lambda received: web.Response(text=page, content_type="text/html"))
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom")
        said = await _output(chromium, *options, receiver.url("/page"))
    found = re.search(r"<title>(.*?)</title>", said)
    assert found
    assert found[1] == "1 2 3"


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(50):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode()

"""docs/operations.md, typed beside a real server."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.python_blocks import python_of
from tests.docs.serving import served
from tests.receiver import Receiver

_PAGE = ROOT / "docs" / "operations.md"


@pytest.mark.timeout(240)  # some thirty commands, each a Python process that starts
async def test_every_command_of_the_operators_guide_works(tmp_path: Path, receiver: Receiver) -> None:
    async with served(tmp_path, receiver) as guide:
        await guide.run(_PAGE)
        [line, *_] = guide.server.said("delivery.attempted")
        async with python_of(_PAGE):
            with closing(sqlite3.connect(tmp_path / "backup.db")) as copy:
                [(events,)] = copy.execute("SELECT count(*) FROM events")
    assert events >= 3
    # What was published while the endpoint was disabled came by `recover`, the test event too.
    assert {request.type for request in receiver.received("/late")} >= {
        "job.finished",
        "webhook.test",
    }
    assert [request.headers.get("x-delivery-replay") for request in receiver.received("/broken")][:2] == [None, "true"]
    assert _documented_fields() == set(json.loads(line))


def _documented_fields() -> set[str]:
    table = _PAGE.read_text().split("## Logs")[1].split("Others to look for")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return {field for row in rows for field in re.findall(r"`(\w+)`", row)}


def test_the_alerts_can_be_read() -> None:
    yaml = pytest.importorskip("yaml")
    [block] = blocks(_PAGE, "yaml")
    [group] = yaml.safe_load(block.text)["groups"]
    assert all({"alert", "expr"} <= rule.keys() for rule in group["rules"])


def test_every_log_event_that_the_guide_names_is_logged_somewhere() -> None:
    section = _PAGE.read_text().split("Others to look for")[1].split("\n## ")[0]
    sources = "".join(path.read_text() for path in (ROOT / "dispatcher").rglob("*.py"))
    named = re.findall(r"`([a-z]+\.[a-z_]+)`", section)
    assert len(named) > 10
    for event in named:
        assert f'"{event}"' in sources

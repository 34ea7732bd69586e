"""README and docs/ as a whole: links lead somewhere, and no block of code is left out of the tests."""

import json
import re
from pathlib import Path

import pytest

from dispatcher.cli.settings_page import markdown
from dispatcher.settings import Settings, environment_name
from tests.docs.pages import LINKED, PAGES, ROOT, anchors, blocks, links

#: Which test runs the blocks of a language: `test_<page>.py`, or one here.
_RUN = {
    "sh": {"README.md", "api.md", "catch-up.md", "job-progress.md", "operations.md", "producers.md"},
    "python": {
        "README.md",
        "a2a.md",
        "catch-up.md",
        "job-progress.md",
        "operations.md",
        "producers.md",
        "receivers.md",
    },
    "sql": {"README.md", "producers.md"},
    "postgresql": {"producers.md"},
    "javascript": {"catch-up.md", "receivers.md"},
    "go": {"receivers.md"},
    "json": {"api.md", "catch-up.md", "receivers.md"},
    "yaml": {"operations.md"},
}
#: Pictures, not code.
_PICTURES = {"", "mermaid"}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_of_code_is_run_by_a_test_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        known = block.language in _PICTURES or page.name in _RUN.get(block.language, ())
        assert known or block.not_run, f"{block.place}: nobody runs {block.language}"


@pytest.mark.parametrize("page", LINKED, ids=_name)
def test_every_link_inside_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = {environment_name(field) for field in Settings.model_fields}
    assert set(re.findall(r"\bDISPATCHER_[A-Z0-9_]*[A-Z0-9]", page.read_text())) <= known


def test_the_page_of_settings_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == markdown() + "\n", "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_json_can_be_read(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block.text)

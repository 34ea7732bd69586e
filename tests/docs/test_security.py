"""SECURITY.md: what it says is shown by a test is shown by a test."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

_TEXT = (ROOT / "SECURITY.md").read_text()
_ATTACKS = _TEXT.split("\n## Attacks\n", 1)[1]
_ROWS = [line for line in _ATTACKS.splitlines() if line.startswith("| ") and not line.startswith(("| attack", "| ---"))]


@cache
def _tests_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_page_has_its_tables() -> None:
    headings = re.findall(r"^\| attack \| defence \| shown by \|$", _ATTACKS, re.MULTILINE)
    assert len(headings) == len(re.findall(r"^### ", _ATTACKS, re.MULTILINE))
    assert len(_ROWS) > 40


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[2:60])
def test_every_attack_names_its_defence_and_tests_that_there_are(row: str) -> None:
    attack, defence, shown_by = re.split(r" \| ", row.strip("| "))
    assert attack
    assert defence
    named = shown_by.split(", ")
    for test in named:
        found = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test)
        assert found, test
        assert found[2] in _tests_in(ROOT / found[1]), test

"""The long form's own parts: what it keeps, what it calls broken, and that its runs add up."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from tests.chaos.__main__ import main
from tests.chaos.campaign import Plan, campaign
from tests.chaos.roster import FAULTS
from tests.chaos.tally import Round, State, table

KEPT = Round("sqlite", "kill", 1, strikes=10, events=100, in_flight=40, duplicates=30, recoveries_s=[1.0, 3.0, 2.0])


def test_a_round_is_broken_by_each_promise_and_by_each_bar() -> None:
    assert KEPT.broken == []
    assert replace(KEPT, counts={"lost": 1}).broken == ["lost"]
    assert replace(KEPT, failed="Traceback …").broken == ["failed"]
    assert replace(KEPT, duplicates=41).broken == ["duplicates"]
    assert replace(KEPT, ratio=0.95).broken == []
    assert replace(KEPT, ratio=0.89).broken == ["throughput"]
    # The bar is for the default lease; with a shorter one nothing is said about it.
    slow = replace(KEPT, recoveries_s=[15.1])
    assert slow.broken == []
    assert replace(slow, defaults=True).broken == ["recovery"]


def test_a_campaign_goes_on_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "made" / "campaign.jsonl"
    first = State(file, None, otherwise=7)
    first.add(KEPT)
    first.add(replace(KEPT, number=2, strikes=5))
    first.add(replace(KEPT, number=3, strikes=3, defaults=True))
    again = State(file, 7, otherwise=8)
    assert again.seed == 7
    assert again.rounds == first.rounds
    assert again.strikes("sqlite", "kill") == 15
    assert again.next_number("sqlite", "kill") == 4
    assert again.has("sqlite", "kill", defaults=True)
    assert not again.has("sqlite", "kill", twin=True)
    # It is not tried for ever.
    again.add(replace(KEPT, number=4, twin=True, failed="Traceback …"))
    assert again.has("sqlite", "kill", twin=True)
    with pytest.raises(ValueError, match="has the seed 7"):
        State(file, 8, otherwise=8)


def test_the_table_sums_the_rounds_of_a_fault_on_a_database() -> None:
    shown = table([KEPT, replace(KEPT, number=2, counts={"lost": 2}, ratio=0.97), replace(KEPT, database="postgresql")])
    kill, everything = (line for line in shown.split("sqlite:")[1].splitlines() if line.startswith(("| kill", "| **")))
    cells = [cell.strip() for cell in kill.split("|")[1:-1]]
    assert cells == [
        "kill", "20", "200", "80", "2", "0", "60", "0", "0", "0", "0", "0", "2.0 s", "3.0 s", "0.97",
    ]  # fmt: skip
    assert everything.split("|")[2].strip() == "20"


def test_no_two_faults_have_one_name() -> None:
    assert all(name == fault.name for name, fault in FAULTS.items())
    assert all(fault.dialects and fault.workers for fault in FAULTS.values())


async def test_a_fault_that_wants_a_small_disk_is_left_out_and_named_where_none_can_be_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.campaign.why_not", lambda: "only root can mount a file system")
    state, said = State(tmp_path / "campaign.jsonl", None, otherwise=7), list[str]()
    plan = Plan(("sqlite",), [FAULTS["sqlite-disk-full"]], strikes=1, twins=True, defaults=False)
    await campaign(plan, state, inf, said.append)
    assert said == ["sqlite-disk-full is left out: only root can mount a file system"]
    assert state.rounds == []


def test_the_command_runs_what_is_left_and_says_whether_all_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "campaign.jsonl"
    words = "--kills 1 --database sqlite --faults sigterm --seed 3 --no-twins --no-defaults --resume"
    monkeypatch.setattr("sys.argv", ["chaos", *words.split(), str(file)])
    assert main() == 0
    output = capsys.readouterr().out
    assert "sqlite sigterm #1: 1 strikes" in output
    # Nothing is left to do, and what was found is judged again.
    head, line = file.read_text().splitlines()
    file.write_text(f"{head}\n{json.dumps({**json.loads(line), 'counts': {'lost': 1}})}\n")
    assert main() == 1
    output = capsys.readouterr().out
    assert "sqlite sigterm #1 broke: lost" in output
    assert "again: python -m tests.chaos --seed 3 --repeat sqlite/sigterm/1" in output
    assert len(file.read_text().splitlines()) == 2

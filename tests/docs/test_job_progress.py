"""docs/job-progress.md, run: a job is published as written, and its receiver applies in order what really arrives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Dispatcher, verify
from tests.docs.pages import ROOT, blocks
from tests.docs.python_blocks import python_of
from tests.docs.shell import Shell
from tests.receiver import Received, Receiver

_PAGE = ROOT / "docs" / "job-progress.md"
_FOR_RECEIVERS = ROOT / "docs" / "receivers.md"


async def test_the_job_of_the_guide_reaches_the_receiver_of_the_guide(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", "sqlite:///agent.db")
    monkeypatch.setenv("DISPATCHER_ALLOW_HTTP", "true")
    monkeypatch.setenv("DISPATCHER_ALLOW_NETWORKS", "127.0.0.0/8")
    shell = Shell(tmp_path)
    for block in blocks(_PAGE, "sh"):
        await shell.run(block)
    applied: list[dict[str, Any]] = []
    requests: list[Received] = []
    receive = _rule_for_receivers()
    async with python_of(_PAGE) as names:
        secret = names["start"]("job_1", receiver.url("/hook"))
        tell = names["tell"]
        for percentage in (10, 20, 30):
            assert tell("job_1", "job.progress", {"percentage": percentage})
        assert tell("job_1", "job.completed", {}, status="completed")
        assert not tell("job_1", "job.progress", {"percentage": 40}), "nothing is published behind the end"
        async with Dispatcher():
            while not requests or _event(requests[-1])["type"] != "job.completed":
                requests = await receiver.wait_for(len(requests) + 1, "/hook")
        last = 0
        for request in requests:
            verify(request.body, request.headers, secret)
            last = receive(_event(request), request.headers, last, applied.append, _nothing_missed)
    assert last == 5
    assert applied == [_event(request) for request in requests]


def test_the_receiver_of_the_guide_reads_what_it_missed_and_leaves_what_is_old() -> None:
    rule = _rule_for_receivers()
    applied: list[int] = []

    def receive(sequence: int, previous: int, last_applied: int) -> int:
        def read_behind(after: int) -> list[dict[str, int]]:
            return [{"sequence": number} for number in range(after + 1, sequence + 1)]

        headers = {"x-job-previous": str(previous)}
        return rule(
            {"sequence": sequence}, headers, last_applied, lambda event: applied.append(event["sequence"]), read_behind
        )

    assert receive(1, 0, 0) == 1
    assert receive(4, 1, 1) == 4, "superseded progress between is no gap"
    assert receive(7, 6, 4) == 7
    assert receive(2, 1, 7) == 7
    assert receive(6, 4, 7) == 7
    assert applied == [1, 4, 5, 6, 7]


def _rule_for_receivers() -> Callable[..., int]:
    names: dict[str, Any] = {}
    [block] = [block for block in blocks(_FOR_RECEIVERS, "python") if "def receive" in block.text]
    exec(block.text, names)
    receive: Callable[..., int] = names["receive"]
    return receive


def _event(request: Received) -> Any:
    return json.loads(request.body)


def _nothing_missed(last_applied: int) -> list[dict[str, Any]]:
    raise AssertionError(f"nothing was missed behind {last_applied}")

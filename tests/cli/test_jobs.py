"""`dispatcher jobs`: where a job's events stand, the events, and a link."""

import asyncio
import json

import pytest

from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.settings import load
from tests.cli.conftest import Cli


def fan_out() -> None:
    """Lets a dispatcher look at what was published, on the settings' database."""

    async def work() -> None:
        async with Dispatcher(settings=load()) as dispatcher:
            await dispatcher.until_idle()

    asyncio.run(work())


def publish(cli: Cli, *types: str, **options: str) -> None:
    extra = [part for name, value in options.items() for part in (f"--{name}", value)]
    for event_type in types:
        outcome = cli("events", "publish", event_type, "--job-id", "job_1", "--data", '{"n": 1.50}', *extra)
        assert outcome.code == 0, outcome


def test_events_come_in_order_and_in_parts(cli: Cli) -> None:
    publish(cli, "job.started", "job.step", "job.step")
    fan_out()
    first = cli("jobs", "events", "job_1", "--limit", "2", "--json")
    assert first.code == 0
    assert '"n":1.50' in first.stdout
    assert [event["sequence"] for event in first.json["data"]] == [1, 2]
    assert cli("jobs", "events", "job_1", "--after", "2", "--json").json["after"] == 3
    shown = cli("jobs", "events", "job_1", "--limit", "2")
    assert "job.started" in shown.stdout
    assert "--after 2" in shown.stderr
    end = cli("jobs", "events", "job_1", "--after", "3", "--wait", "0.01")
    assert (end.code, end.stdout) == (0, "")
    assert "Nothing behind 3" in end.stderr


def test_a_job_that_nobody_mentioned_is_told_in_one_line(cli: Cli) -> None:
    for command in ("show", "events"):
        outcome = cli("jobs", command, "job_1")
        assert (outcome.code, outcome.stdout) == (1, "")
        assert "has no job job_1" in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1


def test_values_out_of_range_are_wrong_use(cli: Cli) -> None:
    assert cli("jobs", "events", "job_1", "--wait", "31").code == 2
    assert cli("jobs", "events", "job_1", "--after", "-1").code == 2
    assert cli("jobs", "link", "job_1", "--expires-in-s", "0").code == 2


def test_show_says_what_became_of_it_and_why(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as while_registered:
        while_registered.setenv("DISPATCHER_ALLOW_NETWORKS", "192.0.2.0/24")
        made = cli("endpoints", "create", "https://192.0.2.1/hook", "--retry-schedule", "", "--json")
    assert made.code == 0, made.stderr
    publish(cli, "job.started")
    fan_out()
    status = cli("jobs", "show", "job_1", "--json").json
    (endpoint,) = status["endpoints"]
    assert (status["last_sequence"], endpoint["dead"], endpoint["reasons"]) == (1, 1, {"blocked": 1})
    shown = cli("jobs", "show", "job_1")
    assert shown.code == 0
    for text in (made.json["id"], endpoint["dead_letters"][0]["id"], "dead: blocked"):
        assert text in shown.stdout


def test_show_of_a_job_without_deliveries_says_so(cli: Cli) -> None:
    publish(cli, "job.started", tenant="acme")
    shown = cli("jobs", "show", "job_1", "--tenant", "acme")
    assert shown.code == 0
    assert "no dispatcher has looked" in shown.stderr
    assert cli("jobs", "show", "job_1", "--tenant", "acme", "--json").json["not_fanned_out"] == 1


def test_a_link_is_the_path_alone_on_standard_output(cli: Cli) -> None:
    shown = cli("jobs", "link", "job/1")
    assert shown.code == 0
    assert shown.stdout.startswith("/v1/jobs/job%2F1/events?token=job_")
    assert len(shown.stdout.splitlines()) == 1
    link = json.loads(cli("jobs", "link", "job_1", "--tenant", "acme", "--expires-in-s", "60", "--json").stdout)
    assert (link["job_id"], link["tenant"]) == ("job_1", "acme")

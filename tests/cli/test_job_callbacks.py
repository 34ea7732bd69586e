"""`dispatcher jobs callback`: a job's own URL, registered once."""

import inspect

from dispatcher.cli import endpoints, job_callbacks
from tests.cli.conftest import Cli

URL = "https://example.com/jobs/1"


def test_the_same_job_and_url_again_is_the_same_callback(cli: Cli) -> None:
    first = cli("jobs", "callback", "job_1", URL, "--event-types", "job.*", "--profile", "flat", "--json").json
    again = cli("jobs", "callback", "job_1", URL, "--json").json
    assert (first["job_id"], first["event_types"], first["profile"]) == ("job_1", ["job.*"], "flat")
    assert (again["id"], again["secret"]) == (first["id"], first["secret"])
    assert cli("jobs", "callback", "job_2", URL, "--json").json["id"] != first["id"]
    listed = cli("endpoints", "list", "--job-id", "job_1", "--json").json["data"]
    assert [endpoint["id"] for endpoint in listed] == [first["id"]]


def test_people_are_shown_the_secret_once(cli: Cli) -> None:
    outcome = cli("jobs", "callback", "job_1", URL, "--secret", "s3cret-text", "--expires-in-s", "3600")
    assert outcome.code == 0
    assert "secret: s3cret-text" in outcome.stdout
    assert "not shown again" in outcome.stderr


def test_a_refused_url_is_code_2_and_registers_nothing(cli: Cli) -> None:
    outcome = cli("jobs", "callback", "job_1", "https://169.254.169.254/latest")
    assert outcome.code == 2
    assert "url" in outcome.stderr
    assert cli("endpoints", "list", "--json").json["data"] == []


def test_it_takes_every_option_that_an_endpoint_is_made_with(cli: Cli) -> None:
    its_own, all_of_them = (
        inspect.signature(command).parameters for command in (job_callbacks.callback, endpoints.create)
    )
    assert set(all_of_them) - set(its_own) == {"idempotency_key"}
    made = cli("jobs", "callback", "job_1", URL, "--progress-interval-s", "2.5", "--json").json
    assert (made["job_id"], made["progress_interval_s"]) == ("job_1", 2.5)

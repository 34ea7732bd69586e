"""`dispatcher events`: data from anywhere, unchanged, and what became of it."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_the_contract_s_line_works_as_written(bare_cli: Cli) -> None:
    outcome = bare_cli(
        *("events", "publish", "job.completed", "--job-id", "job_1"),
        *("--data", '{"status":"success"}', "--json"),
    )
    assert outcome.code == 0
    assert outcome.json["id"].startswith("evt_")
    assert outcome.json["type"] == "job.completed"
    assert outcome.json["job_id"] == "job_1"
    assert outcome.json["warnings"] == []


@pytest.mark.parametrize("source", ["text", "file", "standard input"])
def test_data_comes_from_anywhere_and_stays_as_it_was_written(cli: Cli, tmp_path: Path, source: str) -> None:
    written = '{"n":1.50,"n":1e2,"text":"ü\\u2028"}'
    file = tmp_path / "data.json"
    file.write_text(written)
    given = {"text": written, "file": f"@{file}", "standard input": "-"}[source]
    event_id = cli("events", "publish", "a.b", "--data", given, "--json", stdin=written.encode()).json["id"]
    assert f'"data":{written}' in cli("events", "show", event_id, "--json").stdout


@pytest.mark.parametrize(
    ("data", "stdin"), [("{", b""), ("NaN", b""), ("@no-such-file", b""), ("-", b"\xff\xfe"), ("-", b"")]
)
def test_data_that_is_no_json_is_refused_with_code_2(cli: Cli, data: str, stdin: bytes) -> None:
    outcome = cli("events", "publish", "a.b", "--data", data, stdin=stdin)
    assert outcome.code == 2
    assert "data" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert cli("events", "list", "--json").json["data"] == []


def test_the_same_key_with_other_content_is_refused_with_code_1(cli: Cli) -> None:
    publish = ("events", "publish", "a.b", "--idempotency-key", "k1", "--json", "--data")
    assert cli(*publish, "1").json["id"] == cli(*publish, "1").json["id"]
    outcome = cli(*publish, "2")
    assert outcome.code == 1
    assert outcome.stdout == ""


def test_events_are_listed_by_type_job_and_time(cli: Cli) -> None:
    for event_type, job_id in (("a.b", "job_1"), ("a.c", "job_1"), ("a.b", "job_2")):
        assert cli("events", "publish", event_type, "--job-id", job_id, "--data", "1").code == 0

    def listed(*filters: str) -> list[tuple[str, str]]:
        return [(event["type"], event["job_id"]) for event in cli("events", "list", "--json", *filters).json["data"]]

    assert listed() == [("a.b", "job_2"), ("a.c", "job_1"), ("a.b", "job_1")]
    assert listed("--type", "a.b", "--job-id", "job_1") == [("a.b", "job_1")]
    assert listed("--until", "1h") == []
    assert len(listed("--since", "1h")) == 3


def test_an_event_without_deliveries_says_why(cli: Cli) -> None:
    event_id = cli("events", "publish", "a.b", "--data", '{"k":[1]}', "--json").json["id"]
    outcome = cli("events", "show", event_id)
    assert '"k": [' in outcome.stdout
    assert "No deliveries" in outcome.stderr


def test_a_large_payload_is_taken_with_a_warning(cli: Cli) -> None:
    outcome = cli("events", "publish", "a.b", "--data", "-", "--json", stdin=b'"' + b"x" * 30_000 + b'"')
    assert outcome.code == 0
    assert outcome.json["warnings"]
    assert "Mind:" in outcome.stderr


def test_a_kind_is_given_by_name(cli: Cli) -> None:
    given = ("events", "publish", "a.b", "--job-id", "job_1", "--data", "1", "--json")
    event_id = cli(*given, "--kind", "terminal").json["id"]
    assert cli("events", "show", event_id, "--json").json["kind"] == "terminal"
    assert cli(*given, "--kind", "over").code == 2

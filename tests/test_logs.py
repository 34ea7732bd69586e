"""Logs: one line each, as JSON or for people; never a secret; never in the way of whoever logs."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from dispatcher import logs
from tests.process import process_as_before

log = logs.logger("dispatcher.test")


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    with process_as_before():
        yield


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_event_and_fields() -> None:
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    log.info("delivery.attempted", delivery_id="dlv_1", status=200, error=None, duration_ms=1.5)
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "delivery.attempted",
        "logger": "dispatcher.test",
        "delivery_id": "dlv_1",
        "status": 200,
        "error": None,
        "duration_ms": 1.5,
    }


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.BytesIO()
    logs.configure("json", "warning", stream)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in lines(stream)] == ["c", "d"]


def test_auto_is_json_where_there_is_no_terminal_and_console_is_for_people() -> None:
    stream = io.BytesIO()
    logs.configure("auto", "info", stream)
    log.info("first")
    assert lines(stream)[0]["event"] == "first"
    stream = io.BytesIO()
    logs.configure("console", "info", stream)
    log.info("second", job_id="job_1")
    text = stream.getvalue().decode()
    assert "second" in text
    assert "job_id=job_1" in text
    assert not text.startswith("{")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "field",
    ["secret", "new_secret", "Authorization", "webhook-signature", "signature", "password", "admin_key", "body"],
)
def test_a_sensitive_field_is_dropped(log_format: logs.Format, field: str) -> None:
    stream = io.BytesIO()
    logs.configure(log_format, "info", stream)
    log.info("a", **{field: "hidden"}, shown="kept")
    assert b"hidden" not in stream.getvalue()
    assert b"kept" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_is_written_without_local_variables(log_format: logs.Format) -> None:
    stream = io.BytesIO()
    logs.configure(log_format, "info", stream)

    def fail() -> None:
        local = "hidden"
        raise LookupError(len(local))

    try:
        fail()
    except LookupError:
        log.exception("failed")
    assert b"LookupError: 6" in stream.getvalue()
    assert b"hidden" not in stream.getvalue()


def test_other_libraries_warnings_come_through_the_same_pipeline_and_their_chatter_does_not() -> None:
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    other = logging.getLogger("somebody.elses")
    other.info("chatter")
    other.warning("careful, %s", "you")
    try:
        raise OSError("gone")
    except OSError:
        other.exception("broken")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old habit", UserWarning, stacklevel=1)
    first, second, third = lines(stream)
    assert (first["level"], first["event"], first["logger"]) == ("warning", "careful, you", "somebody.elses")
    assert second["level"] == "error"
    assert "OSError: gone" in second["exception"]
    assert "old habit" in third["event"]


def test_warnings_reach_the_log_although_an_earlier_test_left_them_captured() -> None:
    with warnings.catch_warnings():
        logging.captureWarnings(True)
    stream = io.BytesIO()
    with process_as_before(), warnings.catch_warnings():
        logs.configure("json", "info", stream)
        warnings.simplefilter("always")
        warnings.warn("old habit", UserWarning, stacklevel=1)
    (line,) = lines(stream)
    assert "old habit" in line["event"]


def test_configuring_twice_writes_foreign_lines_once() -> None:
    logs.configure("json", "info", io.BytesIO())
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    logging.getLogger("somebody.elses").warning("once")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("value", ["\ud800", {1: 2}, {b"x"}, ValueError("x"), float("nan")])
def test_any_value_can_be_logged(value: object) -> None:
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    log.info("odd", value=value)
    (line,) = lines(stream)
    assert line["event"] == "odd"
    assert "value" in line


class _Counted(logs.Line):
    number: int
    text: str = ""


def counted(number: int, text: str = "") -> _Counted:
    return _Counted(datetime.now(UTC), "info", "counted", "dispatcher.test", number, text)


async def test_declared_lines_keep_their_place_among_others() -> None:
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    log.line(counted(1))
    log.line(counted(2))
    log.info("counted", number=3)
    log.line(counted(4))
    await asyncio.sleep(0)
    assert [line["number"] for line in lines(stream)] == [1, 2, 3, 4]
    assert {tuple(line)[:4] for line in lines(stream)} == {("time", "level", "event", "logger")}


async def test_a_declared_line_that_is_no_utf8_takes_none_with_it() -> None:
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    for number, text in enumerate(("one", "\ud800", "three")):
        log.line(counted(number, text))
    await asyncio.sleep(0)
    assert [line["text"] for line in lines(stream)] == ["one", "\\ud800", "three"]


async def test_what_was_logged_goes_where_the_log_went_then() -> None:
    before, after = io.BytesIO(), io.BytesIO()
    logs.configure("json", "info", before)
    log.line(counted(1))
    logs.configure("json", "info", after)
    log.line(counted(2))
    await asyncio.sleep(0)
    assert [line["number"] for line in lines(before)] == [1]
    assert [line["number"] for line in lines(after)] == [2]


def test_a_declared_line_is_written_at_once_where_no_loop_runs() -> None:
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    log.line(counted(1))
    assert [line["number"] for line in lines(stream)] == [1]


def test_a_stream_that_is_gone_does_not_stop_the_caller() -> None:
    stream = io.BytesIO()
    logs.configure("json", "info", stream)
    stream.close()
    log.info("nobody reads this")
    assert stream.closed


def test_until_configured_lines_go_to_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dispatcher"):
        log.debug("too little")
        log.info("dispatcher.started", pid=7, secret="hidden")
    assert caplog.messages == ["dispatcher.started pid=7"]
    assert caplog.records[0].name == "dispatcher.test"

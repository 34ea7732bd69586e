"""CloudEvents: what the published library reads from each mode is what was published."""

from datetime import UTC, datetime

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from dispatcher.rules.bodies import EventFacts, body_headers, frozen_profile, render

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MODES = pytest.mark.parametrize("mode", ["cloudevents", "cloudevents-binary"])


def facts(**given: object) -> EventFacts:
    fields = {
        "id": "evt_1",
        "type": "job.progress",
        "timestamp": WHEN,
        "job_id": "job_1",
        "sequence": 12,
        "data": '{ "percentage": 40.0 }',
        "traceparent": TRACE,
    }
    return EventFacts(**{**fields, **given})  # type: ignore[arg-type]


def read(mode: str, event: EventFacts, source: str = "https://api.example.com/jobs") -> BaseCloudEvent:
    profile = frozen_profile(mode, source)
    return from_http_event(HTTPMessage(dict(body_headers(profile, event)), render(profile, event)))


@MODES
def test_the_library_reads_every_attribute_and_the_data(mode: str) -> None:
    event = read(mode, facts())
    assert event.get_specversion() == "1.0"
    assert (event.get_id(), event.get_type()) == ("evt_1", "job.progress")
    assert (event.get_source(), event.get_subject()) == ("https://api.example.com/jobs", "job_1")
    assert (event.get_time(), event.get_datacontenttype()) == (WHEN, "application/json")
    assert event.get_extension("sequence") == "0000000000000000012"
    assert event.get_extension("traceparent") == TRACE
    assert event.get_data() == {"percentage": 40.0}


@MODES
def test_what_an_event_does_not_have_is_no_attribute(mode: str) -> None:
    event = read(mode, facts(job_id=None, sequence=None, traceparent=None))
    assert set(event.get_attributes()) == {"specversion", "id", "source", "type", "time", "datacontenttype"}


@MODES
@pytest.mark.parametrize("job_id", ['50 % of "Zürich"', "😀", "a,b;c=d", "%41"])
def test_any_job_id_comes_back_as_it_was(mode: str, job_id: str) -> None:
    assert read(mode, facts(job_id=job_id)).get_subject() == job_id


@MODES
def test_a_source_with_percent_signs_comes_back_as_it_was(mode: str) -> None:
    assert read(mode, facts(), "urn:a%20b'c").get_source() == "urn:a%20b'c"


def test_header_values_are_visible_ascii_without_what_the_binding_encodes() -> None:
    headers = body_headers("cloudevents-binary;source=/a%20b", facts(job_id='50 % of "Zürich"\x7f'))
    assert headers["ce-subject"] == "50%20%25%20of%20%22Z%C3%BCrich%22%7F"
    assert headers["ce-source"] == "/a%2520b"
    assert headers["content-type"] == "application/json"


def test_sequences_sort_as_texts() -> None:
    numbers = [1, 9, 10, 99, 100, 2**63 - 1]
    texts = [body_headers("cloudevents-binary;source=/a", facts(sequence=number))["ce-sequence"] for number in numbers]
    assert texts == sorted(texts)
    assert [int(text) for text in texts] == numbers


def test_data_stands_in_the_body_as_written() -> None:
    event = facts(data='{ "n" : 1.50, "n": 2 }')
    assert render("cloudevents;source=/a", event).endswith(b',"data":{"n":1.50,"n":2}}')
    assert render("cloudevents-binary;source=/a", event) == b'{"n":1.50,"n":2}'

"""Answers as JSON: data as it was written, times with Z."""

import json
from datetime import UTC, datetime

from dispatcher.service.models import Event, Page
from dispatcher.states import EventKind

EVENT = Event(
    id="evt_1",
    tenant="default",
    type="a",
    job_id=None,
    kind=EventKind.STATE,
    sequence=None,
    data='{"n":1.000000000000000000001,"n":2}',
    timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    created_at=datetime(2026, 1, 2, 3, 4, 5, 250000, tzinfo=UTC),
)
TEXT = (
    '{"id":"evt_1","tenant":"default","type":"a","job_id":null,"kind":"state","sequence":null,'
    '"data":{"n":1.000000000000000000001,"n":2},'
    '"timestamp":"2026-01-02T03:04:05Z","created_at":"2026-01-02T03:04:05.250000Z","rejected":null}'
)


def test_json_holds_an_events_data_as_it_was_written() -> None:
    assert EVENT.model_dump_json() == TEXT
    assert EVENT.json_bytes() == TEXT.encode()
    page = Page[Event](data=[EVENT], next_cursor=None)
    assert page.model_dump_json() == f'{{"data":[{TEXT}],"next_cursor":null}}'


def test_what_is_no_json_stands_as_a_text_and_spoils_nothing_around_it() -> None:
    for data in ('{"a":', "", "NaN", '{"a":1}\0', "[" * 100_000, "1 2"):
        page = Page[Event](data=[EVENT.model_copy(update={"data": data}), EVENT], next_cursor=None)
        assert [event["data"] for event in json.loads(page.json_bytes())["data"]] == [data, {"n": 2}]


def test_json_for_people_is_the_same_with_line_breaks() -> None:
    assert '"n": 1.000000000000000000001,\n' in EVENT.model_dump_json(indent=2)
    assert json.loads(EVENT.model_dump_json(indent=2)) == json.loads(TEXT)


def test_values_for_a_program_are_plain_json_values() -> None:
    assert EVENT.model_dump(mode="json")["data"] == {"n": 2}

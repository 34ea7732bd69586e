"""What is sent to the service: events' data stays as written, and whatever is wrong is named."""

from datetime import UTC, datetime

import pytest

from dispatcher.errors import InvalidField, InvalidFields
from dispatcher.service.models import (
    EndpointCreate,
    EndpointUpdate,
    EventPublish,
    Recover,
    UnreadableJson,
    parse_event,
    parse_event_batch,
)


def test_data_keeps_its_numbers_and_duplicate_keys() -> None:
    event = parse_event(
        b'{"type": "a.b", "data": {"n": 1.000000000000000000001, "n": 1e2, "big": 98765432109876543210}}'
    )
    assert event.data == '{"n":1.000000000000000000001,"n":1e2,"big":98765432109876543210}'


def test_data_may_be_any_json() -> None:
    for text in ("null", "[]", '"ü"', "0", "{}"):
        assert parse_event(f'{{"type":"a","data":{text}}}'.encode()).data == text


def test_times_are_read_with_any_offset_and_only_with_one() -> None:
    assert Recover.read({"since": "2026-01-02T03:04:05.25+02:00"}).since == datetime(
        2026, 1, 2, 1, 4, 5, 250000, tzinfo=UTC
    )
    for wrong in ("2026-01-02T03:04:05", "yesterday", "0001-01-01T00:00:00+14:00", 5, None):
        with pytest.raises(InvalidFields, match="since: "):
            Recover.read({"since": wrong})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b'{"type":"a","data":"\xff"}',
        b'{"type":"a","data":NaN}',
        b'{"type":"a","data":"\\ud800"}',
        b'{"type":"a","data":1} x',
        b'{"type":"a","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_json_in_utf_8_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableJson):
        parse_event(raw)
    with pytest.raises(UnreadableJson):
        parse_event_batch(b'{"events":[' + raw + b"]}" if raw not in (b"",) else raw)


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (b"[]", ["body"]),
        (b"null", ["body"]),
        (b"{}", ["type", "data"]),
        (b'{"type":"a"}', ["data"]),
        (b'{"type":"webhook.test","data":1}', ["type"]),
        (b'{"type":"a b","data":1,"kind":"stat"}', ["type", "kind"]),
        (b'{"type":"a","data":1,"job_id":1}', ["job_id"]),
        (b'{"type":"a","data":1,"job_id":""}', ["job_id"]),
        (b'{"type":"a","data":1,"job_id":"\\u0000"}', ["job_id"]),
        (b'{"type":"a","data":1,"job_id":1e999}', ["job_id"]),
        (b'{"type":"a","data":1,"id":"a.b"}', ["id"]),
        (b'{"type":"a","data":1,"id":"a","idempotency_key":"k"}', ["idempotency_key"]),
        (b'{"type":"a","data":1,"traceparent":"00-zz"}', ["traceparent"]),
        (b'{"type":"a","data":1,"timestamp":"now"}', ["timestamp"]),
        (b'{"type":"a","data":1,"timestamp":"0001-01-01T00:00:00Z"}', ["timestamp"]),
        (b'{"type":"a","data":1,"timestamp":"9999-12-31T23:59:59.999999Z"}', ["timestamp"]),
        (b'{"type":"a","data":1,"tenant":"' + b"x" * 129 + b'"}', ["tenant"]),
        (b'{"type":"a","data":1,"events":[]}', ["events"]),
    ],
)
def test_wrong_fields_of_an_event_are_named(raw: bytes, fields: list[str]) -> None:
    with pytest.raises(InvalidField) as raised:
        parse_event(raw)
    assert sorted(problem.field for problem in raised.value.problems) == sorted(fields)


def test_wrong_fields_of_a_batch_are_named_with_their_index() -> None:
    with pytest.raises(InvalidFields) as raised:
        parse_event_batch(b'{"events":[{"type":"a","data":1},{"type":"a b","data":1},3,{"data":1,"job_id":1e999}]}')
    assert [problem.field for problem in raised.value.problems] == ["events/1/type", "events/2", "events/3/job_id"]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"{}", "events"),
        (b'{"events":{}}', "events"),
        (b'{"events":[]}', "events"),
        (b'{"events":[' + b",".join([b'{"type":"a","data":1}'] * 1001) + b"]}", "events"),
        (b'{"events":[{"type":"a","data":1}],"all":true}', "all"),
    ],
)
def test_a_batch_is_one_to_a_thousand_events(raw: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as raised:
        parse_event_batch(raw)
    assert raised.value.field == field


def test_no_value_of_a_field_is_in_the_message_that_refuses_it() -> None:
    with pytest.raises(InvalidFields) as raised:
        EndpointCreate.read(
            {"url": 1, "secret": "pa55\x00word-text", "headers": {"X-A": "h3ader\n"}, "metadata": {"a": ["t0ken"]}}
        )
    assert len(raised.value.problems) == 4
    for secret in ("pa55", "h3ader", "t0ken"):
        assert secret not in str(raised.value)


def test_schemas_show_aliases_and_no_default_that_an_update_would_not_apply() -> None:
    create, update = EndpointCreate.model_json_schema(), EndpointUpdate.model_json_schema()
    assert create["oneOf"] == [{"required": ["url"]}, {"required": ["target_url"]}]
    assert {"target_url", "event_type", "events"} <= create["properties"].keys()
    assert create["properties"]["ordered"]["default"] is True
    assert not any("default" in field for field in update["properties"].values())
    assert not {"required", "oneOf"} & update.keys()
    assert "type" not in EventPublish.model_json_schema()["properties"]["data"]

"""What may not become an event is refused by name, whatever type a producer's variable turns out to have."""

from datetime import datetime
from typing import Any

import pytest

from dispatcher.errors import InvalidField, TooLargeField
from dispatcher.outbox.events import new_event
from dispatcher.rules.new_events import NewEvent

_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def event(**given: Any) -> NewEvent:
    return new_event(given.pop("type", "a.b"), "1", max_payload=100, **given)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", 5),
        ("type", None),
        ("tenant", None),
        ("job_id", 5),
        ("job_id", "a\x00"),
        ("kind", 5),
        ("kind", "STATE"),
        ("id", 7),
        ("id", "ends-in-a-line-break\n"),
        ("idempotency_key", b"key"),
        ("timestamp", 1767225600),
        ("timestamp", datetime(2026, 1, 1)),  # noqa: DTZ001 - that is what is refused
        ("timestamp", "0001-01-01T00:00:00+23:59"),
        ("traceparent", 5),
        ("traceparent", f"{_TRACE}\n"),
        ("traceparent", f"{_TRACE}-more"),
    ],
)
def test_a_value_of_the_wrong_type_or_form_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidField) as refused:
        event(**{field: value})
    assert refused.value.field == field


def test_data_that_is_too_large_is_told_with_its_place_and_the_limit() -> None:
    with pytest.raises(TooLargeField, match="limit is 100") as refused:
        new_event("a.b", f'"{"x" * 100}"', max_payload=100, at="events/3/")
    assert refused.value.field == "events/3/data"


def test_a_trace_context_is_kept() -> None:
    assert event(traceparent=_TRACE).traceparent == _TRACE

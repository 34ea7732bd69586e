"""Events that are read quickly: as they are when they are vetted field by field, or not at all."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import CallerError
from dispatcher.service.models import EventPublish, parse_event, parse_event_batch
from dispatcher.service.sent_events import read_event, read_events

_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ("a", "a.b", "webhook.a", "x" * 128, "x" * 129, "x" * 255, "x" * 256, "a\x00", "\ud800", "", "evt_1", "a b")
    ),
)
_FIELDS: dict[str, Any] = {
    "job_id": _TEXTS,
    "kind": st.sampled_from(("state", "progress", "terminal", "stat", "")),
    "id": _TEXTS,
    "timestamp": st.one_of(
        st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
        st.sampled_from(("2026-01-02T03:04:05+01:00", "2026-01-02", "now", "0001-01-01T00:00:00Z")),
    ),
    "traceparent": st.sampled_from(("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-zz", "")),
    "idempotency_key": _TEXTS,
    "tenant": _TEXTS,
    "unknown": st.just(1),
}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_EVENTS = st.fixed_dictionaries(
    {"type": _TEXTS, "data": _JSON},
    optional={name: value | st.none() | st.integers(0, 1) for name, value in _FIELDS.items()},
)


def _vetted(event: dict[str, Any], *, escaped: bool = True) -> object:
    """As it is where each field is vetted; null where it is refused."""
    fields = {**event, "data": json.dumps(event["data"], ensure_ascii=escaped)}
    try:
        return EventPublish.read(fields).sent()
    except CallerError:
        return None


@given(_EVENTS, st.booleans())
def test_an_event_that_is_read_quickly_is_as_if_it_were_vetted(event: dict[str, Any], escaped: bool) -> None:
    raw = json.dumps(event, ensure_ascii=escaped).encode(errors="surrogatepass")
    assert read_event(raw) == _vetted(event, escaped=escaped)


@given(st.lists(_EVENTS, max_size=3))
def test_so_is_a_batch_all_or_none(events: list[dict[str, Any]]) -> None:
    raw = json.dumps({"events": events}).encode()
    vetted = [_vetted(event) for event in events]
    assert read_events(raw, 2) == (None if None in vetted or not 1 <= len(events) <= 2 else vetted)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"a","data":1}',
        b'{"type":"a","data":{"n":1.000000000000000000001, "n":1e2},"job_id":"j","kind":"terminal","id":"e"}',
        b'{"type":"a","data":null,"idempotency_key":"k","timestamp":"2026-01-02T03:04:05+02:00"}',
    ],
)
def test_what_nothing_is_wrong_with_is_read_quickly(raw: bytes) -> None:
    event = read_event(raw)
    assert event is not None
    assert parse_event(raw) == event
    assert parse_event_batch(b'{"events":[' + raw + b"]}") == [event]

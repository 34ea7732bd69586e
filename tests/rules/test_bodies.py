"""Bodies: the exact bytes of each profile, the same every time, with the producer's numbers as written."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules.bodies import EventFacts, body_headers, frozen_profile, render
from dispatcher.rules.json_text import encode, same
from dispatcher.states import Profile

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


#: Every profile as deliveries keep it.
FROZEN = [frozen_profile(profile, "/dispatcher") for profile in Profile]


def facts(data: str = '{"a":1}', job_id: str | None = "job_1", sequence: int | None = 3) -> EventFacts:
    return EventFacts("evt_1", "job.progress", WHEN, job_id, sequence, data)


def test_standard_has_the_contracts_keys_in_their_order() -> None:
    assert render("standard", facts()) == (
        b'{"type":"job.progress","id":"evt_1","timestamp":"2026-01-02T03:04:05.678901Z",'
        b'"job_id":"job_1","sequence":3,"data":{"a":1}}'
    )


def test_without_a_job_there_are_no_job_keys() -> None:
    assert render("standard", facts(job_id=None, sequence=None)) == (
        b'{"type":"job.progress","id":"evt_1","timestamp":"2026-01-02T03:04:05.678901Z","data":{"a":1}}'
    )
    assert b"job_id" not in render("flat", facts(job_id=None, sequence=None))
    assert b"sequence" not in render("flat", facts(job_id=None, sequence=None))


def test_flat_puts_datas_keys_beside_the_events() -> None:
    assert render("flat", facts('{"status":"ok", "n": 1.10}')) == (
        b'{"type":"job.progress","event":"job.progress","event_type":"job.progress","id":"evt_1","event_id":"evt_1",'
        b'"timestamp":"2026-01-02T03:04:05.678901Z","job_id":"job_1","sequence":3,"status":"ok","n":1.10}'
    )


@pytest.mark.parametrize("name", ["type", "event", "event_type", "id", "event_id", "timestamp", "job_id", "sequence"])
def test_in_flat_a_key_of_data_wins_over_ours(name: str) -> None:
    for data in (f'{{"{name}":"mine"}}', f'{{"\\u{ord(name[0]):04x}{name[1:]}":"mine"}}'):
        pairs = json.loads(render("flat", facts(data)), object_pairs_hook=list)
        assert [value for key, value in pairs if key == name] == ["mine"]
        assert len(pairs) == 8


@pytest.mark.parametrize("data", ["[1, 2.0]", "1.10", '"text"', "null", "true"])
def test_in_flat_data_that_is_no_object_stands_under_data(data: str) -> None:
    body = render("flat", facts(data))

    assert json.loads(body)["data"] == json.loads(data)
    assert json.loads(body)["event"] == "job.progress"


def test_in_flat_an_empty_object_adds_nothing() -> None:
    assert render("flat", facts(" { } ")).endswith(b'"sequence":3}')


def test_raw_is_data_itself() -> None:
    assert render("raw", facts('{ "n" : 1.10,\n "n": 2 }')) == b'{"n":1.10,"n":2}'


@pytest.mark.parametrize("profile", FROZEN)
@pytest.mark.parametrize(
    "data", ['{"n":1.10}', '{"n":123456789012345678901234567890}', '{"n":1E+5,"n":-0.0}', '{"t":"\u2028\\u2028ü😀"}']
)
def test_numbers_duplicate_keys_and_escapes_are_sent_as_written(profile: str, data: str) -> None:
    assert data[1:-1].encode() in render(profile, facts(data))


@pytest.mark.parametrize("profile", FROZEN)
@given(value=VALUES, job_id=st.none() | TEXTS, sequence=st.none() | st.integers(min_value=1, max_value=1 << 60))
def test_any_event_becomes_the_same_valid_json_every_time(
    profile: str, value: Any, job_id: str | None, sequence: int | None
) -> None:
    spread = json.dumps(value, indent=2)

    body = render(profile, facts(spread, job_id, sequence))

    assert body == render(profile, facts(spread, job_id, sequence))
    read = json.loads(body)
    if profile == Profile.RAW or profile.startswith("cloudevents-binary"):
        assert same(body.decode(), spread)
    elif profile == Profile.A2A_1_0:
        [(member, inside)] = read.items()
        assert member == ("message" if job_id is None else "statusUpdate")
        parts = (inside if job_id is None else inside["status"]["message"])["parts"]
        assert same(encode(parts[-1]["data"]), encode(value))
    elif profile != Profile.FLAT:
        assert same(encode(read["data"]), encode(value))
        assert read.get("subject" if "source" in read else "job_id") == (
            job_id or (None if "source" in read else job_id)
        )
    elif isinstance(value, dict):
        assert read.items() >= value.items()
    else:
        assert same(encode(read["data"]), encode(value))


def test_the_timestamp_is_utc_whatever_zone_it_was_given_in() -> None:
    berlin = WHEN.replace(microsecond=0).astimezone(timezone(timedelta(hours=2)))
    event = EventFacts("evt_1", "a", berlin, None, None, "1")

    assert b'"timestamp":"2026-01-02T03:04:05Z"' in render("standard", event)


@pytest.mark.parametrize("profile", FROZEN)
@pytest.mark.parametrize("data", ["", "{", "NaN", '"\\ud800"', "[" * 2000 + "]" * 2000])
def test_unreadable_data_is_refused_by_name(profile: str, data: str) -> None:
    with pytest.raises(InvalidField) as refused:
        render(profile, facts(data))
    assert refused.value.field == "data"


@pytest.mark.parametrize("profile", ["", "Standard", "xml", "cloudevents", "cloudevents;source=", "standard;source=/a"])
def test_an_unknown_profile_is_refused_by_name(profile: str) -> None:
    with pytest.raises(InvalidField, match="standard, flat, raw") as refused:
        render(profile, facts())
    assert refused.value.field == "profile"


@pytest.mark.parametrize(
    ("profile", "content_type"),
    [
        ("standard", "application/json"),
        ("flat", "application/json"),
        ("raw", "application/json"),
        ("a2a-1.0", "application/a2a+json"),
        ("cloudevents;source=/a", "application/cloudevents+json"),
    ],
)
def test_a_body_is_named_by_its_content_type_alone(profile: str, content_type: str) -> None:
    assert body_headers(profile, facts()) == {"content-type": content_type}


def test_only_profiles_that_name_the_source_are_frozen_with_it() -> None:
    kept = [profile for profile in Profile if frozen_profile(profile, "/a") == profile]
    assert kept == ["standard", "flat", "raw", "a2a-1.0"]

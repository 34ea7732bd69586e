"""Endpoint rows: numbers that never meet, and what goes into a column comes out of it."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ids import Kind, public_id, row_id
from dispatcher.store.endpoint_rows import (
    callback_row,
    new_endpoint_row,
    open_headers,
    read_schedule,
    schedule_text,
    seal_headers,
)
from dispatcher.store.keyring import KeyRing

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXTS, TEXTS, TEXTS)
def test_a_callbacks_row_is_its_own_and_none_that_is_drawn(tenant: str, job_id: str, url: str) -> None:
    row = callback_row(tenant, job_id, url)
    assert row == callback_row(tenant, job_id, url)
    assert 2**62 <= row < 2**63
    assert 2**61 <= new_endpoint_row() < 2**62
    assert row_id(Kind.ENDPOINT, public_id(Kind.ENDPOINT, row)) == row


def test_a_callbacks_row_tells_where_one_part_ends_and_the_next_begins() -> None:
    assert len({callback_row("a", "bc", "d"), callback_row("ab", "c", "d"), callback_row("a", "b", "cd")}) == 3


@given(st.none() | st.lists(st.floats(0, 1e6)))
def test_a_retry_schedule_survives_its_column(schedule: list[float] | None) -> None:
    assert read_schedule(schedule_text(schedule)) == (None if schedule is None else tuple(schedule))


def test_headers_survive_their_column_and_none_takes_no_ciphertext() -> None:
    ring = KeyRing((b"k" * 32,))
    sealed = seal_headers(ring, 1, {"X-A": "ü", "x-b": ""})
    assert open_headers(ring, 1, sealed) == {"X-A": "ü", "x-b": ""}
    assert seal_headers(ring, 1, {}) is None
    assert open_headers(ring, 1, None) == {}

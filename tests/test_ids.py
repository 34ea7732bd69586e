"""Public ids: a bijection that shows no row number, and refuses what it did not make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import NotFound
from dispatcher.ids import EVENT_ID, Kind, event_id_for_key, new_event_id, public_id, row_id

ROWS = st.integers(min_value=0, max_value=(1 << 63) - 1)


@given(kind=st.sampled_from(Kind), number=ROWS)
def test_a_public_id_leads_back_to_its_row(kind: Kind, number: int) -> None:
    identifier = public_id(kind, number)

    assert identifier.startswith(f"{kind.value}_")
    assert row_id(kind, identifier) == number


@given(kind=st.sampled_from(Kind), other=st.sampled_from(Kind), number=ROWS)
def test_an_id_of_another_kind_is_not_found(kind: Kind, other: Kind, number: int) -> None:
    if kind is other:
        assert row_id(other, public_id(kind, number)) == number
        return
    with pytest.raises(NotFound):
        row_id(other, public_id(kind, number))


@given(st.text(max_size=40))
def test_any_text_is_either_the_one_id_of_a_row_or_not_found(text: str) -> None:
    try:
        number = row_id(Kind.ENDPOINT, text)
    except NotFound:
        return
    assert public_id(Kind.ENDPOINT, number) == text


@given(st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=13, max_size=13))
def test_any_digits_are_either_the_one_id_of_a_row_or_not_found(digits: str) -> None:
    try:
        number = row_id(Kind.DELIVERY, f"dlv_{digits}")
    except NotFound:
        return
    assert public_id(Kind.DELIVERY, number) == f"dlv_{digits}"


def test_neighbouring_rows_do_not_have_neighbouring_ids() -> None:
    first, second = public_id(Kind.ENDPOINT, 1), public_id(Kind.ENDPOINT, 2)

    assert sum(one != other for one, other in zip(first, second, strict=True)) > 6


def test_a_fresh_event_id_is_valid_and_never_the_same() -> None:
    fresh = {new_event_id() for _ in range(1000)}

    assert len(fresh) == 1000
    assert all(EVENT_ID.match(identifier) and "." not in identifier for identifier in fresh)


@given(tenant=st.text(st.characters(codec="utf-8")), key=st.text(st.characters(codec="utf-8")))
def test_an_idempotency_key_always_stands_for_the_same_valid_id(tenant: str, key: str) -> None:
    identifier = event_id_for_key(tenant, key)

    assert identifier == event_id_for_key(tenant, key)
    assert EVENT_ID.match(identifier)
    assert len(identifier.removeprefix("evt_")) == 32


def test_tenant_and_key_do_not_run_into_each_other() -> None:
    assert event_id_for_key("a", "b:c") != event_id_for_key("a:b", "c")
    assert event_id_for_key("ab", "c") != event_id_for_key("a", "bc")


@pytest.mark.parametrize("text", ["", "a.b", "a b", "ü", "a\n", "a" * 129])
def test_what_a_caller_may_not_choose_as_an_event_id(text: str) -> None:
    assert not EVENT_ID.match(text)

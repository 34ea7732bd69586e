"""A job's link: what it says, and that nobody else can have said it."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules import job_links
from dispatcher.rules.job_links import JobLink

KEY, OTHER = b"k" * 32, b"o" * 32
EXPIRES_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128)


@given(tenant=names, job_id=names)
def test_a_link_says_whose_job_it_is_and_until_when(tenant: str, job_id: str) -> None:
    token = job_links.issue([KEY], tenant, job_id, EXPIRES_AT)
    assert token.startswith("job_")
    assert all(character.isalnum() or character in "-_" for character in token)
    assert len(token) <= job_links.LONGEST_TOKEN
    assert job_links.read([KEY], token) == JobLink(tenant, job_id, EXPIRES_AT)


def test_the_longest_names_fit() -> None:
    token = job_links.issue([KEY], "\U0001f642" * 128, "\U0001f642" * 255, EXPIRES_AT)
    assert job_links.read([KEY], token) is not None


def test_the_first_key_signs_and_any_verifies() -> None:
    token = job_links.issue([KEY, OTHER], "default", "job_1", EXPIRES_AT)
    assert job_links.read([OTHER, KEY], token) is not None
    assert job_links.read([OTHER], token) is None


@given(st.data())
def test_a_changed_link_says_nothing(data: st.DataObject) -> None:
    token = job_links.issue([KEY], "default", "job_1", EXPIRES_AT)
    raw = bytearray(base64.urlsafe_b64decode(token[4:] + "=" * (-len(token[4:]) % 4)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    assert job_links.read([KEY], "job_" + base64.urlsafe_b64encode(raw).decode().rstrip("=")) is None


@given(st.text(max_size=200))
def test_what_is_no_link_says_nothing(text: str) -> None:
    assert job_links.read([KEY], text) is None
    assert job_links.read([KEY], "job_" + text) is None


def test_its_path_names_the_job_whatever_its_name_is() -> None:
    assert job_links.path_of("a/b ?é", "job_x") == "/v1/jobs/a%2Fb%20%3F%C3%A9/events?token=job_x"


@pytest.mark.parametrize("seconds", [0, 0.5, -1, 7 * 86400 + 1, float("nan"), float("inf")])
def test_it_holds_for_a_second_to_a_week(seconds: float) -> None:
    with pytest.raises(InvalidField, match="7 days"):
        job_links.check_expires_in("expires_in", seconds)

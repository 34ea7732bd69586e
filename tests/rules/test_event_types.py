"""Types and patterns: what may be published, what may be subscribed to, and that both readings of a match agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules.event_types import check_pattern, check_type, matches, patterns_for

WORDS = st.sampled_from(["a", "b", "job", "A_1", "webhook"])
TYPES = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.just("*") | TYPES | TYPES.map(lambda prefix: f"{prefix}.*")


@pytest.mark.parametrize("text", ["a", "job.completed", "JOB_DONE", "a.b.c.d", "1.2", "_", "a" * 255, "webhooks.x"])
def test_legal_types(text: str) -> None:
    assert check_type(text) == text
    assert check_pattern(text) == text


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "a b", "a-b", "job.*", "*", "ü", "a\n", "a.b\n", "a\x00", "١", "a" * 256]
)
def test_illegal_types_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_type(text)
    assert refused.value.field == "type"


def test_types_under_webhook_are_ours_alone() -> None:
    with pytest.raises(InvalidField, match="own"):
        check_type("webhook.test")
    assert check_type("webhook.test", reserved=True) == "webhook.test"
    assert check_pattern("webhook.*") == "webhook.*"


@pytest.mark.parametrize("text", ["*", "job.*", "a.b.*", "A_1.*"])
def test_legal_patterns(text: str) -> None:
    assert check_pattern(text) == text


@pytest.mark.parametrize("text", ["", "**", "*.a", "a.*.b", "a*", "a.**", ".*", "a.*\n", "*\n", "job.?", "a" * 300])
def test_illegal_patterns_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        check_pattern(text)
    assert refused.value.field == "event_types"


def test_the_patterns_for_a_type() -> None:
    assert patterns_for("a.b.c") == ("*", "a.*", "a.b.*", "a.b.c")
    assert patterns_for("a") == ("*", "a")
    assert patterns_for("webhook.delivery_dead") == ("webhook.*", "webhook.delivery_dead")


@pytest.mark.parametrize(
    ("pattern", "event_type", "matched"),
    [
        ("job.*", "job.completed", True),
        ("job.*", "job.step.done", True),
        ("job.*", "job", False),
        ("job.*", "jobs.completed", False),
        ("job", "job.completed", False),
        ("job.completed", "JOB.completed", False),
        ("*", "anything.at.all", True),
        ("*", "webhooks.at.all", True),
        ("*", "webhook.delivery_dead", False),
        ("webhook.*", "webhook.delivery_dead", True),
    ],
)
def test_a_prefix_matches_any_depth_below_and_not_itself(pattern: str, event_type: str, matched: bool) -> None:
    assert matches(pattern, event_type) is matched


@given(pattern=PATTERNS, event_type=TYPES)
def test_the_list_of_patterns_and_the_match_agree(pattern: str, event_type: str) -> None:
    given_type = check_type(event_type, reserved=True)
    assert matches(check_pattern(pattern), given_type) == (pattern in patterns_for(event_type))

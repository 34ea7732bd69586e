"""Tables of the documentation that say again what the code says."""

import re
from enum import StrEnum

import pytest
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from dispatcher import metrics
from dispatcher.api.table import ROUTES
from dispatcher.rules.retry import RetryPolicy
from dispatcher.rules.verdict import Exchange, Outcome, judge
from dispatcher.settings import Settings
from dispatcher.states import AttemptError, DeliveryState, Profile, Reason
from dispatcher.store.tables import tables
from tests.docs.pages import ROOT

_DOCS = ROOT / "docs"
_STATES = (ROOT / "dispatcher" / "states.py").read_text()


def _explained(word: StrEnum) -> str:
    """The comment that explains a member of a closed set."""
    cls = re.search(rf"^class {type(word).__name__}\(.*?(?=^class |\Z)", _STATES, re.MULTILINE | re.DOTALL)
    assert cls
    found = re.search(rf"#: (?P<text>[^\n]+)\n    {word.name} = ", cls[0])
    assert found, f"{word!r} has no one-line explanation"
    return found["text"]


@pytest.mark.parametrize(
    ("page", "words"),
    [("guarantees.md", DeliveryState), ("guarantees.md", Reason), ("receivers.md", AttemptError)],
)
def test_every_state_reason_and_error_is_explained_as_in_the_code(page: str, words: type[StrEnum]) -> None:
    text = (_DOCS / page).read_text()
    for word in words:
        assert f"| `{word}` | {_explained(word)} |" in text


def test_every_metric_is_in_the_table_of_operations() -> None:
    text = (_DOCS / "operations.md").read_text()
    declared = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    lines = {_metric_line(metric) for metric in declared}
    assert len(lines) > 10
    written = {line for line in text.splitlines() if line.startswith("| `dispatcher_")}
    assert written == lines


def _metric_line(metric: MetricWrapperBase) -> str:
    [family] = metric.describe()
    name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


def test_every_metric_that_an_alert_names_exists() -> None:
    text = (_DOCS / "operations.md").read_text()
    declared = {
        _metric_line(value).split("`")[1] for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)
    }
    named = set(re.findall(r"\((dispatcher_\w+)", text))
    assert named
    assert named <= declared


def test_the_retry_schedule_of_the_receivers_guide_is_the_default() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", (_DOCS / "receivers.md").read_text(), re.MULTILINE)
    delays_s = [_seconds(after) for _, after, _ in rows]
    assert tuple(delays_s[1:]) == Settings.model_fields["retry_schedule"].default
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    for place in range(1, len(rows)):
        assert abs(_seconds(rows[place][2]) - sum(delays_s[: place + 1])) < 60


def _seconds(text: str) -> float:
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h|d)\b", text)))


@pytest.mark.parametrize(
    ("status", "outcome", "reason", "backs_off"),
    [
        (204, Outcome.DELIVERED, None, False),
        (302, Outcome.RETRY, None, False),
        (410, Outcome.DEAD, Reason.GONE, False),
        (413, Outcome.DEAD, Reason.TOO_LARGE, False),
        *[(status, Outcome.RETRY, None, True) for status in (429, 502, 503, 504)],
        *[(status, Outcome.RETRY, None, False) for status in (400, 401, 403, 404, 409, 422, 500)],
    ],
)
def test_the_verdicts_of_the_receivers_guide_hold(
    status: int, outcome: Outcome, reason: Reason | None, backs_off: bool
) -> None:
    error = None if status == 204 else AttemptError.HTTP_STATUS
    verdict = judge(
        Exchange(status, error), failures=0, interruptions=0, policy=RetryPolicy((5.0,), 0.0), retry_after_max_s=60.0
    )
    assert (verdict.outcome, verdict.reason, verdict.backs_off) == (outcome, reason, backs_off)


def test_every_table_and_every_index_of_the_claim_is_in_the_architecture() -> None:
    text = (_DOCS / "architecture.md").read_text()
    declared = tables()
    for table in declared.metadata.tables.values():
        assert f"`{table.name}`" in text
    for index in declared.deliveries.indexes:
        assert f"`{str(index.name).removeprefix('ix_')}`" in text


@pytest.mark.parametrize("profile", Profile)
def test_every_profile_is_shown_to_receivers(profile: Profile) -> None:
    assert f"`{profile}`" in (_DOCS / "receivers.md").read_text()


def test_every_route_that_the_api_guide_names_exists() -> None:
    known = {(route.method, route.path) for route in ROUTES}
    named = re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[\w/{}.-]+)`", (_DOCS / "api.md").read_text())
    assert named
    assert set(named) <= known

"""Metrics: what is counted many at once is what would have been counted one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.samples import Sample

from dispatcher.metrics import Durations

BUCKETS = (0.005, 0.1, 1, 30)


def _samples(histogram: Histogram) -> list[Sample]:
    return [s for metric in histogram.collect() for s in metric.samples if not s.name.endswith("_created")]


@given(st.lists(st.sampled_from(BUCKETS) | st.floats(min_value=0, max_value=100)))
def test_durations_told_at_once_are_those_told_one_by_one(seconds: list[float]) -> None:
    at_once = Durations("seconds", "Seconds.", buckets=BUCKETS, registry=CollectorRegistry())
    at_once.observe_all(seconds)
    one_by_one = Histogram("seconds", "Seconds.", buckets=BUCKETS, registry=CollectorRegistry())
    for second in seconds:
        one_by_one.observe(second)
    for found, wanted in zip(_samples(at_once), _samples(one_by_one), strict=True):
        assert (found.name, found.labels) == (wanted.name, wanted.labels)
        assert found.value == pytest.approx(wanted.value)

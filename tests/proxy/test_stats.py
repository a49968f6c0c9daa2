"""Counters, gauges and histograms by the names that Envoy gives them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stats import BUCKETS_MS, ClusterStats, Histogram, HttpStats, ListenerStats, ReloadStats, Stats

KEYED = {"codes", "grpc_codes", "peers"}
"""Counters that exist once there was something to count."""


@pytest.mark.parametrize("kind", [ClusterStats, HttpStats, ListenerStats, ReloadStats])
def test_every_stat_starts_at_nothing_and_is_found_by_its_name(kind: type[Stats]) -> None:
    stats = kind()
    assert dict(stats.counted()) == dict.fromkeys(kind.counters, 0)
    assert dict(stats.gauged()) == dict.fromkeys(kind.gauges, 0)
    assert [name for name, _ in stats.observed()] == list(kind.histograms)
    assert len(set(kind.counters + kind.gauges + kind.histograms)) == len(set(kind.__slots__) - KEYED)
    for name in kind.counters + kind.gauges:
        setattr(stats, name.replace(".", "_"), 7)
    assert set(dict(stats.counted()).values()) | set(dict(stats.gauged()).values()) == {7}


@pytest.mark.parametrize("kind", [ClusterStats, HttpStats, ListenerStats, ReloadStats])
def test_what_is_annotated_exists(kind: type[Stats]) -> None:
    assert set(kind.__annotations__) == set(kind.__slots__)


def test_a_name_that_is_mistyped_cannot_be_counted() -> None:
    with pytest.raises(AttributeError):
        ClusterStats().upstream_cx_totl = 1  # type: ignore[attr-defined]


def test_histograms_are_not_shared() -> None:
    one, other = ClusterStats(), ClusterStats()
    one.upstream_cx_connect_ms.record(1)
    assert other.upstream_cx_connect_ms.count == 0


def test_a_bound_belongs_to_its_own_bucket() -> None:
    histogram = Histogram()
    for bound in BUCKETS_MS:
        histogram.record(bound)
    histogram.record(BUCKETS_MS[-1] + 1)
    assert histogram.counts == [1] * (len(BUCKETS_MS) + 1), "Prometheus: le is less or equal"
    assert histogram.sum_ms == sum(BUCKETS_MS) + BUCKETS_MS[-1] + 1


def test_an_empty_histogram_has_no_quantile() -> None:
    assert math.isnan(Histogram().quantile(0.5))


def test_quantiles_are_interpolated() -> None:
    histogram = Histogram()
    for _ in range(100):
        histogram.record(7)
    assert histogram.quantile(0.5) == 7.5, "half way from 5 to 10"
    histogram.record(10**9)
    assert histogram.quantile(1.0) == BUCKETS_MS[-1], "what is above the last bound is not known better"


@given(st.lists(st.floats(0, 4e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_sample_it_stands_for(samples: list[float], q: float) -> None:
    histogram = Histogram()
    for sample in samples:
        histogram.record(sample)
    sample = sorted(samples)[max(0, math.ceil(q * len(samples)) - 1)]
    index = next((i for i, bound in enumerate(BUCKETS_MS) if sample <= bound), len(BUCKETS_MS))
    lower = BUCKETS_MS[index - 1] if index else 0.0
    upper = BUCKETS_MS[index] if index < len(BUCKETS_MS) else BUCKETS_MS[-1]
    assert lower <= histogram.quantile(q) <= upper
    assert histogram.quantile(q) <= histogram.quantile(1.0)

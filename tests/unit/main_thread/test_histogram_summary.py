"""Quantiles and buckets, against what Envoy 1.40 printed for the same samples."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from workerproxy.control.stats import bucket_index
from workerproxy.control.stats_segment import HistogramData
from workerproxy.main_thread.histogram_summary import BOUNDS, QUANTILES, cumulative_counts, disjoint_counts, quantiles


def data(samples: Iterable[int]) -> HistogramData:
    made = HistogramData.empty()
    for sample in samples:
        made.buckets[bucket_index(sample)] += 1
        made.total_ms += sample
    return made


# Samples, and P0 P25 P50 P75 P90 P95 P99 P99.5 P99.9 P100 as Envoy's /stats showed them.
SEEN = [
    ([0] * 16 + [5, 12], [0, 0, 0, 0, 5.05, 12.5, 12.5, 12.5, 12.5, 12.5]),
    ([0] * 12 + [1, 1], [0, 0, 0, 0, 1.0333333333333334, *[1.0666666666666667] * 5]),
    ([0] * 9 + [1] * 4 + [2] * 4 + [6, 13], [0, 0, 1.02, 2.04, 6.05, 13.5, 13.5, 13.5, 13.5, 13.5]),
    ([23], [23.5] * 10),
]


@pytest.mark.parametrize(("samples", "expected"), SEEN)
def test_quantiles_are_envoys(samples: list[int], expected: list[float]) -> None:
    assert quantiles(data(samples)) == pytest.approx(expected)


def test_no_sample_has_no_quantile() -> None:
    assert all(math.isnan(value) for value in [*quantiles(None), *quantiles(HistogramData.empty())])
    assert len(quantiles(None)) == len(QUANTILES)


def test_a_bound_counts_the_bucket_that_begins_there() -> None:
    counts = dict(zip(BOUNDS, cumulative_counts(data([0] * 16 + [5, 12])), strict=True))
    assert [counts[bound] for bound in (0.5, 1, 5, 10, 25, 3_600_000)] == [16, 16, 17, 17, 18, 18]


def test_disjoint_counts_are_the_differences() -> None:
    counts = disjoint_counts(data([0] * 16 + [5, 12]))
    assert counts[:5] == [16, 0, 1, 0, 1]
    assert sum(counts) == 18


def test_what_is_above_the_last_bound_is_in_no_bucket_but_infinity() -> None:
    assert cumulative_counts(data([9_000_000])) == [0] * len(BOUNDS)

"""Quantiles and bucket counts of a histogram, computed as Envoy's circllhist does.

A quantile q of n samples is sample number ceil(q n), at least the first; inside a bucket of c samples they are thought
to be evenly spread, number k at k/(c + 1) of its width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from workerproxy.control.stats import bucket_bounds

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import HistogramData

QUANTILES: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)

# Upper bounds in milliseconds (ConstSupportedBuckets in Envoy's histogram_impl).
BOUNDS: Final = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
    3_600_000,
)  # fmt: skip


def occupied(data: HistogramData) -> Iterator[tuple[float, float, int]]:
    """Every bucket that holds samples: lower bound, width, count; ascending."""
    for index, count in enumerate(data.buckets):
        if count:
            low, width = bucket_bounds(index)
            yield low, width, count


def quantiles(data: HistogramData | None) -> list[float]:
    """A value in milliseconds for each of ``QUANTILES``; ``nan`` for all when there is no sample."""
    total = sum(data.buckets) if data is not None else 0
    if data is None or not total:
        return [math.nan] * len(QUANTILES)
    wanted = [max(1, math.ceil(quantile * total - 1e-9)) for quantile in QUANTILES]
    values: list[float] = []
    before = 0
    for low, width, count in occupied(data):
        while len(values) < len(wanted) and wanted[len(values)] <= before + count:
            values.append(low + width * (wanted[len(values)] - before) / (count + 1))
        before += count
    return values


def cumulative_counts(data: HistogramData | None) -> list[int]:
    """For each of ``BOUNDS`` the number of samples up to it; a bucket counts when it begins there or before."""
    counts = [0] * len(BOUNDS)
    if data is None:
        return counts
    running = 0
    place = 0
    for low, _, count in occupied(data):
        while place < len(BOUNDS) and BOUNDS[place] < low:
            counts[place] = running
            place += 1
        running += count
    for rest in range(place, len(BOUNDS)):
        counts[rest] = running
    return counts


def disjoint_counts(data: HistogramData | None) -> list[int]:
    """For each of ``BOUNDS`` the number of samples above the one before."""
    counts = cumulative_counts(data)
    return [count - before for count, before in zip(counts, [0, *counts], strict=False)]

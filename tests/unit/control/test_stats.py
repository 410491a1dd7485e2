"""Statistics groups and histogram buckets."""

from __future__ import annotations

import pytest

from workerproxy.control.stats import (
    BUCKETS,
    COUNTER,
    GAUGE,
    HISTOGRAM,
    LARGEST,
    Counter,
    DynamicCounters,
    Gauge,
    Histogram,
    StatsGroup,
    bucket_bounds,
    bucket_index,
    stat_name,
)


class Group(StatsGroup):
    total: Counter
    active: Gauge
    time: Histogram


class Wider(Group):
    failed: Counter


def test_a_group_starts_at_zero_and_counts_with_plain_arithmetic() -> None:
    group = Group()
    group.total += 2
    group.active += 1
    group.active -= 1
    assert (group.total, group.active) == (2, 0)


def test_annotations_declare_the_kind() -> None:
    assert Wider.stat_kinds == {"total": COUNTER, "active": GAUGE, "time": HISTOGRAM, "failed": COUNTER}


def test_a_misspelt_statistic_is_an_error_and_not_a_new_attribute() -> None:
    with pytest.raises(AttributeError):
        Group().totl = 1  # type: ignore[attr-defined]


def test_an_annotation_that_is_no_statistic_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.name: annotate it as Counter"):

        class Wrong(StatsGroup):
            name: str


def test_dynamic_counters_start_at_zero() -> None:
    codes = DynamicCounters()
    codes[503] += 1
    codes[503] += 1
    assert dict(codes) == {503: 2}


def test_colons_of_configured_names_become_underscores() -> None:
    assert stat_name("[::1]:80") == "[__1]_80"


def test_whole_milliseconds_below_a_hundred_have_a_bucket_each() -> None:
    assert [bucket_index(value) for value in (0, 1, 9, 10, 99)] == [0, 1, 9, 10, 99]


def test_values_outside_the_range_count_at_its_ends() -> None:
    assert bucket_index(-5) == 0
    assert bucket_index(LARGEST + 1) == bucket_index(LARGEST) == BUCKETS - 1


def test_every_value_lies_in_the_bucket_it_is_put_in() -> None:
    values = [*range(2000), *(base + offset for base in (10**4, 10**5, 10**8) for offset in (-1, 0, 1, 4321))]
    for value in values:
        low, width = bucket_bounds(bucket_index(value))
        assert low <= value < low + max(width, 1), value


def test_buckets_above_a_hundred_have_two_significant_digits() -> None:
    assert bucket_bounds(bucket_index(12_345)) == (12_000.0, 1000.0)
    assert bucket_bounds(bucket_index(100)) == (100.0, 10.0)
    assert bucket_bounds(bucket_index(5)) == (5.0, 0.1)

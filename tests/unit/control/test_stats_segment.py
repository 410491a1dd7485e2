"""What a worker publishes is what the main process reads, whenever it looks."""

from __future__ import annotations

import mmap

import pytest

from workerproxy.control.stats import Counter, Gauge, Histogram, StatsGroup, bucket_index
from workerproxy.control.stats_segment import SegmentFullError, StatsReader, StatsWriter, StatValues


class Numbers(StatsGroup):
    total: Counter
    active: Gauge
    time: Histogram
    failed: Counter


class OnlyTimes(StatsGroup):
    time: Histogram


class One(StatsGroup):
    total: Counter


def make(size: int = 1 << 20) -> tuple[StatsWriter, StatsReader]:
    memory = mmap.mmap(-1, size)
    return StatsWriter(memory), StatsReader(memory)


def read(reader: StatsReader, *, gauges: bool = True) -> StatValues:
    values = StatValues()
    reader.read_into(values, gauges=gauges)
    return values


def test_numbers_arrive_with_the_flush_and_not_before() -> None:
    writer, reader = make()
    group = writer.group("cluster.a:b.", Numbers)
    group.total += 3
    group.active += 2
    assert read(reader).counters["cluster.a_b.total"] == 0
    writer.flush()
    assert read(reader).counters == {"cluster.a_b.total": 3, "cluster.a_b.failed": 0}
    assert read(reader).gauges == {"cluster.a_b.active": 2}


def test_samples_arrive_in_their_buckets() -> None:
    writer, reader = make()
    time = writer.group("http.a", Numbers).time
    for value in (0, 5, 5, 1234):
        time.record(value)
    writer.flush()
    writer.flush()
    data = read(reader).histograms["http.a.time"]
    assert data.total_ms == 1244
    assert {index: count for index, count in enumerate(data.buckets) if count} == {0: 1, 5: 2, bucket_index(1234): 1}


def test_the_same_prefix_and_class_is_the_same_instance() -> None:
    writer, _ = make()
    assert writer.group("a", Numbers) is writer.group("a.", Numbers)
    assert writer.group("a", Numbers) is not writer.group("b", Numbers)


def test_groups_of_one_number_or_none_work() -> None:
    writer, reader = make()
    writer.group("one", One).total += 7
    writer.group("times", OnlyTimes).time.record(3)
    writer.flush()
    assert read(reader).counters == {"one.total": 7}
    assert read(reader).histograms["times.time"].total_ms == 3


def test_codes_appear_when_they_are_first_used() -> None:
    writer, reader = make()
    codes = writer.dynamic("cluster.a", "upstream_rq_")
    writer.flush()
    assert read(reader).counters == {}
    codes[503] += 1
    codes["5xx"] += 1
    writer.flush()
    codes[503] += 1
    writer.flush()
    assert read(reader).counters == {"cluster.a.upstream_rq_503": 2, "cluster.a.upstream_rq_5xx": 1}
    assert writer.dynamic("cluster.a.", "upstream_rq_") is codes


def test_a_dropped_group_is_not_shown_and_comes_back_as_it_was() -> None:
    writer, reader = make()
    writer.group("a", One).total += 1
    writer.flush()
    writer.drop("a", One)
    assert read(reader).counters == {}
    writer.group("a", One)
    assert read(reader).counters == {"a.total": 1}


def test_dropped_codes_are_not_shown_nor_new_ones_and_come_back_together() -> None:
    writer, reader = make()
    codes = writer.dynamic("a", "rq_")
    codes[200] += 1
    writer.flush()
    writer.drop_dynamic("a.", "rq_")
    codes[503] += 1
    writer.flush()
    assert read(reader).counters == {}
    assert writer.dynamic("a", "rq_") is codes
    assert read(reader).counters == {"a.rq_200": 1, "a.rq_503": 1}


def test_a_reader_that_was_there_first_sees_groups_that_come_later() -> None:
    memory = mmap.mmap(-1, 1 << 20)
    reader = StatsReader(memory)
    assert read(reader) == StatValues()
    writer = StatsWriter(memory)
    writer.group("a", One).total += 1
    writer.flush()
    assert read(reader).counters == {"a.total": 1}


def test_reading_adds_up_several_segments() -> None:
    values = StatValues()
    for number in (1, 2):
        writer, reader = make()
        group = writer.group("a", Numbers)
        group.total += number
        group.active += number
        group.time.record(number)
        writer.flush()
        reader.read_into(values)
    assert values.counters["a.total"] == 3
    assert values.gauges["a.active"] == 3
    assert values.histograms["a.time"].total_ms == 3


def test_collectors_run_before_a_flush() -> None:
    writer, reader = make()
    group = writer.group("a", One)

    def collect() -> None:
        group.total = 9

    writer.before_flush.append(collect)
    writer.flush()
    assert read(reader).counters == {"a.total": 9}


def test_a_full_segment_is_an_error_for_groups_and_leaves_codes_uncounted() -> None:
    writer, reader = make(8192)
    with pytest.raises(SegmentFullError):
        for number in range(1000):
            writer.group(f"group{number}", Numbers)
    codes = writer.dynamic("c", "code_")
    for number in range(2000):
        codes[number] += 1
    writer.flush()
    assert len(read(reader).counters) < 2000

"""Statistics over all workers, the dead ones too."""

from __future__ import annotations

import mmap
import os

from workerproxy.control.stats import Counter, Gauge, Histogram, StatsGroup
from workerproxy.control.stats_segment import StatsReader, StatsWriter
from workerproxy.main_thread.machine import memory_file
from workerproxy.main_thread.stats_store import StatsStore


class Numbers(StatsGroup):
    total: Counter
    active: Gauge
    time: Histogram


def worker(store: StatsStore, total: int) -> tuple[StatsWriter, Numbers, StatsReader]:
    fd, memory = memory_file("test", 1 << 20)
    writer = StatsWriter(mmap.mmap(fd, 1 << 20))  # another process's mapping
    os.close(fd)
    reader = store.attach(memory)
    numbers = writer.group("c", Numbers)
    numbers.total += total
    numbers.active += 1
    numbers.time.record(total)
    writer.flush()
    return writer, numbers, reader


def test_workers_and_the_main_process_add_up() -> None:
    store = StatsStore()
    worker(store, 2)
    worker(store, 3)
    store.own.group("c", Numbers).total += 10
    values = store.merged()
    assert (values.counters["c.total"], values.gauges["c.active"], values.histograms["c.time"].total_ms) == (15, 2, 5)


def test_a_dead_workers_counters_stay_and_its_gauges_go() -> None:
    store = StatsStore()
    _, _, reader = worker(store, 2)
    worker(store, 3)
    store.retire(reader)
    values = store.merged()
    assert (values.counters["c.total"], values.gauges["c.active"], values.histograms["c.time"].total_ms) == (5, 1, 5)
    again = store.merged()
    assert (again.counters, again.gauges) == (values.counters, values.gauges)
    assert again.histograms["c.time"].total_ms == 5


def test_what_a_dead_worker_published_last_is_what_counts() -> None:
    store = StatsStore()
    writer, numbers, reader = worker(store, 2)
    numbers.total += 1
    writer.flush()
    numbers.total += 1  # killed before this was published
    store.retire(reader)
    assert store.merged().counters["c.total"] == 3


def test_after_a_reset_counters_count_from_zero_and_others_stay() -> None:
    store = StatsStore()
    writer, numbers, reader = worker(store, 7)
    store.reset_counters()
    assert store.merged().counters["c.total"] == 0
    numbers.total += 2
    writer.flush()
    assert store.merged().counters["c.total"] == 2
    assert store.merged().gauges["c.active"] == 1
    assert store.merged().histograms["c.time"].total_ms == 7
    store.retire(reader)
    assert store.merged().counters["c.total"] == 2


def test_an_interval_is_what_came_in_the_last_whole_one() -> None:
    store = StatsStore()
    writer, numbers, _ = worker(store, 7)
    assert store.interval("c.time") is None
    store.roll_interval()
    numbers.time.record(20)
    writer.flush()
    first = store.interval("c.time")
    assert first is not None
    assert first.total_ms == 7
    store.roll_interval()
    second = store.interval("c.time")
    assert second is not None
    assert (second.total_ms, sum(second.buckets)) == (20, 1)

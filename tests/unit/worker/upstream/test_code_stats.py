"""A cluster's response codes under all their names."""

from __future__ import annotations

import mmap

from tests.unit.worker.proxy import GET, OK, Proxy
from workerproxy.control.stats_segment import StatsReader, StatsWriter, StatValues
from workerproxy.worker.upstream.code_stats import CodeStats


class Bench:
    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 1 << 20)
        self.writer = StatsWriter(self.memory)
        self.codes = CodeStats(self.writer, "cluster.c")

    def values(self) -> StatValues:
        self.codes.collect()
        self.writer.flush()
        values = StatValues()
        StatsReader(self.memory).read_into(values)
        return values


def test_a_response_is_counted_once_under_each_name() -> None:
    bench = Bench()
    bench.codes.charge(200, internal=False, canary=False)
    bench.codes.charge(200, internal=False, canary=False)
    bench.codes.charge(503, internal=True, canary=True)
    for _ in range(2):  # collecting again counts nothing again
        counters = {name: value for name, value in bench.values().counters.items() if value}
        found = {name.removeprefix("cluster.c").lstrip("."): value for name, value in counters.items()}
        assert found == {
            "upstream_rq_200": 2,
            "upstream_rq_2xx": 2,
            "upstream_rq_503": 1,
            "upstream_rq_5xx": 1,
            "upstream_rq_completed": 3,
            "external.upstream_rq_200": 2,
            "external.upstream_rq_2xx": 2,
            "external.upstream_rq_completed": 2,
            "internal.upstream_rq_503": 1,
            "internal.upstream_rq_5xx": 1,
            "internal.upstream_rq_completed": 1,
            "canary.upstream_rq_503": 1,
            "canary.upstream_rq_5xx": 1,
            "canary.upstream_rq_completed": 1,
        }


def test_times_are_kept_in_all_and_by_origin() -> None:
    bench = Bench()
    bench.codes.record_time(5, internal=False)
    bench.codes.record_time(7, internal=True)
    histograms = bench.values().histograms
    totals = {name.removeprefix("cluster.c").lstrip("."): data.total_ms for name, data in histograms.items()}
    assert totals == {"upstream_rq_time": 12, "external.upstream_rq_time": 5, "internal.upstream_rq_time": 7}


def test_a_response_that_takes_its_time_is_recorded_so() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.send(GET)
    proxy.loop.advance(0.25)
    proxy.origin().send(OK)
    assert b"x-envoy-upstream-service-time: 250\r\n" in client.take()
    assert proxy.cluster.codes._external_time == [250]

"""Circuit breakers' gauges: one number for all workers."""

from __future__ import annotations

import mmap
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import json_format

from workerproxy.control.board import BoardOwner, LimitsBoard, board_bytes
from workerproxy.control.stats_segment import StatsReader, StatsWriter, StatValues
from workerproxy.main_thread.configuration import Configuration, ConfigVersion
from workerproxy.main_thread.limit_gauges import LimitGauges

WORKERS = 2


class Lab:
    def __init__(self) -> None:
        board = mmap.mmap(-1, board_bytes(WORKERS))
        memory = mmap.mmap(-1, 1 << 20)
        owner = BoardOwner(board)
        for _ in range(WORKERS):
            owner.take_row()
        self.workers = [LimitsBoard(board, number, WORKERS) for number in range(WORKERS)]
        self.configuration = Configuration()
        self.writer = StatsWriter(memory)
        self.gauges = LimitGauges(self.writer, owner)
        self.writer.before_flush.append(self.gauges.collect)
        self._reader = StatsReader(memory)

    def activate(self, *clusters: dict[str, Any]) -> ConfigVersion:
        data = {"static_resources": {"clusters": list(clusters)}}
        version = self.configuration.new_version(json_format.ParseDict(data, bootstrap_pb2.Bootstrap()), {})
        self.gauges.activate(version)
        return version

    def shown(self) -> dict[str, int]:
        self.writer.flush()
        values = StatValues()
        self._reader.read_into(values)
        return values.gauges


def cluster(**threshold: Any) -> dict[str, Any]:
    return {"name": "c", "circuit_breakers": {"thresholds": [threshold]}}


def test_what_remains_is_counted_over_all_workers_and_never_below_0() -> None:
    lab = Lab()
    version = lab.activate(cluster(track_remaining=True, max_requests=5))
    cells = [worker.cell(version.slots["c/default/requests"]) for worker in lab.workers]
    prefix = "cluster.c.circuit_breakers.default."
    for used, left, is_open in (((0, 0), 5, 0), ((1, 3), 1, 0), ((2, 3), 0, 1), ((4, 4), 0, 1)):
        for cell, value in zip(cells, used, strict=True):
            cell.set(value)
        shown = lab.shown()
        assert (shown[prefix + "remaining_rq"], shown[prefix + "rq_open"]) == (left, is_open)
    assert (shown[prefix + "remaining_cx"], shown[prefix + "remaining_retries"]) == (1024, 3)


def test_what_remains_is_shown_only_if_asked_for() -> None:
    lab = Lab()
    lab.activate(cluster(max_requests=5))
    assert not [name for name in lab.shown() if "remaining" in name]
    lab.activate(cluster(track_remaining=True))
    assert "cluster.c.circuit_breakers.default.remaining_cx" in lab.shown()
    lab.activate(cluster())
    assert not [name for name in lab.shown() if "remaining" in name]


def test_a_cluster_that_is_gone_has_no_gauges() -> None:
    lab = Lab()
    lab.activate(cluster())
    assert "cluster.c.circuit_breakers.high.cx_open" in lab.shown()
    lab.activate()
    assert lab.shown() == {}

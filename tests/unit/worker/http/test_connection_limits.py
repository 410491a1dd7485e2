"""Limits of downstream connections: counted over all workers, whenever they come and go."""

from __future__ import annotations

import mmap

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.json_format import ParseDict

from tests.unit.worker.fakes import FakeSocket
from tests.unit.worker.proxy import Proxy
from workerproxy.config.runtime import Runtime
from workerproxy.control.board import LimitsBoard, board_bytes
from workerproxy.worker.http.connection_limits import ConnectionLimit, ConnectionLimits, LimitSettings
from workerproxy.worker.http.stats import ListenerStats


def boards() -> tuple[LimitsBoard, LimitsBoard]:
    memory = mmap.mmap(-1, board_bytes(2))
    return LimitsBoard(memory, 0, 2), LimitsBoard(memory, 1, 2)


def test_a_limit_counts_all_workers_and_what_was_there_before_it() -> None:
    first, second = (ConnectionLimit(board.cell(4), 3, 1) for board in boards())
    assert not first.reached()
    second.opened()
    assert first.reached()
    assert second.reached()
    first.closed()
    assert not second.reached()


def test_a_limit_of_0_refuses_everything() -> None:
    assert ConnectionLimit(boards()[0].cell(0), 0, 0).reached()


@pytest.mark.parametrize(
    ("of_all", "counter"), [(True, "downstream_global_cx_overflow"), (False, "downstream_cx_overflow")]
)
def test_what_is_over_the_limit_is_closed_at_once_and_counted_as_overflow_alone(of_all: bool, counter: str) -> None:
    proxy = Proxy()
    limit = ConnectionLimit(boards()[0].cell(0), 1, 0)
    proxy.listener.limits = ConnectionLimits(None, limit) if of_all else ConnectionLimits(limit, None)
    client = proxy.client()
    refused = FakeSocket(proxy.network)
    proxy.accept(refused)
    assert refused.fileno() == -1
    assert getattr(proxy.listener.stats, counter) == 1
    assert proxy.listener.stats.downstream_cx_total == proxy.stats.downstream_cx_total == 1
    client.reset()
    proxy.loop.run()
    assert not limit.reached()
    proxy.client()
    assert proxy.listener.stats.downstream_cx_total == 2


def test_the_limit_of_all_is_asked_first() -> None:
    full = [ConnectionLimit(boards()[0].cell(number), 0, 0) for number in range(2)]
    stats = ListenerStats()
    assert ConnectionLimits(full[0], full[1]).refuses(stats)
    assert (stats.downstream_cx_overflow, stats.downstream_global_cx_overflow) == (0, 1)


def test_limits_are_found_by_the_listeners_name() -> None:
    layer = {
        "envoy": {"resource_limits": {"listener": {"a": {"connection_limit": 5}}}},
        "overload.global_downstream_max_connections": 9,
    }
    layers = [{"name": "l", "static_layer": layer}]
    runtime = Runtime(ParseDict({"layered_runtime": {"layers": layers}}, Bootstrap()))
    found = LimitSettings.of(runtime, {"/listener": 0, "a/listener": 3, "b/listener": 4}, ["a", "b"])
    assert found.of_all == (0, 9)
    assert found.of_listener == {"a": (3, 5)}
    assert LimitSettings.of(Runtime(Bootstrap()), {}, ["a"]) == LimitSettings(None, {})

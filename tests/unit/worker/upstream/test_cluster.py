"""A cluster's choice of hosts: health, panic, weights, and the circuit breakers' arithmetic."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from tests.unit.worker.proxy import Surroundings
from workerproxy.control.board import LimitsBoard, board_bytes
from workerproxy.worker.upstream.circuit_breakers import CircuitBreakers, Limit
from workerproxy.worker.upstream.host import DEGRADED, HEALTHY, UNHEALTHY, Host, ip_host, pipe_host


def host(number: int, health: int = HEALTHY, weight: int = 1) -> Host:
    return ip_host(f"192.0.2.{number}", 80, weight=weight, health=health)


def chosen(hosts: list[Host], **cluster: Any) -> set[str]:
    bench = Surroundings(cluster, hosts=[])
    bench.cluster.set_hosts(hosts)
    found = [bench.cluster.choose_host() for _ in range(20)]
    return {one.text for one in found if one is not None}


def test_without_hosts_there_is_no_choice() -> None:
    assert chosen([]) == set()


def test_healthy_hosts_are_chosen() -> None:
    assert chosen([host(1), host(2), host(3, UNHEALTHY)]) == {"192.0.2.1:80", "192.0.2.2:80"}


def test_degraded_hosts_stand_in_when_no_host_is_healthy() -> None:
    assert chosen([host(1, DEGRADED), host(2, UNHEALTHY)]) == {"192.0.2.1:80"}
    assert chosen([host(1, DEGRADED), host(2)]) == {"192.0.2.2:80"}


def test_below_the_panic_threshold_every_host_is_chosen() -> None:
    hosts = [host(1), host(2, UNHEALTHY), host(3, UNHEALTHY)]
    assert len(chosen(hosts)) == 3
    assert len(chosen(hosts, common_lb_config={"healthy_panic_threshold": {"value": 30}})) == 1
    assert chosen([host(1, UNHEALTHY)], common_lb_config={"healthy_panic_threshold": {"value": 0}}) == set()


def test_panic_is_counted() -> None:
    bench = Surroundings(hosts=[])
    bench.cluster.set_hosts([host(1, UNHEALTHY)])
    bench.cluster.choose_host()
    assert bench.cluster.stats.lb_healthy_panic == 1


def test_health_and_weight_of_a_host_that_stays_are_renewed() -> None:
    bench = Surroundings(hosts=[])
    bench.cluster.set_hosts([host(1)])
    (first,) = bench.cluster.hosts
    bench.cluster.set_hosts([host(1, DEGRADED, weight=7)])
    assert bench.cluster.hosts == [first]
    assert (first.health, first.weight) == (DEGRADED, 7)


def test_hosts_are_shown_as_envoy_shows_them() -> None:
    assert host(1).text == "192.0.2.1:80"
    assert ip_host("::1", 80).text == "[::1]:80"
    assert pipe_host("/run/x").text == "/run/x"
    assert pipe_host("@x").address == "\0x"
    with pytest.raises((OSError, ValueError)):
        ip_host("name", 80)


def boards(workers: int) -> list[LimitsBoard]:
    memory = mmap.mmap(-1, board_bytes(workers))
    return [LimitsBoard(memory, number, workers) for number in range(workers)]


def test_a_limit_counts_to_its_maximum_and_back() -> None:
    (board,) = boards(1)
    limit = Limit(board.cell(0), 2, 1)
    assert limit.available()
    limit.acquire()
    assert limit.available()
    limit.acquire()
    assert not limit.available()
    limit.release()
    assert limit.available()
    limit.release()
    assert limit.value == 0


def test_a_limit_of_0_refuses_everything() -> None:
    for workers in (1, 3):
        assert not Limit(boards(workers)[0].cell(0), 0, workers).available()


def test_a_limit_holds_over_all_workers() -> None:
    first, second = (Limit(board.cell(0), 4, 2) for board in boards(2))
    for _ in range(4):
        assert second.available()
        first.acquire()
    assert not second.available()
    assert not first.available()
    first.release()
    assert second.available()


def test_a_limit_is_overshot_by_an_eighth_at_most() -> None:
    """Far from it a worker does not look at the others: each may then be the one that goes over."""
    workers = 4
    limits = [Limit(board.cell(0), 800, workers) for board in boards(workers)]
    for limit in limits:
        while limit.available():
            limit.acquire()
    assert 800 <= sum(limit.value for limit in limits) <= 900


def test_a_limit_looks_at_workers_that_come_later() -> None:
    """Alone, a worker uses a limit to its end without a look at the board."""
    memory = mmap.mmap(-1, board_bytes(2))
    board = LimitsBoard(memory, 0, 1)
    limits = [Limit(board.cell(slot), 4, board.rows) for slot in range(4)]
    LimitsBoard(memory, 1, 2).cell(0).set(4)
    assert limits[0].available()
    board.set_rows(2)
    CircuitBreakers(*limits).set_rows(2)
    assert not limits[0].available()

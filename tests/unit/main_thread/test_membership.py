"""How many hosts a cluster has, and of what health."""

from __future__ import annotations

import mmap
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import json_format

from workerproxy.control.messages import Hosts
from workerproxy.control.stats_segment import StatsWriter
from workerproxy.main_thread.configuration import Configuration, ConfigVersion
from workerproxy.main_thread.membership import Membership
from workerproxy.main_thread.stats import MembershipStats


def version(kind: str, *statuses: str, name: str = "c") -> ConfigVersion:
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "::1", "port_value": 80}}}, "health_status": status}
        for status in statuses
    ]
    localities = [{"lb_endpoints": [endpoint]} for endpoint in endpoints]
    cluster = {"name": name, "type": kind, "load_assignment": {"cluster_name": name, "endpoints": localities}}
    data = {"static_resources": {"clusters": [cluster]}}
    return Configuration().new_version(json_format.ParseDict(data, bootstrap_pb2.Bootstrap()), {})


class Lab:
    def __init__(self) -> None:
        self.writer = StatsWriter(mmap.mmap(-1, 1 << 20))
        self.membership = Membership(self.writer)

    def numbers(self) -> tuple[int, int, int, int]:
        """membership_ total, healthy, degraded, change."""
        stats = self.writer.group("cluster.c", MembershipStats)
        return (
            stats.membership_total,
            stats.membership_healthy,
            stats.membership_degraded,
            stats.membership_change,
        )


def test_static_hosts_are_counted_by_their_health() -> None:
    lab = Lab()
    lab.membership.activate(version("STATIC", "UNKNOWN", "HEALTHY", "DEGRADED", "DRAINING"), None, {})
    assert lab.numbers() == (4, 2, 1, 1)


def test_resolved_hosts_are_counted_by_the_health_of_their_endpoint() -> None:
    lab = Lab()
    config = version("STRICT_DNS", "HEALTHY", "DEGRADED")
    hosts: Hosts = [("10.0.0.1", 80, 0), ("10.0.0.2", 80, 1), ("10.0.0.3", 80, 1)]
    lab.membership.activate(config, None, {"c": hosts})
    assert lab.numbers() == (3, 1, 2, 1)
    lab.membership.count_resolved(next(iter(config.clusters)), hosts[:1])
    assert lab.numbers() == (1, 1, 0, 2)


def test_a_logical_host_that_moves_is_no_change_of_membership() -> None:
    lab = Lab()
    config = version("LOGICAL_DNS", "HEALTHY")
    cluster: Any = next(iter(config.clusters))
    lab.membership.activate(config, None, {"c": []})
    assert lab.numbers() == (0, 0, 0, 0)
    for address in ("10.0.0.1", "10.0.0.2"):
        lab.membership.count_resolved(cluster, [(address, 80, 0)])
    assert lab.numbers() == (1, 1, 0, 1)

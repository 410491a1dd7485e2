"""Hosts of DNS clusters: they know their endpoint, and a logical one outlives its addresses."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterConfig
from google.protobuf.json_format import ParseDict

from tests.unit.worker.proxy import GET, OK, Proxy, Surroundings, socket_address
from workerproxy.extensions.registry import Registry
from workerproxy.worker.upstream.cluster_builder import ClusterBuilder, endpoints_of, hosts_of
from workerproxy.worker.upstream.host import DEGRADED, HEALTHY, UNHEALTHY


def dns_cluster(kind: str, *endpoints: dict[str, Any]) -> ClusterConfig:
    """Each endpoint: a name, and what else ``LbEndpoint`` has."""
    members = []
    for given in endpoints:
        rest = dict(given)
        endpoint = {"address": socket_address(rest.pop("name"), 80), "hostname": rest.pop("hostname", "")}
        members.append({"endpoint": endpoint, **rest})
    half = len(members) // 2
    localities = [{"lb_endpoints": some} for some in (members[:half], members[half:]) if some]
    assignment = {"cluster_name": "origin", "endpoints": localities}
    return ParseDict({"name": "origin", "type": kind, "load_assignment": assignment}, ClusterConfig())


def test_a_host_has_the_name_weight_and_health_of_its_endpoint_over_all_localities() -> None:
    config = dns_cluster(
        "STRICT_DNS",
        {"name": "a.test", "health_status": "DEGRADED"},
        {"name": "b.test", "hostname": "own.test", "load_balancing_weight": 7},
        {"name": "c.test", "health_status": "DRAINING"},
    )
    hosts = hosts_of(config, [("192.0.2.1", 80, 1), ("192.0.2.2", 80, 1), ("2001:db8::1", 80, 0), ("192.0.2.4", 80, 2)])
    assert [(host.text, host.hostname, host.weight, host.health) for host in hosts] == [
        ("192.0.2.1:80", "own.test", 7, HEALTHY),
        ("192.0.2.2:80", "own.test", 7, HEALTHY),
        ("[2001:db8::1]:80", "a.test", 1, DEGRADED),
        ("192.0.2.4:80", "c.test", 1, UNHEALTHY),
    ]


@pytest.mark.parametrize("fail", [True, False])
def test_in_panic_all_hosts_are_used_or_none_if_traffic_is_to_fail(fail: bool) -> None:
    """Two of three hosts are unfit, more than ``healthy_panic_threshold`` allows."""
    proxy = Proxy(cluster={"common_lb_config": {"zone_aware_lb_config": {"fail_traffic_on_panic": fail}}})
    unfit = [{"name": name, "health_status": "UNHEALTHY"} for name in ("a.test", "b.test")]
    proxy.cluster.endpoints = endpoints_of(dns_cluster("STRICT_DNS", {"name": "c.test"}, *unfit))
    proxy.cluster.set_resolved([(f"192.0.2.{number}", 80, number) for number in range(3)])
    chosen = {host.hostname for _ in range(6) if (host := proxy.cluster.choose_host()) is not None}
    assert chosen == (set() if fail else {"a.test", "b.test", "c.test"})


def test_nothing_resolved_yet_is_no_host() -> None:
    assert hosts_of(dns_cluster("STRICT_DNS", {"name": "a.test"}), None) == []


def test_a_change_of_an_endpoint_alone_keeps_the_cluster_and_of_a_logical_one_makes_a_new_one() -> None:
    surroundings = Surroundings()
    builder = ClusterBuilder(surroundings.context, surroundings.dispatcher, Registry())
    slots = {f"origin/default/{kind}": n for n, kind in enumerate(("connections", "pending", "requests", "retries"))}
    for kind, kept in (("STRICT_DNS", True), ("LOGICAL_DNS", False)):
        before = builder.build(dns_cluster(kind, {"name": "a.test"}), slots, None)
        after = builder.build(dns_cluster(kind, {"name": "b.test"}), slots, before)
        assert (after is before) is kept


def resolve(proxy: Proxy, *addresses: str, kind: str = "STRICT_DNS") -> None:
    proxy.cluster.endpoints = endpoints_of(dns_cluster(kind, {"name": "a.test", "load_balancing_weight": 3}))
    proxy.cluster.set_resolved([(address, 80, 0) for address in addresses])


def test_the_endpoints_name_is_what_auto_host_rewrite_and_the_access_log_see() -> None:
    route = {"cluster": "origin", "auto_host_rewrite": True}
    proxy = Proxy(routes=[{"match": {"prefix": "/"}, "route": route}])
    resolve(proxy, "192.0.2.7")
    client = proxy.client()
    client.send(GET)
    origin = proxy.origin()
    assert b"\r\nhost: a.test\r\n" in origin.take()
    origin.send(OK)
    assert client.take().endswith(b"ok")
    info = proxy.log.infos[0]
    assert (info.upstream_host, info.upstream_host_name) == ("192.0.2.7:80", "a.test")


def test_an_endpoint_of_the_next_configuration_is_no_host_of_this_one() -> None:
    proxy = Proxy()
    resolve(proxy, "192.0.2.7")
    proxy.cluster.set_resolved([("192.0.2.7", 80, 0), ("192.0.2.8", 80, 1)])
    assert [host.text for host in proxy.cluster.hosts] == ["192.0.2.7:80"]


def test_a_logical_host_moves_new_connections_go_there_and_old_ones_stay() -> None:
    proxy = Proxy()
    resolve(proxy, "192.0.2.7", kind="LOGICAL_DNS")
    host = proxy.cluster.hosts[0]
    first = proxy.client()
    first.send(GET)
    old = proxy.origin()
    old.take()
    resolve(proxy, "192.0.2.8", kind="LOGICAL_DNS")
    assert proxy.cluster.hosts == [host]
    assert (host.text, host.hostname, host.weight) == ("192.0.2.8:80", "a.test", 3)
    second = proxy.client()
    second.send(GET)
    new = proxy.origin()
    assert [sock.connected_to for sock in proxy.network.upstream] == [("192.0.2.7", 80), ("192.0.2.8", 80)]
    old.send(OK)
    assert first.take().endswith(b"ok")
    first.send(GET)
    assert old.take().startswith(b"GET / ")  # the old connection serves on
    old.send(OK)
    new.send(OK)
    assert second.take().endswith(b"ok")
    assert [info.upstream_host for info in proxy.log.infos] == ["192.0.2.7:80", "192.0.2.7:80", "192.0.2.8:80"]


def test_a_strict_host_that_is_gone_closes_its_idle_connections() -> None:
    proxy = Proxy()
    resolve(proxy, "192.0.2.7")
    client = proxy.client()
    client.send(GET)
    proxy.origin().send(OK)
    resolve(proxy, "192.0.2.8")
    assert proxy.network.open_upstream() == 0

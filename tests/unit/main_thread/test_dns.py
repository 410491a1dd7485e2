"""Resolution of STRICT_DNS clusters, with a resolver that answers what the test says."""

from __future__ import annotations

import asyncio
import mmap
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from google.protobuf import json_format

from workerproxy.control.stats_segment import StatsWriter
from workerproxy.main_thread.dns import Answer, DnsCluster, DnsClusters, DnsSettings, ResolveError
from workerproxy.main_thread.stats import MembershipStats


class FakeResolver:
    """``answers``: (name, family) -> Answer or error; what is not there has no address."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], Answer | ResolveError] = {}
        self.asked: list[tuple[str, int]] = []

    async def resolve(self, name: str, family: int) -> Answer:
        self.asked.append((name, family))
        answer = self.answers.get((name, family), Answer([], 0))
        if isinstance(answer, ResolveError):
            raise answer
        return answer


def cluster(*names: str, **more: Any) -> Any:
    endpoints = [{"endpoint": {"address": {"socket_address": {"address": name, "port_value": 80}}}} for name in names]
    data = {
        "name": "c",
        "type": "STRICT_DNS",
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": endpoints}]},
        **more,
    }
    return json_format.ParseDict(data, cluster_pb2.Cluster())


def settings(*names: str, **more: Any) -> DnsSettings:
    found = DnsSettings.of(cluster(*names, **more))
    assert found is not None
    return found


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


class Lab:
    def __init__(self, *names: str, **more: Any) -> None:
        self.resolver = FakeResolver()
        self.stats = StatsWriter(mmap.mmap(-1, 1 << 20)).group("cluster.c", MembershipStats)
        self.changes = 0
        self.cluster = DnsCluster(settings(*names, **more), self.resolver, self.stats, self._changed, random.Random(1))
        self.cluster.stop()  # no timers: the test resolves

    def _changed(self, _: DnsCluster) -> None:
        self.changes += 1


def test_defaults_are_envoys() -> None:
    found = settings("a")
    assert (found.refresh_s, found.failure_base_s, found.jitter_s, found.respect_ttl) == (5.0, 0.0, 0.0, False)
    assert DnsSettings.of(json_format.ParseDict({"name": "s", "type": "STATIC"}, cluster_pb2.Cluster())) is None


def test_auto_takes_ipv6_if_there_is_any_and_ipv4_otherwise() -> None:
    async def test() -> None:
        lab = Lab("a")
        lab.resolver.answers["a", socket.AF_INET] = Answer(["10.0.0.1"], 0)
        await lab.cluster.resolve_once(0)
        assert lab.cluster.hosts == [("10.0.0.1", 80, 0)]
        lab.resolver.answers["a", socket.AF_INET6] = Answer(["::1"], 0)
        await lab.cluster.resolve_once(0)
        assert lab.cluster.hosts == [("::1", 80, 0)]

    run(test)


def test_families_are_asked_as_configured() -> None:
    async def test() -> None:
        for name, asked in (
            ("V4_ONLY", [socket.AF_INET]),
            ("V6_ONLY", [socket.AF_INET6]),
            ("V4_PREFERRED", [socket.AF_INET, socket.AF_INET6]),
            ("ALL", [socket.AF_UNSPEC]),
        ):
            lab = Lab("a", dns_lookup_family=name)
            await lab.cluster.resolve_once(0)
            assert [family for _, family in lab.resolver.asked] == asked

    run(test)


def test_hosts_are_the_union_in_order_of_the_configuration_each_once() -> None:
    async def test() -> None:
        lab = Lab("a", "b", dns_lookup_family="V4_ONLY")
        lab.resolver.answers["b", socket.AF_INET] = Answer(["10.0.0.2", "10.0.0.3"], 0)
        lab.resolver.answers["a", socket.AF_INET] = Answer(["10.0.0.1", "10.0.0.2"], 0)
        await lab.cluster.resolve_once(1)
        await lab.cluster.resolve_once(0)
        assert lab.cluster.hosts == [("10.0.0.1", 80, 0), ("10.0.0.2", 80, 0), ("10.0.0.3", 80, 1)]

    run(test)


def test_a_failure_keeps_the_last_good_answer_and_is_counted() -> None:
    async def test() -> None:
        lab = Lab("a", dns_lookup_family="V4_ONLY")
        lab.resolver.answers["a", socket.AF_INET] = Answer(["10.0.0.1"], 0)
        await lab.cluster.resolve_once(0)
        lab.resolver.answers["a", socket.AF_INET] = ResolveError("timeout")
        assert await lab.cluster.resolve_once(0) == 5.0
        assert lab.cluster.hosts == [("10.0.0.1", 80, 0)]
        assert (lab.stats.update_attempt, lab.stats.update_success, lab.stats.update_failure) == (2, 1, 1)

    run(test)


def test_the_same_addresses_in_another_order_are_no_change() -> None:
    async def test() -> None:
        lab = Lab("a", dns_lookup_family="V4_ONLY")
        for addresses in (["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.1"]):
            lab.resolver.answers["a", socket.AF_INET] = Answer(addresses, 0)
            await lab.cluster.resolve_once(0)
        assert (lab.changes, lab.stats.update_no_rebuild) == (1, 1)

    run(test)


def test_a_name_without_addresses_empties_the_cluster() -> None:
    async def test() -> None:
        lab = Lab("a", dns_lookup_family="V4_ONLY")
        lab.resolver.answers["a", socket.AF_INET] = Answer(["10.0.0.1"], 0)
        await lab.cluster.resolve_once(0)
        lab.resolver.answers["a", socket.AF_INET] = Answer([], 0)
        await lab.cluster.resolve_once(0)
        assert lab.cluster.hosts == []
        assert lab.stats.update_empty == 1

    run(test)


def test_the_ttl_counts_only_when_it_is_to_be_respected() -> None:
    async def test() -> None:
        for respect, pause in ((False, 9.0), (True, 42.0)):
            lab = Lab("a", dns_lookup_family="V4_ONLY", respect_dns_ttl=respect, dns_refresh_rate="9s")
            lab.resolver.answers["a", socket.AF_INET] = Answer(["10.0.0.1"], 42)
            assert await lab.cluster.resolve_once(0) == pause

    run(test)


def test_jitter_and_failure_pauses_stay_in_their_ranges() -> None:
    async def test() -> None:
        lab = Lab("a", dns_jitter="2s", dns_failure_refresh_rate={"base_interval": "1s", "max_interval": "4s"})
        assert all([5.0 <= await lab.cluster.resolve_once(0) < 7.0 for _ in range(50)])
        lab.resolver.answers["a", socket.AF_INET] = ResolveError("timeout")
        pauses = [await lab.cluster.resolve_once(0) for _ in range(50)]
        assert all(0.5 <= pause <= 4.0 for pause in pauses)

    run(test)


def test_clusters_are_prepared_adopted_and_kept_over_a_reload() -> None:
    async def test() -> None:
        resolver = FakeResolver()
        resolver.answers["a", socket.AF_INET] = Answer(["10.0.0.1"], 0)
        pushed: list[tuple[str, Any]] = []
        writer = StatsWriter(mmap.mmap(-1, 1 << 20))
        clusters = DnsClusters(resolver, writer, lambda name, hosts: pushed.append((name, hosts)))
        await clusters.prepare([cluster("a")])
        assert clusters.hosts() == {"c": [("10.0.0.1", 80, 0)]}
        clusters.adopt()
        asked = len(resolver.asked)
        await clusters.prepare([cluster("a")])
        clusters.adopt()
        assert len(resolver.asked) == asked  # the same cluster goes on as it is
        await clusters.prepare([cluster("b")])
        clusters.discard()
        assert clusters.hosts() == {"c": [("10.0.0.1", 80, 0)]}
        assert pushed == []
        clusters.stop()

    run(test)


def test_a_change_of_an_active_cluster_is_pushed() -> None:
    async def test() -> None:
        resolver = FakeResolver()
        arrived = asyncio.Event()
        pushed: list[tuple[str, Any]] = []

        def push(name: str, hosts: Any) -> None:
            pushed.append((name, hosts))
            arrived.set()

        clusters = DnsClusters(resolver, StatsWriter(mmap.mmap(-1, 1 << 20)), push)
        await clusters.prepare([cluster("a", dns_refresh_rate="0.005s")])
        clusters.adopt()
        resolver.answers["a", socket.AF_INET] = Answer(["10.0.0.9"], 0)
        async with asyncio.timeout(5):
            await arrived.wait()
        assert pushed == [("c", [("10.0.0.9", 80, 0)])]
        clusters.stop()

    run(test)


def test_a_logical_cluster_takes_the_first_address_and_stays_with_it_when_there_is_no_answer() -> None:
    async def test() -> None:
        lab = Lab("a", type="LOGICAL_DNS", dns_lookup_family="V4_ONLY")
        for answer, hosts in (
            (Answer(["10.0.0.1", "10.0.0.2"], 0), [("10.0.0.1", 80, 0)]),
            (Answer(["10.0.0.1", "10.0.0.3"], 0), [("10.0.0.1", 80, 0)]),
            (Answer([], 0), [("10.0.0.1", 80, 0)]),
            (ResolveError("timeout"), [("10.0.0.1", 80, 0)]),
            (Answer(["10.0.0.2", "10.0.0.1"], 0), [("10.0.0.2", 80, 0)]),
        ):
            lab.resolver.answers["a", socket.AF_INET] = answer
            await lab.cluster.resolve_once(0)
            assert lab.cluster.hosts == hosts
        assert lab.changes == 2
        assert (lab.stats.update_success, lab.stats.update_empty, lab.stats.update_failure) == (4, 1, 1)
        assert lab.stats.update_no_rebuild == 0

    run(test)

"""Addresses of STRICT_DNS and LOGICAL_DNS clusters, resolved here for all workers.

Every endpoint of a cluster is a target with a timer of its own; the cluster's hosts are the addresses of all its
targets, in the order of the configuration, each once. The last good answer is kept when a later one fails. What has
changed is pushed to the workers. Of LOGICAL_DNS the first address alone counts, and no answer empties the cluster.
Envoy's names: ``StrictDnsClusterImpl``, ``LogicalDnsCluster``.

Reads of ``cluster.v3.Cluster``: type, load_assignment, dns_lookup_family, dns_refresh_rate, dns_failure_refresh_rate,
respect_dns_ttl, dns_jitter.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import aiodns

from workerproxy.control.names import cluster_stat_prefix
from workerproxy.main_thread.stats import MembershipStats

if TYPE_CHECKING:
    from workerproxy.control.messages import Hosts
    from workerproxy.control.stats_segment import StatsWriter

_log = logging.getLogger("workerproxy.dns")

DEFAULT_REFRESH_S: Final = 5.0
FIRST_ROUND_S: Final = 10.0  # workers start without addresses that have not come by then
_TRIES: Final = 2
_TRY_S: Final = 2.5
_STRICT_DNS: Final = 1  # Cluster.DiscoveryType
_LOGICAL_DNS: Final = 2

# Cluster.DnsLookupFamily -> address families, asked one after the other until one has an answer; ALL takes both.
_AUTO, _V4_ONLY, _V6_ONLY, _V4_PREFERRED, _ALL = range(5)
_FAMILIES: Final[Mapping[int, tuple[int, ...]]] = {
    _AUTO: (socket.AF_INET6, socket.AF_INET),
    _V4_ONLY: (socket.AF_INET,),
    _V6_ONLY: (socket.AF_INET6,),
    _V4_PREFERRED: (socket.AF_INET, socket.AF_INET6),
    _ALL: (socket.AF_UNSPEC,),
}


class ResolveError(Exception):
    """A name has no answer; the text says why."""


class Answer(NamedTuple):
    addresses: list[str]  # IP addresses; empty: the name exists and has none of this family
    ttl_s: int  # the smallest of the records; 0 when there is none to respect (/etc/hosts)


class Resolver(Protocol):
    async def resolve(self, name: str, family: int) -> Answer:
        """The addresses of a name. Raises ``ResolveError``."""


class CaresResolver:
    """c-ares: /etc/hosts first, then the servers of /etc/resolv.conf; five seconds per question at most."""

    def __init__(self) -> None:
        self._resolver = aiodns.DNSResolver(timeout=_TRY_S, tries=_TRIES)

    async def resolve(self, name: str, family: int) -> Answer:
        try:
            found = await self._resolver.getaddrinfo(name, socket.AddressFamily(family), type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            if error.args and error.args[0] in (aiodns.error.ARES_ENODATA, aiodns.error.ARES_ENOTFOUND):
                return Answer([], 0)
            raise ResolveError(error.args[1] if len(error.args) > 1 else str(error)) from None
        wanted = [node for node in found.nodes if family in (socket.AF_UNSPEC, int(node.family))]
        texts = [_text(node.addr[0]) for node in wanted]
        return Answer(texts, min((node.ttl for node in wanted), default=0))

    async def close(self) -> None:
        await self._resolver.close()


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """What the configuration says of one cluster's resolution. Times in seconds."""

    cluster: str
    stat_prefix: str
    targets: tuple[tuple[str, int], ...]  # (name, port)
    family: int  # Cluster.DnsLookupFamily
    refresh_s: float
    failure_base_s: float  # 0: as refresh_s
    failure_max_s: float
    jitter_s: float
    respect_ttl: bool
    first_address_only: bool  # LOGICAL_DNS

    @classmethod
    def of(cls, cluster: Any) -> DnsSettings | None:
        """The settings of a ``cluster.v3.Cluster``; None when nothing of it is resolved."""
        if cluster.type not in (_STRICT_DNS, _LOGICAL_DNS):
            return None
        endpoints = [
            endpoint.endpoint.address.socket_address
            for locality in cluster.load_assignment.endpoints
            for endpoint in locality.lb_endpoints
        ]
        refresh = _seconds(cluster.dns_refresh_rate) if cluster.HasField("dns_refresh_rate") else DEFAULT_REFRESH_S
        failure = cluster.dns_failure_refresh_rate if cluster.HasField("dns_failure_refresh_rate") else None
        base = _seconds(failure.base_interval) if failure else 0.0
        return cls(
            cluster=cluster.name,
            stat_prefix=cluster_stat_prefix(cluster),
            targets=tuple((endpoint.address, endpoint.port_value) for endpoint in endpoints),
            family=cluster.dns_lookup_family,
            refresh_s=refresh,
            failure_base_s=base,
            failure_max_s=_seconds(failure.max_interval) if failure and failure.HasField("max_interval") else base * 10,
            jitter_s=_seconds(cluster.dns_jitter),
            respect_ttl=cluster.respect_dns_ttl,
            first_address_only=cluster.type == _LOGICAL_DNS,
        )


class DnsCluster:
    """The resolution of one cluster. ``on_change(cluster)`` after every change of ``hosts`` once ``started``."""

    def __init__(
        self,
        settings: DnsSettings,
        resolver: Resolver,
        stats: MembershipStats,
        on_change: Callable[[DnsCluster], None],
        rng: random.Random,
    ) -> None:
        self.settings = settings
        self.hosts: Hosts = []
        self._resolver = resolver
        self._stats = stats
        self._on_change = on_change
        self._random = rng
        self._answers: list[list[str]] = [[] for _ in settings.targets]
        self._waiting = len(settings.targets)  # targets without any outcome yet
        self._first_round = asyncio.Event()
        self._failures = [0] * len(settings.targets)
        if not settings.targets:
            self._first_round.set()
        self._tasks = [asyncio.ensure_future(self._keep(index)) for index in range(len(settings.targets))]

    def __repr__(self) -> str:
        return f"<DnsCluster {self.settings.cluster} hosts={self.hosts}>"

    async def first_round(self) -> None:
        """Return when every target has been answered, or has failed, once."""
        await self._first_round.wait()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _keep(self, index: int) -> None:
        while True:
            pause = await self.resolve_once(index)
            await asyncio.sleep(pause)

    async def resolve_once(self, index: int) -> float:
        """Resolve one target; returns the seconds until it should be resolved again."""
        name, _ = self.settings.targets[index]
        self._stats.update_attempt += 1
        try:
            answer = await self._lookup(name)
        except ResolveError as error:
            self._stats.update_failure += 1
            self._failures[index] += 1
            _log.debug("cluster %s: %s: %s", self.settings.cluster, name, error)
            self._outcome(index)
            return self._failure_pause(index)
        self._stats.update_success += 1
        self._failures[index] = 0
        if not answer.addresses:
            self._stats.update_empty += 1
        self._take(index, answer.addresses)
        self._outcome(index)
        ttl = answer.ttl_s if self.settings.respect_ttl and answer.ttl_s > 0 else self.settings.refresh_s
        return ttl + self._random.random() * self.settings.jitter_s

    async def _lookup(self, name: str) -> Answer:
        """Ask family by family as ``dns_lookup_family`` says."""
        answer = Answer([], 0)
        failure: ResolveError | None = None
        for family in _FAMILIES[self.settings.family]:
            try:
                answer = await self._resolver.resolve(name, family)
            except ResolveError as error:
                failure = error
                continue
            if answer.addresses:
                return answer
        if failure is not None:
            raise failure
        return answer

    def _take(self, index: int, addresses: list[str]) -> None:
        chosen = addresses
        if self.settings.first_address_only:
            chosen = addresses[:1]
            if chosen in ([], self._answers[index]):
                return  # (Envoy counts no update_no_rebuild here)
        if sorted(chosen) == sorted(self._answers[index]):
            self._stats.update_no_rebuild += 1
            return
        self._answers[index] = chosen
        unique: dict[tuple[str, int], int] = {}
        for endpoint, ((_, port), texts) in enumerate(zip(self.settings.targets, self._answers, strict=True)):
            for text in texts:
                unique.setdefault((text, port), endpoint)
        self.hosts = [(text, port, endpoint) for (text, port), endpoint in unique.items()]
        _log.debug("cluster %s: %d hosts", self.settings.cluster, len(self.hosts))
        self._on_change(self)

    def _outcome(self, index: int) -> None:
        if self._waiting > 0:
            self._waiting -= 1
            if self._waiting == 0:
                self._first_round.set()

    def _failure_pause(self, index: int) -> float:
        """``dns_failure_refresh_rate``: fully jittered exponential back-off; without it the usual refresh rate."""
        settings = self.settings
        if not settings.failure_base_s:
            return settings.refresh_s
        longest = min(settings.failure_max_s, settings.failure_base_s * 2.0 ** min(self._failures[index], 30))
        return max(settings.failure_base_s / 2, self._random.random() * longest)


class DnsClusters:
    """All resolved clusters: those that are active, and those a reload prepares."""

    def __init__(self, resolver: Resolver, stats: StatsWriter, on_change: Callable[[str, Hosts], None]) -> None:
        self._resolver = resolver
        self._stats = stats
        self._on_change = on_change
        self._active: dict[str, DnsCluster] = {}
        self._prepared: dict[str, DnsCluster] = {}
        self._random = random.Random()

    async def prepare(self, clusters: Iterable[Any]) -> None:
        """Resolve what is new or changed, for at most ``FIRST_ROUND_S``; what is the same goes on as it is."""
        self.discard()
        for cluster in clusters:
            settings = DnsSettings.of(cluster)
            if settings is None:
                continue
            same = self._active.get(settings.cluster)
            if same is None or same.settings != settings:
                stats = self._stats.group(settings.stat_prefix, MembershipStats)
                same = DnsCluster(settings, self._resolver, stats, self._changed, self._random)
            self._prepared[settings.cluster] = same
        waiting = [asyncio.ensure_future(one.first_round()) for one in self._prepared.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=FIRST_ROUND_S)
            for task in late:
                task.cancel()
            if late:
                _log.warning("%d clusters are not resolved after %g s; going on without", len(late), FIRST_ROUND_S)

    def adopt(self) -> None:
        """What was prepared is active now; what is left of the old is no longer resolved."""
        old, self._active, self._prepared = self._active, self._prepared, {}
        for name, cluster in old.items():
            if self._active.get(name) is not cluster:
                cluster.stop()

    def discard(self) -> None:
        """Forget what was prepared."""
        for name, cluster in self._prepared.items():
            if self._active.get(name) is not cluster:
                cluster.stop()
        self._prepared = {}

    def hosts(self) -> dict[str, Hosts]:
        """The addresses of every resolved cluster, the prepared ones' first."""
        return {name: one.hosts for name, one in {**self._active, **self._prepared}.items()}

    def stop(self) -> None:
        self.discard()
        for cluster in self._active.values():
            cluster.stop()

    def _changed(self, cluster: DnsCluster) -> None:
        if self._active.get(cluster.settings.cluster) is cluster:
            self._on_change(cluster.settings.cluster, cluster.hosts)


def _seconds(duration: Any) -> float:
    return float(duration.seconds) + float(duration.nanos) / 1e9


def _text(address: object) -> str:
    text = address.decode() if isinstance(address, bytes) else str(address)
    return text.partition("%")[0]

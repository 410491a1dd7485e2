"""A cluster as this worker runs it: settings, hosts, load balancer, limits, statistics.

Envoy's names: ``ThreadLocalCluster`` and ``ClusterInfo``. Knows no route and no file; the runtime builds it from the
protobuf, the main process sends the addresses of DNS clusters.
"""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workerproxy.worker.http.codec import encoder
from workerproxy.worker.upstream.connection_pool import ConnectionPool
from workerproxy.worker.upstream.host import HEALTHY, UNHEALTHY, Endpoint, Host, ip_host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerproxy.extensions.base import LoadBalancer
    from workerproxy.worker.http.codec.settings import CodecSettings
    from workerproxy.worker.network.dispatcher import Dispatcher
    from workerproxy.worker.upstream.active_client import ActiveClient
    from workerproxy.worker.upstream.circuit_breakers import CircuitBreakers
    from workerproxy.worker.upstream.code_stats import CodeStats
    from workerproxy.worker.upstream.stats import ClusterStats

DEFAULT_CONNECT_TIMEOUT_S: Final = 5.0
DEFAULT_IDLE_TIMEOUT_S: Final = 3600.0
DEFAULT_BUFFER_LIMIT: Final = 1 << 20  # bytes
NO_BUFFER_LIMIT: Final = 1 << 62  # for a configured limit of 0 (Envoy: no watermarks)
DEFAULT_PANIC_THRESHOLD: Final = 50.0  # percent


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """``core.v3.TcpKeepalive``; 0 leaves the system's value."""

    probes: int
    time_s: int
    interval_s: int

    def apply(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPCNT, self.probes),
            (socket.TCP_KEEPIDLE, self.time_s),
            (socket.TCP_KEEPINTVL, self.interval_s),
        ):
            if value:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What the configuration says of a cluster, resolved: seconds and bytes, 0 meaning none."""

    name: str
    stat_name: str  # alt_stat_name, or the name, as statistics print it
    codec: CodecSettings
    connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    max_connection_duration_s: float = 0.0
    max_stream_duration_s: float = 0.0
    max_requests_per_connection: int = 0
    buffer_limit: int = DEFAULT_BUFFER_LIMIT
    panic_threshold: float = DEFAULT_PANIC_THRESHOLD
    fail_traffic_on_panic: bool = False
    proper_case: bool = False
    tcp_keepalive: TcpKeepalive | None = None


class Cluster:
    """See the module. ``set_hosts`` keeps the hosts that stay, with their pools and counters."""

    def __init__(
        self,
        settings: ClusterSettings,
        dispatcher: Dispatcher,
        stats: ClusterStats,
        codes: CodeStats,
        breakers: CircuitBreakers,
        make_balancer: Callable[[Sequence[Host]], LoadBalancer[Host]],
        fingerprint: bytes = b"",
    ) -> None:
        self.settings = settings
        self.dispatcher = dispatcher
        self.stats = stats
        self.codes = codes
        self.chunked_field, self.no_body_field = encoder.framing_fields(proper_case=settings.proper_case)
        self.encode_head = encoder.request_head_proper_case if settings.proper_case else encoder.request_head
        self.breakers = breakers
        self.fingerprint = fingerprint  # of the configuration it was built from: equal means it can stay
        self.hosts: list[Host] = []
        self.endpoints: Sequence[Endpoint] = ()  # of a DNS cluster
        self.panicking = False
        self._make_balancer = make_balancer
        self._balancer: LoadBalancer[Host] | None = None
        self._ids = itertools.count(1)
        self.connect_timers = dispatcher.timers(settings.connect_timeout_s, _on_connect_timeout)
        self.max_duration_timers = (
            dispatcher.timers(settings.max_connection_duration_s, _on_max_duration)
            if settings.max_connection_duration_s
            else None
        )

    def __repr__(self) -> str:
        return f"<Cluster {self.settings.name} hosts={len(self.hosts)}>"

    def next_connection_id(self) -> int:
        return next(self._ids)

    def choose_host(self) -> Host | None:
        """The balancer's choice among the hosts that may be used; None when there is none."""
        balancer = self._balancer
        if balancer is None:
            return None
        if self.panicking:
            self.stats.lb_healthy_panic += 1
        return balancer.choose()

    def set_hosts(self, wanted: Sequence[Host]) -> None:
        """Replace the host set; hosts are the same when address and hostname are."""
        known = {host.key: host for host in self.hosts}
        gone = set(self.hosts)
        hosts: list[Host] = []
        for host in wanted:
            old = known.pop(host.key, None)
            if old is not None:
                old.become(host)
                hosts.append(old)
                gone.discard(old)
            else:
                host.pool = ConnectionPool(self, host)
                hosts.append(host)
        self.hosts = hosts
        for host in gone:
            host.pool.drain()
        self._rebuild()

    def set_resolved(self, resolved: Sequence[tuple[str, int, int]]) -> None:
        """Replace the hosts by what ``endpoints`` resolve to now."""
        self.set_hosts(resolved_hosts(self.endpoints, resolved))

    def _rebuild(self) -> None:
        usable = self._usable()
        self._balancer = self._make_balancer(usable) if usable else None

    def _usable(self) -> list[Host]:
        """Healthy hosts, or degraded ones in their place; all of them below the panic threshold (Envoy: panic mode)."""
        self.panicking = False
        healthy = [host for host in self.hosts if host.health == HEALTHY]
        fit = [host for host in self.hosts if host.health != UNHEALTHY]
        if len(fit) < len(self.hosts) and len(fit) * 100 < self.settings.panic_threshold * len(self.hosts):
            self.panicking = True
            return [] if self.settings.fail_traffic_on_panic else list(self.hosts)
        return healthy or fit

    def collect_stats(self) -> None:
        """Bring up to date what is not counted request by request; called before statistics are published."""
        self.stats.upstream_cx_http1_total = self.stats.upstream_cx_total
        self.codes.collect()
        for host in self.hosts:
            host.pool.collect_bytes()

    def drain(self) -> None:
        """The cluster was removed: nothing idle stays, busy connections end with their request."""
        for host in self.hosts:
            host.pool.drain()


def resolved_hosts(endpoints: Sequence[Endpoint], resolved: Sequence[tuple[str, int, int]]) -> list[Host]:
    """Hosts for what the main process resolved: IP address, port, index in ``endpoints``.

    Raises ``ValueError`` when an address is none.
    """
    hosts: list[Host] = []
    for ip, port, index in resolved:
        if index >= len(endpoints):
            continue  # of a configuration that is about to be committed here, with hosts of its own
        endpoint = endpoints[index]
        host = ip_host(ip, port, endpoint.hostname, endpoint.weight, endpoint.health)
        host.logical = endpoint.logical
        hosts.append(host)
    return hosts


def _on_connect_timeout(client: ActiveClient) -> None:
    client.on_connect_timeout()


def _on_max_duration(client: ActiveClient) -> None:
    client.pool.on_max_duration(client)

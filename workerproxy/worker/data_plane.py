"""The data plane of one worker: listeners and clusters of the committed configuration, and the next one being prepared.

Builds runtime objects from the bootstrap, top to bottom, in the order of a request: listener -> connection manager ->
filters -> routes -> clusters. ``prepare`` builds everything and serves nothing; ``commit`` swaps. Streams keep what
they began with. Driven by ``worker.py``.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workerproxy.config.runtime import Runtime
from workerproxy.extensions.registry import Registry
from workerproxy.worker.access_logs import AccessLogs
from workerproxy.worker.context import Refused, WorkerContext
from workerproxy.worker.http.connection_limits import ConnectionLimit, ConnectionLimits, LimitSettings
from workerproxy.worker.http.date import DateProvider
from workerproxy.worker.http.drain import DrainState
from workerproxy.worker.http.listener import HttpListener
from workerproxy.worker.http.listener_builder import ListenerBuilder, machine_address
from workerproxy.worker.http.request_id import RequestIds
from workerproxy.worker.http.stats import ListenerHttpStats, ListenerStats, WorkerListenerStats
from workerproxy.worker.network.dispatcher import Dispatcher
from workerproxy.worker.network.peer_watch import PeerWatch
from workerproxy.worker.network.splice import PipePool
from workerproxy.worker.shown_stats import ListenerGroups, ShownStats
from workerproxy.worker.upstream.cluster_builder import ClusterBuilder, endpoints_of, hosts_of
from workerproxy.worker.upstream.cluster_manager import ClusterManager
from workerproxy.worker.upstream.host import HEALTH_FLAGS

if TYPE_CHECKING:
    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
    from envoy.config.listener.v3.listener_pb2 import Listener

    from workerproxy.worker.http.settings import ConnectionManagerConfig
    from workerproxy.worker.upstream.cluster import Cluster
    from workerproxy.worker.upstream.host import Endpoint, Host


@dataclass(slots=True)
class Snapshot:
    """One version of the configuration, built."""

    version: int
    clusters: dict[str, Cluster]
    hosts: dict[str, list[Host]]  # what each cluster's host set becomes at commit
    endpoints: dict[str, tuple[Endpoint, ...]]  # of DNS clusters
    listeners: dict[str, tuple[Listener, ConnectionManagerConfig]]
    limits: LimitSettings


class DataPlane:
    """See ``context.DataPlaneInterface`` for what each method promises."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._dispatcher = Dispatcher(context.loop, peers=PeerWatch(context.loop))
        self._pipes = PipePool()
        self._clusters = ClusterManager()
        self._drain = DrainState()
        self._access_logs = AccessLogs(context)
        registry = Registry()
        self._cluster_builder = ClusterBuilder(context, self._dispatcher, registry)
        self._listener_builder = ListenerBuilder(
            context,
            self._dispatcher,
            registry,
            self._clusters,
            self._drain,
            DateProvider(self._dispatcher),
            RequestIds(),
            self._access_logs,
        )
        self._listeners: dict[str, HttpListener] = {}
        self._closing: list[HttpListener] = []  # gone from the configuration, with connections that finish
        self._sockets: dict[str, list[socket.socket]] = {}
        self._prepared: Snapshot | None = None
        self._shown = ShownStats(context.stats, context.worker_id)
        self._accepting = True
        context.stats.before_flush.append(self.collect_stats)

    # configuration

    def prepare(
        self, version: int, bootstrap: Bootstrap, hosts: dict[str, list[tuple[str, int, int]]], slots: dict[str, int]
    ) -> None:
        resources = bootstrap.static_resources
        clusters: dict[str, Cluster] = {}
        members: dict[str, list[Host]] = {}
        listeners: dict[str, tuple[Listener, ConnectionManagerConfig]] = {}
        try:
            for config in resources.clusters:
                known = self._clusters.clusters.get(config.name)
                clusters[config.name] = self._cluster_builder.build(config, slots, known)
                members[config.name] = hosts_of(config, hosts.get(config.name))
            for listener in resources.listeners:
                manager = self._listener_builder.build(listener, self._port_of(listener), bootstrap.node)
                listeners[listener.name] = (listener, manager)
        except (OSError, ValueError) as error:
            self._shown.take_back(clusters, listeners)
            raise Refused(f"cluster {config.name}: {error}") from None
        except Refused:
            self._shown.take_back(clusters, listeners)
            raise
        endpoints = {config.name: endpoints_of(config) for config in resources.clusters}
        limits = LimitSettings.of(Runtime(bootstrap), slots, listeners)
        self._prepared = Snapshot(version, clusters, members, endpoints, listeners, limits)

    def commit(self, version: int) -> None:
        prepared = self._prepared
        if prepared is None or prepared.version != version:
            raise RuntimeError(f"version {version} was not prepared")
        self._prepared = None
        for name, cluster in prepared.clusters.items():
            cluster.endpoints = prepared.endpoints[name]
            cluster.set_hosts(prepared.hosts[name])
        self._clusters.replace(prepared.clusters)
        for name in [name for name in self._listeners if name not in prepared.listeners]:
            self._remove_listener(name)
        for name, (config, manager) in prepared.listeners.items():
            listener = self._listeners.get(name)
            if listener is None:
                self._add_listener(config, manager)
            else:
                listener.config = manager
                groups = ListenerGroups(config, manager, self._context.worker_id)
                listener.http_stats = self._context.stats.group(groups.http, ListenerHttpStats)
        self._limit_connections(prepared.limits)
        self._shown.commit(prepared.clusters, prepared.listeners)

    def _limit_connections(self, limits: LimitSettings) -> None:
        board = self._context.board
        of_all = None
        if limits.of_all is not None:
            of_all = ConnectionLimit(board.cell(limits.of_all.slot), limits.of_all.maximum, self.active_connections())
        for listener in self._closing:
            listener.limits = ConnectionLimits(None, of_all) if of_all is not None else None
        for name, listener in self._listeners.items():
            own = limits.of_listener.get(name)
            mine = None
            if own is not None:
                mine = ConnectionLimit(board.cell(own.slot), own.maximum, len(listener.connections))
            listener.limits = ConnectionLimits(mine, of_all) if mine is not None or of_all is not None else None

    def abort(self, version: int) -> None:
        prepared = self._prepared
        if prepared is not None and prepared.version == version:
            self._prepared = None
            self._shown.take_back(prepared.clusters, prepared.listeners)

    def update_hosts(self, cluster: str, hosts: list[tuple[str, int, int]]) -> None:
        known = self._clusters.clusters.get(cluster)
        if known is not None:
            known.set_resolved(hosts)

    # listeners

    def _add_listener(self, config: Listener, manager: ConnectionManagerConfig) -> None:
        writer = self._context.stats
        groups = ListenerGroups(config, manager, self._context.worker_id)
        listener = HttpListener(
            config.name,
            self._dispatcher,
            self._pipes,
            manager,
            writer.group(groups.listener, ListenerStats),
            writer.group(groups.worker, WorkerListenerStats),
            writer.group(groups.http, ListenerHttpStats),
            machine_address(socket.AF_INET),
        )
        self._listeners[config.name] = listener
        for sock in self._sockets.pop(config.name, ()):
            listener.add_socket(sock)
        if self._accepting:
            listener.start()

    def _remove_listener(self, name: str) -> None:
        listener = self._listeners.pop(name)
        listener.close()
        if listener.connections:
            self._closing.append(listener)

    def add_listener_socket(self, listener_name: str, sock: socket.socket) -> None:
        listener = self._listeners.get(listener_name)
        if listener is not None:
            listener.add_socket(sock)
        else:
            self._sockets.setdefault(listener_name, []).append(sock)

    def _port_of(self, config: Listener) -> int:
        """The port that was really bound, for ``port_value: 0``."""
        known = self._sockets.get(config.name)
        if known and known[0].family != socket.AF_UNIX:
            return int(known[0].getsockname()[1])
        listener = self._listeners.get(config.name)
        if listener is not None and listener.port:
            return listener.port
        return int(config.address.socket_address.port_value)

    # draining

    def start_drain(self, seconds: float, gradual: bool) -> None:
        self._drain.start(seconds, gradual=gradual)
        if not gradual:
            for listener in self._all_listeners():
                listener.drain()

    def end_drain(self) -> None:
        self._drain.stop()

    def stop_accepting(self) -> None:
        self._accepting = False
        for listener in self._listeners.values():
            listener.stop_accepting()

    def active_connections(self) -> int:
        self._closing = [listener for listener in self._closing if listener.connections]
        return sum(len(listener.connections) for listener in self._all_listeners())

    def close_all(self) -> None:
        for listener in self._all_listeners():
            listener.close_all()

    def _all_listeners(self) -> list[HttpListener]:
        return [*self._listeners.values(), *self._closing]

    # logs and reports

    def reopen_logs(self) -> None:
        self._access_logs.reopen()

    def flush_logs(self) -> None:
        self._access_logs.flush()

    def collect_stats(self) -> None:
        """Bring up to date what is not counted request by request; called before statistics are published."""
        for cluster in self._clusters.clusters.values():
            cluster.collect_stats()
        for listener in self._all_listeners():
            listener.collect_stats()

    def cluster_report(self) -> list[dict[str, Any]]:
        return [
            {
                "name": cluster.settings.name,
                "hosts": [
                    {
                        "address": host.text,
                        "hostname": host.hostname,
                        "weight": host.weight,
                        "health_flags": HEALTH_FLAGS[host.health],
                        "cx_active": host.cx_active,
                        "cx_connect_fail": host.connect_fail,
                        "cx_total": host.cx_total,
                        "rq_active": host.rq_active,
                        "rq_error": host.rq_error,
                        "rq_success": host.rq_success,
                        "rq_timeout": host.rq_timeout,
                        "rq_total": host.rq_total,
                    }
                    for host in cluster.hosts
                ],
            }
            for cluster in self._clusters.clusters.values()
        ]

"""The data plane of one worker: listeners and clusters of the committed configuration, and the next one being prepared.

Builds runtime objects from the bootstrap, top to bottom, in the order of a request: listener -> connection manager ->
filters -> routes -> clusters. ``prepare`` builds everything and serves nothing; ``commit`` swaps. Streams keep what
they began with. Driven by ``worker.py``.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workerproxy.config.runtime import Runtime
from workerproxy.control import listen_filter
from workerproxy.extensions.registry import Registry
from workerproxy.worker.access_logs import AccessLogs
from workerproxy.worker.context import Leftovers, Refused, WorkerContext
from workerproxy.worker.http.connection_limits import ConnectionLimit, ConnectionLimits, LimitSettings
from workerproxy.worker.http.date import DateProvider
from workerproxy.worker.http.drain import DrainState
from workerproxy.worker.http.listener import HttpListener
from workerproxy.worker.http.listener_builder import ListenerBuilder, machine_address
from workerproxy.worker.http.orphans import Orphans
from workerproxy.worker.http.probe import probe_listener
from workerproxy.worker.http.request_id import RequestIds
from workerproxy.worker.http.stats import ListenerHttpStats, ListenerStats, WorkerListenerStats
from workerproxy.worker.network.connection_balancer import ConnectionBalancer
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

    from workerproxy.control.messages import Hosts, Prepare
    from workerproxy.worker.http.settings import ConnectionManagerConfig
    from workerproxy.worker.upstream.cluster import Cluster
    from workerproxy.worker.upstream.host import Endpoint, Host

_log = logging.getLogger("workerproxy.conn_handler")


@dataclass(slots=True)
class Snapshot:
    """One version of the configuration, built."""

    version: int
    clusters: dict[str, Cluster]
    hosts: dict[str, list[Host]]  # what each cluster's host set becomes at commit
    endpoints: dict[str, tuple[Endpoint, ...]]  # of DNS clusters
    listeners: dict[str, tuple[Listener, ConnectionManagerConfig]]
    binds: dict[str, frozenset[int]]  # of each listener
    limits: LimitSettings
    balance: dict[str, int]  # exact_balance: listener -> its first slot


class DataPlane:
    """See ``context.DataPlaneInterface`` for what each method promises."""

    def __init__(self, context: WorkerContext, dispatcher: Dispatcher | None = None) -> None:
        self._context = context
        self._dispatcher = dispatcher or Dispatcher(context.loop, peers=PeerWatch(context.loop))
        self._pipes = PipePool()
        self._clusters = ClusterManager()
        self._access_logs = AccessLogs(context)
        self._registry = Registry()
        self._date = DateProvider(self._dispatcher)
        self._request_ids = RequestIds()
        self._cluster_builder = ClusterBuilder(context, self._dispatcher, self._registry)
        self._listener_builder = ListenerBuilder(
            context,
            self._dispatcher,
            self._registry,
            self._clusters,
            self._date,
            self._request_ids,
            self._access_logs,
        )
        self._listeners: dict[str, HttpListener] = {}
        self._removed: list[HttpListener] = []  # gone from the configuration, with connections that finish
        self._owners: dict[int, HttpListener] = {}  # bind -> the listener that serves it, if it was removed too
        self._waiting: dict[tuple[int, int], socket.socket] = {}  # bind and index -> socket, until a commit
        self._prepared: Snapshot | None = None
        self._shown = ShownStats(context.stats, context.worker_id)
        self._orphans = Orphans(self._dispatcher, self._clusters, context.options.drain_time_s)
        self._balancer = ConnectionBalancer(context.loop, context.board, context.board_fd, self._on_handed_over)
        self._probe: HttpListener | None = None
        self._drain = DrainState(self._dispatcher.clock)  # of all listeners, also of those that come later
        context.stats.before_flush.append(self.collect_stats)

    # configuration

    def prepare(self, message: Prepare, bootstrap: Bootstrap) -> None:
        resources = bootstrap.static_resources
        slots = message.slots
        binds = {listener.name: frozenset(message.binds.get(listener.name, ())) for listener in resources.listeners}
        clusters: dict[str, Cluster] = {}
        members: dict[str, list[Host]] = {}
        listeners: dict[str, tuple[Listener, ConnectionManagerConfig]] = {}
        try:
            for config in resources.clusters:
                known = self._clusters.clusters.get(config.name)
                clusters[config.name] = self._cluster_builder.build(config, slots, known)
                members[config.name] = hosts_of(config, message.hosts.get(config.name))
            for listener in resources.listeners:
                port = self._port_of(listener, binds[listener.name])
                manager = self._listener_builder.build(listener, port, bootstrap.node)
                listeners[listener.name] = (listener, manager)
        except (OSError, ValueError) as error:
            self._shown.take_back(clusters, listeners)
            raise Refused(f"cluster {config.name}: {error}") from None
        except Refused:
            self._shown.take_back(clusters, listeners)
            raise
        endpoints = {config.name: endpoints_of(config) for config in resources.clusters}
        limits = LimitSettings.of(Runtime(bootstrap), slots, listeners)
        balance = {
            listener.name: slots[f"{listener.name}/balance"]
            for listener in resources.listeners
            if listener.connection_balance_config.HasField("exact_balance")
        }
        self._prepared = Snapshot(message.version, clusters, members, endpoints, listeners, binds, limits, balance)

    def commit(self, version: int) -> Leftovers:
        prepared = self._prepared
        if prepared is None or prepared.version != version:
            raise RuntimeError(f"version {version} was not prepared")
        self._prepared = None
        for name, cluster in prepared.clusters.items():
            cluster.endpoints = prepared.endpoints[name]
            cluster.set_hosts(prepared.hosts[name])
        self._clusters.replace(prepared.clusters)
        removed = self._replace_listeners(prepared)
        self._limit_connections(prepared.limits, prepared.balance)
        self._shown.commit(prepared.clusters, prepared.listeners)
        connections = sum(len(listener.connections) for listener in removed)
        return Leftovers(connections, self._orphans.find(self._listeners.values()))

    def abort(self, version: int) -> None:
        prepared = self._prepared
        if prepared is not None and prepared.version == version:
            self._prepared = None
            self._shown.take_back(prepared.clusters, prepared.listeners)

    def update_hosts(self, cluster: str, hosts: Hosts) -> None:
        known = self._clusters.clusters.get(cluster)
        if known is not None:
            known.set_resolved(hosts)

    def set_board_rows(self, rows: int) -> None:
        self._context.board.set_rows(rows)
        prepared = self._prepared.clusters if self._prepared is not None else {}
        for cluster in (*self._clusters.clusters.values(), *prepared.values()):
            cluster.breakers.set_rows(rows)

    # listeners

    def _replace_listeners(self, prepared: Snapshot) -> list[HttpListener]:
        """Make the listeners those of a snapshot. Gives those that are gone; they drain.

        A listener stays the same one as long as it keeps one of its addresses.
        """
        before = dict(self._listeners)
        self._listeners.clear()
        for name, (config, manager) in prepared.listeners.items():
            binds = prepared.binds[name]
            listener = before.get(name)
            if listener is not None and (listener.binds & binds or not (listener.binds or binds)):
                del before[name]
                self._renew_listener(listener, config, manager)
            else:
                listener = self._new_listener(config, manager)
            listener.binds = binds
            self._listeners[name] = listener
        for listener in self._listeners.values():
            for bind in listener.binds:
                self._serve(bind, listener)
        removed = list(before.values())
        options = self._context.options
        for listener in removed:
            listener.binds = frozenset()
            listener.remove(options.drain_time_s, gradual=options.drain_strategy == "gradual")
        self._removed += removed
        return removed

    def _new_listener(self, config: Listener, manager: ConnectionManagerConfig) -> HttpListener:
        stats = self._listener_stats(config, manager)
        listener = HttpListener(
            config.name, self._dispatcher, self._pipes, manager, *stats, machine_address(socket.AF_INET)
        )
        if self._drain.active:
            listener.start_drain(self._drain.left_s(), gradual=self._drain.gradual)
        return listener

    def _renew_listener(self, listener: HttpListener, config: Listener, manager: ConnectionManagerConfig) -> None:
        listener.renew(manager, *self._listener_stats(config, manager))

    def _listener_stats(
        self, config: Listener, manager: ConnectionManagerConfig
    ) -> tuple[ListenerStats, WorkerListenerStats, ListenerHttpStats]:
        groups = ListenerGroups(config, manager, self._context.worker_id)
        group = self._context.stats.group
        return (
            group(groups.listener, ListenerStats),
            group(groups.worker, WorkerListenerStats),
            group(groups.http, ListenerHttpStats),
        )

    def _limit_connections(self, limits: LimitSettings, balance: dict[str, int]) -> None:
        board = self._context.board
        of_all = None
        if limits.of_all is not None:
            of_all = ConnectionLimit(board.cell(limits.of_all.slot), limits.of_all.maximum, self.active_connections())
        for listener in self._removed:
            listener.balance(None)
            listener.limits = ConnectionLimits.of(None, of_all, None)
        for name, listener in self._listeners.items():
            own = limits.of_listener.get(name)
            mine = None
            if own is not None:
                mine = ConnectionLimit(board.cell(own.slot), own.maximum, len(listener.connections))
            share = self._balancer.share(name, balance[name]) if name in balance else None
            listener.balance(share)
            listener.limits = ConnectionLimits.of(mine, of_all, share)

    # sockets

    def add_socket(self, bind: int, index: int, sock: socket.socket) -> None:
        owner = self._owners.get(bind)
        if owner is not None:
            owner.add_socket(bind, index, sock)
        else:
            self._waiting[bind, index] = sock

    def release_socket(self, bind: int, index: int) -> None:
        waiting = self._waiting.pop((bind, index), None)
        if waiting is not None:
            waiting.close()
        owner = self._owners.get(bind)
        if owner is not None:
            owner.release_socket(bind, index)

    def _serve(self, bind: int, listener: HttpListener) -> None:
        """From now on this listener has this bind."""
        owner = self._owners.get(bind)
        self._owners[bind] = listener
        if owner is None:
            for key in [key for key in self._waiting if key[0] == bind]:
                listener.add_socket(*key, self._waiting.pop(key))
        elif owner is not listener:
            for index, sock in owner.detach_bind(bind):
                listener.add_socket(bind, index, sock)

    def balance_group(self, rows: Sequence[int], receiving: socket.socket, sending: Sequence[socket.socket]) -> None:
        self._balancer.join(rows, receiving, sending)

    def _on_handed_over(self, name: str, sock: socket.socket) -> None:
        """Another worker has accepted this connection. The listener may be gone here, or drain."""
        of_that_name = (one for one in self._removed if one.name == name)
        listener = self._listeners.get(name) or next(of_that_name, None)
        if listener is not None:
            listener.take_over(sock)
        else:
            _log.warning("listener %s is gone: a connection that was handed over is closed", name)
            sock.close()

    def take_handed_over(self) -> None:
        self._balancer.take_all()

    def refuse_new(self) -> None:
        self._balancer.leave()
        for sock in self._sockets():
            try:
                listen_filter.refuse_new(sock)
            except OSError as error:
                _log.warning("new connections cannot be kept off %s: %s", sock.getsockname(), error)

    def stop_accepting(self, binds: Collection[int] | None) -> None:
        for bind in [bind for bind in self._owners if binds is None or bind in binds]:
            self._owners.pop(bind).stop_accepting(bind)
        for key in [key for key in self._waiting if binds is None or key[0] in binds]:
            self._waiting.pop(key).close()

    def _sockets(self) -> list[socket.socket]:
        of_listeners = (sock for listener in self._all_listeners() for sock in listener.sockets)
        return [*self._waiting.values(), *of_listeners]

    def _port_of(self, config: Listener, binds: frozenset[int]) -> int:
        """The port that was really bound, for ``port_value: 0``."""
        for (bind, _), sock in self._waiting.items():
            if bind in binds and sock.family != socket.AF_UNIX:
                return int(sock.getsockname()[1])
        for bind in binds:
            owner = self._owners.get(bind)
            if owner is not None and owner.port:
                return owner.port
        listener = self._listeners.get(config.name)
        if listener is not None and listener.port and listener.binds & binds:
            return listener.port
        return int(config.address.socket_address.port_value)

    def probe(self, sock: socket.socket) -> None:
        if self._probe is None:
            self._probe = probe_listener(
                self._context,
                self._dispatcher,
                self._pipes,
                self._registry,
                self._date,
                self._request_ids,
                self._access_logs,
            )
        self._probe.serve(sock, "")

    # draining

    def start_drain(self, seconds: float, gradual: bool, listeners: Collection[str]) -> None:
        if not listeners:
            self._drain.start(seconds, gradual=gradual)
            if not gradual:
                for listener in self._removed:
                    listener.start_drain(seconds, gradual=False)
        for name, listener in self._listeners.items():
            if not listeners or name in listeners:
                listener.start_drain(seconds, gradual=gradual)

    def end_drain(self) -> None:
        self._drain.stop()
        for listener in self._listeners.values():
            listener.end_drain()

    def active_connections(self) -> int:
        for listener in [one for one in self._removed if not one.connections and not one.sockets]:
            self._removed.remove(listener)
            listener.close()
        return sum(len(listener.connections) for listener in self._all_listeners())

    def close_all(self) -> None:
        for listener in self._all_listeners():
            listener.close()
        if self._probe is not None:
            self._probe.close()
        self._balancer.close()
        for sock in self._waiting.values():
            sock.close()
        self._waiting.clear()

    def _all_listeners(self) -> list[HttpListener]:
        return [*self._listeners.values(), *self._removed]

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

"""An HTTP listener of this worker: its sockets, its connection managers, its current configuration.

A reload swaps ``config``; connections stay, and each new stream takes the new one. Envoy's names: ``ListenerImpl`` and
the connection list of ``ActiveTcpListener``.
"""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING

from workerproxy.worker.http.connection_manager import ConnectionManager
from workerproxy.worker.network.listener import ActiveListener, address_text

if TYPE_CHECKING:
    from workerproxy.worker.http.connection_limits import ConnectionLimits
    from workerproxy.worker.http.settings import ConnectionManagerConfig
    from workerproxy.worker.http.stats import (
        ListenerHttpStats,
        ListenerStats,
        WorkerListenerStats,
    )
    from workerproxy.worker.network.dispatcher import Dispatcher, TimerQueue
    from workerproxy.worker.network.splice import PipePool


class HttpListener:
    """One per listener of the configuration, over all its versions."""

    def __init__(
        self,
        name: str,
        dispatcher: Dispatcher,
        pipes: PipePool,
        config: ConnectionManagerConfig,
        stats: ListenerStats,
        worker_stats: WorkerListenerStats,
        http_stats: ListenerHttpStats,
        local_ip: str,
    ) -> None:
        self.name = name
        self.dispatcher = dispatcher
        self.pipes = pipes
        self.config = config
        self.stats = stats
        self.worker_stats = worker_stats
        self.http_stats = http_stats
        self.limits: ConnectionLimits | None = None
        self.connections: set[ConnectionManager] = set()
        self.statuses: dict[int, int] = {}  # status -> responses since statistics were last published
        self._local_ip = local_ip.encode()  # what x-forwarded-for says for clients on this machine
        self._sockets: list[ActiveListener] = []
        self._timers: tuple[TimerQueue[ConnectionManager], ...] = ()
        self._timers_of: ConnectionManagerConfig | None = None
        self._ids = itertools.count(1)
        self._accepting = False
        self._local_address = ""
        self._port = 0

    def __repr__(self) -> str:
        return f"<HttpListener {self.name} connections={len(self.connections)}>"

    @property
    def port(self) -> int:
        """The port the sockets are bound to; 0 for a Unix socket, or without sockets."""
        return self._port

    # sockets

    def add_socket(self, sock: socket.socket) -> None:
        wildcard = sock.family != socket.AF_UNIX and sock.getsockname()[0] in ("0.0.0.0", "::")
        active = ActiveListener(sock, self.dispatcher, self._on_accept_wildcard if wildcard else self._on_accept)
        self._sockets.append(active)
        self._local_address = active.local_address
        if sock.family != socket.AF_UNIX:
            self._port = int(sock.getsockname()[1])
        if self._accepting:
            active.start()

    def start(self) -> None:
        self._accepting = True
        for active in self._sockets:
            active.start()

    def stop_accepting(self) -> None:
        """Accept what is queued, then no more."""
        self._accepting = False
        for active in self._sockets:
            active.stop()

    def close(self) -> None:
        """The listener is gone from the configuration: sockets closed here, connections drained."""
        self.stop_accepting()
        for active in self._sockets:
            active.close()
        self._sockets.clear()
        self.drain()

    def drain(self) -> None:
        for manager in tuple(self.connections):
            manager.drain()

    def close_all(self) -> None:
        for manager in tuple(self.connections):
            manager.close()

    # connections

    def _on_accept(self, sock: socket.socket, peer: object) -> None:
        self._new_connection(sock, peer, self._local_address)

    def _on_accept_wildcard(self, sock: socket.socket, peer: object) -> None:
        try:
            local = address_text(sock.family, sock.getsockname())
        except OSError:  # it is gone already
            sock.close()
            return
        self._new_connection(sock, peer, local)

    def _new_connection(self, sock: socket.socket, peer: object, local: str) -> None:
        limits = self.limits
        if limits is not None:
            if limits.refuses(self.stats):
                sock.close()
                return
            limits.opened()
        self.stats.downstream_cx_total += 1
        self.stats.downstream_cx_active += 1
        config = self.config
        config.stats.downstream_cx_total += 1
        config.stats.downstream_cx_active += 1
        manager = ConnectionManager(self, sock, address_text(sock.family, peer), local, next(self._ids))
        self.connections.add(manager)
        timers = manager.timers = self._timers if config is self._timers_of else self._choose_timers()
        for queue in timers:
            queue.set(manager)
        manager.connection.start_reading()

    def on_connection_gone(self, manager: ConnectionManager) -> None:
        """The connection is closed; called exactly once."""
        if manager not in self.connections:
            return
        self.connections.discard(manager)
        if self.limits is not None:
            self.limits.closed()
        manager.codec.close()
        for queue in manager.timers:
            queue.cancel(manager)
        length_ms = int((self.dispatcher.clock() - manager.started) * 1000)
        stats = manager.stats
        stats.downstream_cx_active -= 1
        stats.downstream_cx_destroy += 1
        self._count_bytes(manager)
        stats.downstream_cx_length_ms.record(length_ms)
        self.stats.downstream_cx_active -= 1
        self.stats.downstream_cx_destroy += 1
        self.stats.downstream_cx_length_ms.record(length_ms)

    def _choose_timers(self) -> tuple[TimerQueue[ConnectionManager], ...]:
        """The timeouts every new connection of the current configuration has."""
        config = self._timers_of = self.config
        wanted = (
            (config.connection_idle_timeout_s, _on_connection_idle),
            (config.max_connection_duration_s, _on_max_duration),
        )
        self._timers = tuple(self.dispatcher.timers(seconds, callback) for seconds, callback in wanted if seconds)
        return self._timers

    def collect_stats(self) -> None:
        """Bring up to date what is not counted request by request; called before statistics are published."""
        for manager in self.connections:
            self._count_bytes(manager)
        self._count_responses()
        stats = self.config.stats
        self.worker_stats.downstream_cx_total = self.stats.downstream_cx_total
        self.worker_stats.downstream_cx_active = self.stats.downstream_cx_active
        stats.downstream_cx_http1_total = stats.downstream_cx_total
        stats.downstream_cx_http1_active = stats.downstream_cx_active
        stats.downstream_rq_http1_total = stats.downstream_rq_total

    def _count_bytes(self, manager: ConnectionManager) -> None:
        read, written = manager.connection.take_byte_counts()
        manager.stats.downstream_cx_rx_bytes_total += read
        manager.stats.downstream_cx_tx_bytes_total += written

    def forwarded_address(self, peer: str) -> bytes:
        """What ``use_remote_address`` appends to x-forwarded-for: the peer's IP, or our own for a loopback peer.

        Nothing for a peer on a Unix socket.
        """
        if not peer or peer[0] in "/@":
            return b""
        ip = peer.rpartition(":")[0].strip("[]").encode()
        if ip.startswith(b"127.") or ip == b"::1":
            return self._local_ip
        return ip

    def _count_responses(self) -> None:
        """Give the responses counted by status to the listener's and the connection manager's statistics."""
        statuses, self.statuses = self.statuses, {}
        for stats in (self.config.stats, self.http_stats):
            for status, count in statuses.items():
                stats.downstream_rq_completed += count
                if status < 300:
                    stats.downstream_rq_2xx += count
                elif status < 400:
                    stats.downstream_rq_3xx += count
                elif status < 500:
                    stats.downstream_rq_4xx += count
                else:
                    stats.downstream_rq_5xx += count


def _on_connection_idle(manager: ConnectionManager) -> None:
    left = manager.on_connection_idle()
    if left:
        manager.dispatcher.call_later(left, lambda: _on_connection_idle(manager) if _alive(manager) else None)


def _alive(manager: ConnectionManager) -> bool:
    return manager in manager.listener.connections


def _on_max_duration(manager: ConnectionManager) -> None:
    manager.on_max_connection_duration()

"""An HTTP listener of this worker: its sockets, its connection managers, its current configuration.

A reload swaps ``config``; connections stay, and each new stream takes the new one. A listener that was removed, or
moved to another address, lives on as long as it has connections: it drains. So two of one name may exist for a while.
Envoy's names: ``ListenerImpl`` and the connection list of ``ActiveTcpListener``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import socket
from typing import TYPE_CHECKING, Final

from workerproxy.control.listen_filter import deafens, hear_again
from workerproxy.worker.http.connection_manager import ConnectionManager
from workerproxy.worker.http.drain import DrainState
from workerproxy.worker.http.settings import NO_ROUTES
from workerproxy.worker.network.listener import ActiveListener, address_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.worker.http.connection_limits import ConnectionLimits
    from workerproxy.worker.http.settings import ConnectionManagerConfig
    from workerproxy.worker.http.stats import (
        ListenerHttpStats,
        ListenerStats,
        WorkerListenerStats,
    )
    from workerproxy.worker.network.connection_balancer import Share
    from workerproxy.worker.network.dispatcher import Dispatcher, TimerQueue
    from workerproxy.worker.network.splice import PipePool

_log = logging.getLogger("workerproxy.conn_handler")

# A drain leaves a connection alone that has been idle for less: one that was just accepted looks idle, and so does one
# whose next request is on its way. It is also how often a drain looks for idle connections.
IDLE_GRACE_S: Final = 1.0


class HttpListener:
    """One per listener of the configuration, over all its versions that share an address."""

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
        self.binds: frozenset[int] = frozenset()  # that the configuration gives it
        self.limits: ConnectionLimits | None = None
        self.connections: set[ConnectionManager] = set()
        self.statuses: dict[int, int] = {}  # status -> responses since statistics were last published
        self.drain = DrainState(dispatcher.clock)
        self._local_ip = local_ip.encode()  # what x-forwarded-for says for clients on this machine
        self._sockets: dict[tuple[int, int], ActiveListener] = {}  # bind and index -> socket
        self._timers: tuple[TimerQueue[ConnectionManager], ...] = ()
        self._timers_of: ConnectionManagerConfig | None = None
        self._share: Share | None = None  # in the balance among workers
        self._ids = itertools.count(1)
        self._local_address = ""
        self._port = 0
        self._next_look: asyncio.TimerHandle | None = None  # for idle connections, while it drains
        self._time_is_up: asyncio.TimerHandle | None = None  # for a listener that was removed

    def __repr__(self) -> str:
        state = " draining" if self.drain.active else ""
        return f"<HttpListener {self.name}{state} connections={len(self.connections)}>"

    @property
    def port(self) -> int:
        """The port the sockets are bound to; 0 for a Unix socket, or when there never was a socket."""
        return self._port

    # configuration

    def renew(
        self,
        config: ConnectionManagerConfig,
        stats: ListenerStats,
        worker_stats: WorkerListenerStats,
        http_stats: ListenerHttpStats,
    ) -> None:
        """Another version of it is served from now on. Its open connections are counted where it counts now."""
        self._count_responses()
        old, self.config = self.config, config
        self._let_go(old)
        self.http_stats = http_stats
        self.worker_stats = worker_stats
        if stats is not self.stats:
            self.stats.downstream_cx_active -= len(self.connections)
            stats.downstream_cx_active += len(self.connections)
            self.stats = stats

    def _let_go(self, old: ConnectionManagerConfig) -> None:
        """Idle connections let go of an old version, and those that run of its routes, unless they may need them again.

        A stream keeps its version for as long as it runs, which may be days; most of a version is its routes.
        """
        self._timers_of = None
        with_routes: ConnectionManagerConfig | None = None
        for manager in self.connections:
            stream = manager.stream
            if stream is not None:
                if stream.config is old and stream.may_route_again:
                    with_routes = stream.config = with_routes or dataclasses.replace(old)
            elif manager.is_idle:
                manager.config = self.config
        old.routes = NO_ROUTES

    def balance(self, share: Share | None) -> None:
        """``exact_balance``: what is accepted may go to another worker. None: it does not."""
        if self._share is not None and share is None:
            self._share.end()
        if share is not None:
            share.begin(len(self.connections))
        self._share = share
        for active in self._sockets.values():
            active.on_accept = self._acceptor_of(active.sock)

    # sockets

    @property
    def sockets(self) -> list[socket.socket]:
        """Those that it reads."""
        return [active.sock for active in self._sockets.values()]

    def add_socket(self, bind: int, index: int, sock: socket.socket) -> None:
        """Accept on this socket too. Takes it over."""
        if (bind, index) in self._sockets:  # another copy of one that is here
            sock.close()
            return
        active = self._sockets[bind, index] = ActiveListener(sock, self.dispatcher, self._acceptor_of(sock))
        self._local_address = active.local_address
        if sock.family != socket.AF_UNIX:
            self._port = int(sock.getsockname()[1])
        active.start()

    def _acceptor_of(self, sock: socket.socket) -> Callable[[socket.socket, object], None]:
        if self._share is not None:
            return self._on_accept_balanced
        wildcard = sock.family != socket.AF_UNIX and sock.getsockname()[0] in ("0.0.0.0", "::")
        return self._on_accept_wildcard if wildcard else self._on_accept

    def release_socket(self, bind: int, index: int) -> None:
        """Close this copy; what is queued is somebody else's."""
        active = self._sockets.pop((bind, index), None)
        if active is not None:
            active.close()

    def detach_bind(self, bind: int) -> list[tuple[int, socket.socket]]:
        """Give the sockets of a bind away, with their indexes: another listener has it now."""
        moving = [key for key in self._sockets if key[0] == bind]
        return [(key[1], self._sockets.pop(key).detach()) for key in moving]

    def stop_accepting(self, bind: int) -> None:
        """Accept what is queued on the sockets of this bind, then close them."""
        for key in [key for key in self._sockets if key[0] == bind]:
            active = self._sockets[key]
            if self._share is not None:  # others may be about to leave, as this one is
                active.on_accept = self._on_accept_unbalanced
            active.stop()
            if deafens(active.sock):
                for manager in self.connections:
                    hear_again(manager.connection.sock)
            del self._sockets[key]
            active.close()

    # the end

    def start_drain(self, seconds: float, *, gradual: bool) -> None:
        """Responses say close from now on, and idle connections are closed; a drain that was on begins anew.

        Gradual: a share of the responses that grows to all in ``seconds``, and idle connections spread over them.
        """
        self.drain.start(seconds, gradual=gradual)
        self._look_later()

    def end_drain(self) -> None:
        self.drain.stop()
        self._stop_looking()

    def remove(self, seconds: float, *, gradual: bool) -> None:
        """The listener is gone from the configuration: drain, and close what is left after ``seconds``.

        Its sockets are read until ``stop_accepting``.
        """
        if not self.drain.active:
            self.start_drain(seconds, gradual=gradual)
        self._time_is_up = self.dispatcher.call_later(seconds, self._on_time_is_up)

    def _on_time_is_up(self) -> None:
        if self.connections:
            count = len(self.connections)
            _log.warning("listener %s: the drain time is over; %d connections are closed", self.name, count)
            self.close_connections()
        # Whatever is accepted from now on, until nothing is any more.
        self._time_is_up = self.dispatcher.call_later(IDLE_GRACE_S, self._on_time_is_up)

    def _look_later(self) -> None:
        self._stop_looking()
        self._next_look = self.dispatcher.call_later(IDLE_GRACE_S, self._close_idle)

    def _stop_looking(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _close_idle(self) -> None:
        self._look_later()
        drain = self.drain
        latest = self.dispatcher.clock() - IDLE_GRACE_S + 0.001
        for manager in tuple(self.connections):
            if manager.is_idle:
                if manager.idle_since > latest or not drain.close_idle_now(IDLE_GRACE_S):
                    continue
            elif drain.gradual:
                continue
            manager.drain()

    def close_connections(self) -> None:
        for manager in tuple(self.connections):
            manager.close()

    def close(self) -> None:
        """Close everything at once."""
        self._stop_looking()
        if self._time_is_up is not None:
            self._time_is_up.cancel()
        for active in self._sockets.values():
            active.close()
        self._sockets.clear()
        self.close_connections()

    # connections

    def _on_accept(self, sock: socket.socket, peer: object) -> None:
        self._new_connection(sock, peer, self._local_address)

    def _on_accept_wildcard(self, sock: socket.socket, peer: object) -> None:
        try:
            local = address_text(sock.family, sock.getsockname())
        except OSError:  # it is gone already
            sock.close()
            if self._share is not None:
                self._share.closed()
            return
        self._new_connection(sock, peer, local)

    def serve(self, sock: socket.socket, peer: object) -> None:
        """Serve a connection that was accepted elsewhere. ``peer``: its other end's address, as the socket gives it."""
        sock.setblocking(False)
        self._on_accept_wildcard(sock, peer)

    def _on_accept_balanced(self, sock: socket.socket, peer: object) -> None:
        if self._share is None or not self._share.hand_over(sock):
            self._on_accept_wildcard(sock, peer)

    def _on_accept_unbalanced(self, sock: socket.socket, peer: object) -> None:
        if self._share is not None:
            self._share.opened()
        self._on_accept_wildcard(sock, peer)

    def take_over(self, sock: socket.socket) -> None:
        """Serve a connection that another worker has accepted (``exact_balance``)."""
        try:
            peer = sock.getpeername()
        except OSError:  # it is gone already
            sock.close()
            return
        sock.setblocking(False)
        self._on_accept_unbalanced(sock, peer)

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

"""The connection pool: this worker's HTTP/1 connections to one host.

    decide (``new_stream``): a ready connection -> attach; else room among the pending -> queue, and connect if the
    connections being made are fewer than the streams that wait; else overflow.

    CONNECTING --connected--> READY <--> BUSY --last request--> DRAINING        any --close--> CLOSED

Envoy's name: ``Http1::ConnPoolImpl``. One request per connection at a time, no pipelining; the connection used last is
reused first, so that the surplus grows old and is closed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from workerproxy.http import outcome
from workerproxy.worker.upstream.active_client import ActiveClient, State

if TYPE_CHECKING:
    from workerproxy.http.outcome import ResetReason
    from workerproxy.worker.router.upstream_request import UpstreamRequest
    from workerproxy.worker.upstream.cluster import Cluster
    from workerproxy.worker.upstream.host import Host


class ConnectionPool:
    """See the module."""

    __slots__ = ("_sweeping", "busy", "cluster", "connecting", "drained", "host", "pending", "ready")

    def __init__(self, cluster: Cluster, host: Host) -> None:
        self.cluster = cluster
        self.host = host
        self.ready: list[ActiveClient] = []
        self.busy: set[ActiveClient] = set()  # BUSY and DRAINING
        self.connecting: dict[ActiveClient, None] = {}
        self.pending: deque[UpstreamRequest] = deque()
        self.drained = False  # the host left the cluster: nothing is reused any more
        self._sweeping = False

    def __repr__(self) -> str:
        return (
            f"<ConnectionPool {self.host.text} ready={len(self.ready)} busy={len(self.busy)} "
            f"connecting={len(self.connecting)} pending={len(self.pending)}>"
        )

    # streams

    def new_stream(self, request: UpstreamRequest) -> None:
        """Give ``request`` a connection, now or when there is one; or fail it (``on_pool_failure``)."""
        if self.ready:
            client = self.ready.pop()
            if not self._attach(client, request):
                self.ready.append(client)
            return
        cluster = self.cluster
        if not cluster.breakers.pending.available():
            cluster.stats.upstream_rq_pending_overflow += 1
            request.on_pool_failure(outcome.OVERFLOW, "")
            return
        cluster.stats.upstream_rq_pending_total += 1
        cluster.stats.upstream_rq_pending_active += 1
        cluster.breakers.pending.acquire()
        self.pending.append(request)
        self._connect_if_needed()

    def cancel(self, request: UpstreamRequest) -> None:
        """``request`` no longer waits; a connection begun for it is kept for the next."""
        try:
            self.pending.remove(request)
        except ValueError:
            return
        self._left_pending()
        self.cluster.stats.upstream_rq_cancelled += 1

    def _attach(self, client: ActiveClient, request: UpstreamRequest) -> bool:
        cluster = self.cluster
        breakers = cluster.breakers
        stats = cluster.stats
        if not breakers.requests.available():
            stats.upstream_rq_pending_overflow += 1
            stats.upstream_rq_active_overflow += 1
            request.on_pool_failure(outcome.OVERFLOW, "")
            return False
        client.state = State.BUSY
        if client.remaining_requests:
            client.remaining_requests -= 1
            if not client.remaining_requests:
                stats.upstream_cx_max_requests += 1
                client.state = State.DRAINING
        self.busy.add(client)
        host = self.host
        host.rq_total += 1
        host.rq_active += 1
        stats.upstream_rq_total += 1
        stats.upstream_rq_active += 1
        breakers.requests.acquire()
        client.request = request
        try:
            request.on_pool_ready(client)
        except Exception:
            client.on_fault(request)
        return True

    def _left_pending(self) -> None:
        self.cluster.stats.upstream_rq_pending_active -= 1
        self.cluster.breakers.pending.release()

    def _serve_pending(self) -> None:
        while self.pending and self.ready:
            request = self.pending.popleft()
            self._left_pending()
            client = self.ready.pop()
            if not self._attach(client, request):
                self.ready.append(client)
        if self.pending:
            self._connect_if_needed()

    # connections

    def _connect_if_needed(self) -> None:
        cluster = self.cluster
        while len(self.connecting) < len(self.pending):
            allowed = cluster.breakers.connections.available()
            if not allowed:
                cluster.stats.upstream_cx_overflow += 1
                if self.ready or self.busy or self.connecting:
                    return  # the streams wait for one of these
            client = ActiveClient(self, cluster.next_connection_id())
            try:
                client.connect()
            except OSError as error:  # no descriptor, no local address ...
                cluster.stats.upstream_cx_connect_fail += 1
                self.host.connect_fail += 1
                self._fail_pending(outcome.LOCAL_CONNECTION_FAILURE, error.strerror or str(error))
                return
            self.connecting[client] = None
            self.host.cx_total += 1
            self.host.cx_active += 1
            cluster.stats.upstream_cx_total += 1
            cluster.stats.upstream_cx_active += 1
            cluster.breakers.connections.acquire()
            cluster.connect_timers.set(client)

    def on_connected(self, client: ActiveClient) -> None:
        cluster = self.cluster
        del self.connecting[client]
        cluster.connect_timers.cancel(client)
        cluster.stats.upstream_cx_connect_ms.record(round((client.connected_at - client.connect_started) * 1000))
        if cluster.max_duration_timers is not None:
            cluster.max_duration_timers.set(client)
        self._make_ready(client)

    def on_connect_failed(self, client: ActiveClient, reason: ResetReason, transport_failure: str) -> None:
        """The connection could not be made: every stream that waits here fails with it."""
        stats = self.cluster.stats
        stats.upstream_cx_connect_fail += 1
        self.host.connect_fail += 1
        if reason is outcome.CONNECTION_TIMEOUT:
            stats.upstream_cx_connect_timeout += 1
        self._forget(client, local=reason is outcome.CONNECTION_TIMEOUT)
        self._fail_pending(reason, transport_failure)

    def _fail_pending(self, reason: ResetReason, transport_failure: str) -> None:
        waiting = self.pending
        self.pending = deque()
        for request in waiting:
            self._left_pending()
            self.cluster.stats.upstream_rq_pending_failure_eject += 1
            request.on_pool_failure(reason, transport_failure)

    def on_request_done(self, client: ActiveClient, reusable: bool) -> None:
        """The request left ``client``; called exactly once per ``attach``."""
        cluster = self.cluster
        self.host.rq_active -= 1
        cluster.stats.upstream_rq_active -= 1
        cluster.breakers.requests.release()
        self.busy.discard(client)
        if reusable and client.state is State.BUSY and not self.drained:
            self._make_ready(client)
            return
        self._close(client)
        if self.pending:
            self._connect_if_needed()  # they may have waited for this one

    def _make_ready(self, client: ActiveClient) -> None:
        client.state = State.READY
        self.ready.append(client)
        if self.pending:
            self._serve_pending()
            if client.state is not State.READY:
                return
        if self.drained:
            self.close_idle()
            return
        idle_timeout_s = self.cluster.settings.idle_timeout_s
        if idle_timeout_s and not self._sweeping:
            self._sweeping = True
            self.cluster.dispatcher.call_later(idle_timeout_s, self._sweep)

    def _sweep(self) -> None:
        """Close connections idle for longer than the idle timeout; the longest idle is first in ``ready``."""
        idle_timeout_s = self.cluster.settings.idle_timeout_s
        now = self.cluster.dispatcher.clock() + 0.001
        expired = [client for client in self.ready if client.idle_since + idle_timeout_s <= now]
        for client in expired:
            self.cluster.stats.upstream_cx_idle_timeout += 1
            self.ready.remove(client)
            self._close(client)
        if self.ready:
            oldest = min(client.idle_since for client in self.ready)
            self.cluster.dispatcher.call_later(max(0.001, oldest + idle_timeout_s - now), self._sweep)
        else:
            self._sweeping = False

    def on_client_failed(self, client: ActiveClient, *, local: bool) -> None:
        """The connection ended by itself (``local`` false: the peer's doing); a request on it is told by the caller."""
        if client.state is State.READY:
            self.ready.remove(client)
        if client.request is not None:
            stats = self.cluster.stats
            stats.upstream_cx_destroy_with_active_rq += 1
            if local:
                stats.upstream_cx_destroy_local_with_active_rq += 1
            else:
                stats.upstream_cx_destroy_remote_with_active_rq += 1
        self._close(client, local=local)

    def on_max_duration(self, client: ActiveClient) -> None:
        """``max_connection_duration`` is over: no further request."""
        if client.state is State.READY:
            self.cluster.stats.upstream_cx_max_duration_reached += 1
            self.ready.remove(client)
            self._close(client)
        elif client.state is State.BUSY:
            self.cluster.stats.upstream_cx_max_duration_reached += 1
            client.state = State.DRAINING

    def _close(self, client: ActiveClient, *, local: bool = True) -> None:
        client.close()
        self._forget(client, local=local)

    def _forget(self, client: ActiveClient, *, local: bool) -> None:
        if client.state is State.CLOSED:
            return
        client.state = State.CLOSED
        cluster = self.cluster
        stats = cluster.stats
        if client in self.connecting:
            del self.connecting[client]
            cluster.connect_timers.cancel(client)
        if cluster.max_duration_timers is not None:
            cluster.max_duration_timers.cancel(client)
        self.host.cx_active -= 1
        stats.upstream_cx_active -= 1
        stats.upstream_cx_destroy += 1
        if local:
            stats.upstream_cx_destroy_local += 1
        else:
            stats.upstream_cx_destroy_remote += 1
        self._count_bytes(client)
        stats.upstream_cx_length_ms.record(round((cluster.dispatcher.clock() - client.connect_started) * 1000))
        cluster.breakers.connections.release()

    def collect_bytes(self) -> None:
        """Count the bytes that open connections have moved since the last time."""
        for client in self.ready:
            self._count_bytes(client)
        for client in self.busy:
            self._count_bytes(client)

    def _count_bytes(self, client: ActiveClient) -> None:
        read, written = client.connection.take_byte_counts()
        self.cluster.stats.upstream_cx_rx_bytes_total += read
        self.cluster.stats.upstream_cx_tx_bytes_total += written

    # draining

    def drain(self) -> None:
        """The host left the cluster: idle connections close now, busy ones when their request is done."""
        self.drained = True
        self.close_idle()

    def close_idle(self) -> None:
        ready, self.ready = self.ready, []
        for client in ready:
            self._close(client)

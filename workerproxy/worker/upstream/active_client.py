"""An active client: one upstream connection of a pool and the HTTP/1 client codec on it.

Step 3 begins here (connected, write-ready) and step 4 (read-ready). Carries one request at a time. Envoy's name:
``ConnectionPool::ActiveClient`` with ``CodecClientProd``.
"""

from __future__ import annotations

import enum
import errno
import logging
import socket
from typing import TYPE_CHECKING

from workerproxy.http import outcome
from workerproxy.worker.http.codec.client_codec import ClientCodec
from workerproxy.worker.network.connection import CLOSED, Connection, connect_error, errno_text
from workerproxy.worker.network.listener import address_text

if TYPE_CHECKING:
    from workerproxy.worker.router.upstream_request import UpstreamRequest
    from workerproxy.worker.upstream.connection_pool import ConnectionPool

_log = logging.getLogger("workerproxy.client")


class State(enum.Enum):
    """Where a connection is in its life; changed only by ``ConnectionPool.move``."""

    CONNECTING = "connect was called, the socket is not writable yet"
    READY = "connected, no request"
    BUSY = "one request is on it"
    DRAINING = "one last request is on it, then it is closed"
    CLOSED = "gone; it never comes back"


class ActiveClient:
    """Made and owned by a pool."""

    __slots__ = (
        "_dispatcher",
        "_writer_on",
        "codec",
        "connect_started",
        "connected_at",
        "connection",
        "connection_id",
        "idle_since",
        "local_address",
        "pool",
        "remaining_requests",
        "remote_address",
        "request",
        "sock",
        "state",
    )

    connection: Connection

    def __init__(self, pool: ConnectionPool, connection_id: int) -> None:
        self.pool = pool
        self._dispatcher = pool.cluster.dispatcher
        self.state = State.CONNECTING
        self.codec = ClientCodec(pool.cluster.settings.codec)
        self.request: UpstreamRequest | None = None
        self.remaining_requests = pool.cluster.settings.max_requests_per_connection
        self.connection_id = connection_id
        self.connect_started = self._dispatcher.clock()
        self.connected_at = 0.0
        self.idle_since = 0.0  # when its last response was complete
        self._writer_on = False
        self.local_address = ""
        self.remote_address = pool.host.text  # of a logical host another connection may have another one

    def __repr__(self) -> str:
        return f"<ActiveClient {self.connection_id} {self.state.name} {self.pool.host.text}>"

    # connecting

    def connect(self) -> None:
        """Begin a non-blocking connect; the outcome comes to ``_on_connect_event``, never from within this call."""
        host = self.pool.host
        sock = self.sock = self._dispatcher.new_socket(host.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if host.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keepalive = self.pool.cluster.settings.tcp_keepalive
            if keepalive is not None:
                keepalive.apply(sock)
        self.connection = Connection(sock, self._dispatcher, self, self.pool.cluster.settings.buffer_limit)
        error = sock.connect_ex(host.address)
        if error in (0, errno.EINPROGRESS):
            self._writer_on = True
            self._dispatcher.loop.add_writer(sock.fileno(), self._on_connect_event)
        else:
            self._dispatcher.post(lambda: self._connect_failed(error, immediate=True))

    def _on_connect_event(self) -> None:
        self._stop_connecting()
        error = connect_error(self.sock)
        if error:
            self._connect_failed(error, immediate=False)
            return
        self.connected_at = self.idle_since = self._dispatcher.clock()
        self.local_address = address_text(self.sock.family, self.sock.getsockname())
        self.connection.start_reading()
        self.pool.on_connected(self)

    def _stop_connecting(self) -> None:
        if self._writer_on:
            self._writer_on = False
            self._dispatcher.loop.remove_writer(self.sock.fileno())

    def _connect_failed(self, error: int, *, immediate: bool) -> None:
        if self.state is not State.CONNECTING:
            return
        kind = "immediate" if immediate else "delayed"
        self.close()
        self.pool.on_connect_failed(
            self, outcome.REMOTE_CONNECTION_FAILURE, f"{kind} connect error: {errno_text(error)}"
        )

    def on_connect_timeout(self) -> None:
        self.close()
        self.pool.on_connect_failed(self, outcome.CONNECTION_TIMEOUT, "")

    # one request after the other

    def on_data(self, data: bytes) -> None:
        codec = self.codec
        codec.feed(data)
        request = self.request
        if request is not None:
            try:
                request.on_response_read(codec)
            except Exception:
                self.on_fault(request)
        else:  # bytes that no request asked for: whatever they are, nobody may ever get them
            self.pool.cluster.stats.upstream_cx_protocol_error += 1
            self.pool.on_client_failed(self, local=True)

    def on_end_of_data(self) -> None:
        self.codec.eof()
        request = self.request
        if request is None:
            self.pool.on_client_failed(self, local=False)
            return
        try:
            request.on_response_eof(self.codec)
        except Exception:
            self.on_fault(request)

    def on_fault(self, request: UpstreamRequest) -> None:
        """A fault of this program (or of a filter) costs the request, whether or not it is still on this connection."""
        _log.exception("internal error on %r", self)
        request.on_fault()

    def on_connection_lost(self, error: OSError) -> None:
        request = self.request
        inside = bool(self.codec.messages)
        self.pool.on_client_failed(self, local=False)
        if request is not None:
            request.on_reset(outcome.PROTOCOL_ERROR if inside else outcome.CONNECTION_TERMINATION, "")

    def request_done(self, reusable: bool) -> None:
        """The request on this connection is over, well or badly. ``reusable``: both messages ended cleanly."""
        self.request = None
        connection = self.connection
        self.pool.on_request_done(self, reusable and connection.state != CLOSED and not connection.read_disabled)

    # back-pressure: the request body waits here for the upstream to take it

    def on_above_high(self) -> None:
        self.pool.cluster.stats.upstream_flow_control_backed_up_total += 1
        if self.request is not None:
            self.request.on_above_high()

    def on_below_low(self) -> None:
        self.pool.cluster.stats.upstream_flow_control_drained_total += 1
        if self.request is not None:
            self.request.on_below_low()

    # ending

    def on_closed(self) -> None:
        """Not used: upstream connections are closed at once."""

    def close(self) -> None:
        self._stop_connecting()
        self.connection.close()
        self.codec.close()

"""The HTTP connection manager: one downstream connection, its codec, its streams one after the other.

Step 1 begins here (event A: bytes were read) and step 5 ends here (the response is written, the next request may come).
A connection carries one stream at a time; requests that were read ahead wait in the codec, and reading stops until the
stream is done. Envoy's name: ``ConnectionManagerImpl``.

    idle -> (first byte) reading a request's head -> stream -> idle ...       any -> closing -> closed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workerproxy.http import outcome
from workerproxy.worker.http.codec.server_codec import ServerCodec
from workerproxy.worker.http.stream import ActiveStream
from workerproxy.worker.network.connection import OPEN, Connection

if TYPE_CHECKING:
    import socket

    from workerproxy.http.outcome import Outcome
    from workerproxy.worker.http.codec.messages import RequestMessage
    from workerproxy.worker.http.header_rules import HeaderRules
    from workerproxy.worker.http.listener import HttpListener
    from workerproxy.worker.network.dispatcher import TimerQueue


class ConnectionManager:
    """One per downstream connection."""

    __slots__ = (
        "_duration",
        "_forwarded_address",
        "_internal",
        "_read_ahead",
        "_request_timers",
        "_requests",
        "_starting",
        "_waiting_for_head",
        "close_after_response",
        "codec",
        "config",
        "connection",
        "connection_id",
        "dispatcher",
        "draining",
        "idle_since",
        "listener",
        "local_address",
        "peer_address",
        "pipes",
        "started",
        "stats",
        "stream",
        "timers",
        "wire_marks",
    )

    def __init__(self, listener: HttpListener, sock: socket.socket, peer: str, local: str, connection_id: int) -> None:
        config = listener.config
        self.listener = listener
        self.config = config  # of this connection; each stream takes the listener's current one
        self.dispatcher = listener.dispatcher
        self.pipes = listener.pipes
        self.stats = config.stats
        self.connection_id = connection_id
        self.peer_address = peer
        self.local_address = local
        self.codec = ServerCodec(config.codec)
        self.connection = Connection(sock, listener.dispatcher, self, config.buffer_limit)
        self.stream: ActiveStream | None = None
        self.started = self.idle_since = self.dispatcher.clock()
        self.draining = False  # the next response closes
        self.close_after_response = False  # the next response says "connection: close", then the connection closes
        self.timers: tuple[TimerQueue[ConnectionManager], ...] = ()  # the connection's own, set by the listener
        self._forwarded_address: bytes | None = None
        self._internal: bool | None = None
        self._requests = 0
        self._starting = False
        self._waiting_for_head = False
        self._duration: TimerQueue[ConnectionManager] | None = None
        self._request_timers: TimerQueue[ConnectionManager] | None = None  # where request_timeout runs
        self._read_ahead = False
        self.wire_marks = (0, 0)  # the connection's byte counts where the last logged stream ended

    def __repr__(self) -> str:
        return f"<ConnectionManager {self.connection_id} {self.peer_address} {self.connection!r} {self.stream!r}>"

    # event A

    def on_data(self, data: bytes) -> None:
        """Bytes from the client."""
        stream = self.stream
        self.codec.feed(data)
        if stream is None:
            messages = self.codec.messages
            if len(messages) == 1 and messages[0].headers_complete:  # nearly always
                self._begin_stream(messages[0])
            else:
                self._start_streams()
        elif stream.message.complete and stream.request_complete_time:
            self._read_ahead = True
            self.connection.read_disable()  # no further than this until the stream is done
            self.connection.watch_leaving(True)
        else:
            stream.on_request_read()

    def _start_streams(self) -> None:
        """Begin the requests that are there, one at a time; a stream that is done at once makes room for the next."""
        if self._starting:
            return
        messages = self.codec.messages
        self._starting = True
        connection = self.connection
        while messages and self.stream is None and connection.state == OPEN and not connection.above_high:
            message = messages[0]
            if not message.headers_complete:
                if message.error is not None:
                    self._refuse(message)
                else:
                    self._wait_for_head()
                break
            self._begin_stream(message)
        self._starting = False

    def _wait_for_head(self) -> None:
        """A request has begun and its headers are not complete (``request_headers_timeout`` runs)."""
        if not self._waiting_for_head:
            self._waiting_for_head = True
            config = self.config = self.listener.config
            if config.header_timers is not None:
                config.header_timers.set(self)
            if config.request_timers is not None:
                self._start_request_timeout(config.request_timers)
            if config.idle_timers is not None:
                config.idle_timers.set(self)

    def _head_complete(self) -> None:
        self._waiting_for_head = False
        config = self.config
        if config.header_timers is not None:
            config.header_timers.cancel(self)
        if config.idle_timers is not None:
            config.idle_timers.cancel(self)

    def _begin_stream(self, message: RequestMessage) -> None:
        if message.version == 10 and not self.listener.config.codec.accept_http_10:
            self._answer_without_request(message, outcome.LOW_VERSION)
            return
        if self._waiting_for_head:
            self._head_complete()
        config = self.config = self.listener.config
        now = self.dispatcher.clock()
        stream = self.stream = ActiveStream(self, config, message, now)
        stats = self.stats
        stats.downstream_rq_total += 1
        stats.downstream_rq_active += 1
        stream.connection_id = self.connection_id
        stream.downstream_local_address = self.local_address
        if message.head_bytes:
            stream.request_head_bytes = message.head_bytes
        if not message.keep_alive:
            self.close_after_response = True
        limit = config.max_requests_per_connection
        if limit:
            self._requests += 1
            if self._requests >= limit:
                stats.downstream_cx_max_requests_reached += 1
                self.close_after_response = True
        if self._request_timers is not None:  # since the first byte of the head
            if message.complete:
                self.on_request_complete()
        elif not message.complete and config.request_timers is not None:
            self._start_request_timeout(config.request_timers)
        if config.max_stream_duration_s:
            self.set_duration(config.max_stream_duration_s)
        stream.decode()

    def _refuse(self, message: RequestMessage) -> None:
        """The codec would not take the request's head: answer and close."""
        error = message.error
        if error is None:
            return
        self.stats.downstream_cx_protocol_error += 1
        self._answer_without_request(message, outcome.Outcome(error.status, error.body, error.details, outcome.DPE))

    def _answer_without_request(self, message: RequestMessage, end: Outcome) -> None:
        if self._waiting_for_head:
            self._head_complete()
        config = self.config = self.listener.config
        stream = self.stream = ActiveStream(self, config, message, self.dispatcher.clock())
        stream.connection_id = self.connection_id
        stream.downstream_local_address = self.local_address
        self.stats.downstream_rq_total += 1
        self.stats.downstream_rq_active += 1
        self.close_after_response = True
        stream.local_reply(end)

    def _start_request_timeout(self, timers: TimerQueue[ConnectionManager]) -> None:
        timers.set(self)
        self._request_timers = timers

    def on_request_complete(self) -> None:
        """The stream's request was received to its last byte."""
        if self._request_timers is not None:
            self._request_timers.cancel(self)
            self._request_timers = None

    # timeouts (one stream at a time, so the connection stands for it)

    def on_header_timeout(self) -> None:
        self.stats.downstream_rq_header_timeout += 1
        self._stream_timed_out(outcome.REQUEST_HEADER_TIMEOUT)

    def on_request_timeout(self) -> None:
        self.stats.downstream_rq_timeout += 1
        self._stream_timed_out(outcome.REQUEST_TIMEOUT)

    def on_stream_idle(self) -> None:
        stream = self.stream
        if stream is not None and stream.moves_on():
            return
        self.stats.downstream_rq_idle_timeout += 1
        self._stream_timed_out(outcome.STREAM_IDLE_TIMEOUT)

    def on_stream_duration(self) -> None:
        self.stats.downstream_rq_max_duration_reached += 1
        self._stream_timed_out(outcome.MAX_DURATION_TIMEOUT)

    def _stream_timed_out(self, end: Outcome) -> None:
        if self.stream is not None:
            self.stream.timed_out(end)
        elif self.codec.messages:
            self._answer_without_request(self.codec.messages[0], end)

    def set_duration(self, seconds: float) -> None:
        """Bound the running stream's life (``max_stream_duration``); the last call counts, 0 takes the bound away."""
        self._cancel_duration()
        if not seconds:
            return
        queue = self.dispatcher.timers(seconds, on_stream_duration)
        queue.set(self)
        self._duration = queue

    def _cancel_duration(self) -> None:
        if self._duration is not None:
            self._duration.cancel(self)
            self._duration = None

    def on_connection_idle(self) -> float:
        """How long the connection may still be idle, in seconds; closes it and gives 0 when that is over."""
        if self.stream is not None or self.codec.messages:
            return self.config.connection_idle_timeout_s
        if not self.config.connection_idle_timeout_s:  # it was there when the connection began, and no longer is
            return 0.0
        left = self.idle_since + self.config.connection_idle_timeout_s - self.dispatcher.clock()
        if left > 0.001:
            return left
        self.stats.downstream_cx_idle_timeout += 1
        self.start_drain()
        return 0.0

    def on_max_connection_duration(self) -> None:
        """``max_connection_duration`` is over."""
        self.stats.downstream_cx_max_duration_reached += 1
        self.start_drain()

    @property
    def is_idle(self) -> bool:
        """Neither a request nor a part of one is here."""
        return self.stream is None and not self.codec.messages

    def drain(self) -> None:
        """Close now when idle; else the next response says so."""
        if self.is_idle and not self.connection.has_unread():
            self._close_gracefully()
        else:
            self.start_drain()

    def start_drain(self) -> None:
        """The next response says so; without one in ``drain_timeout`` the connection closes.

        Envoy: ``startDrainSequence``.
        """
        if self.connection.state == OPEN and not self.draining:
            self.draining = True
            self.dispatcher.call_later(self.config.drain_timeout_s, self._on_drain_timeout)

    def _on_drain_timeout(self) -> None:
        self.close_after_response = True
        if self.stream is None and not self.codec.messages:
            self._close_gracefully()

    # step 5's end

    def on_stream_done(self, stream: ActiveStream) -> None:
        """The response is written (or given up): log it, then the next request or the end of the connection."""
        self._release_stream(stream)
        message = stream.message
        if self.close_after_response:
            complete = stream.end_sent and stream.request_complete_time > 0
            self.connection.close_after_flush(self.config.linger, wait_for_fin=not complete)
            return
        messages = self.codec.messages
        if messages and messages[0] is message:
            messages.popleft()
        if self.connection.above_high:  # the client sends requests and reads no responses: no further one until it does
            if not self._read_ahead:
                self._read_ahead = True
                self.connection.read_disable()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Room for the next request: one that was read ahead, or what is still to be read."""
        if self._read_ahead:
            self._read_ahead = False
            self.connection.watch_leaving(False)
            self.connection.read_enable()
        if self.codec.messages:
            self._start_streams()

    def _release_stream(self, stream: ActiveStream) -> None:
        if self.stream is not stream:
            return
        self.stream = None
        now = stream.end_time = self.idle_since = self.dispatcher.clock()
        stats = self.stats
        stats.downstream_rq_active -= 1
        stats.downstream_rq_time.record(int((now - stream.start_time) * 1000))
        if self._duration is not None:
            self._cancel_duration()
        if self._request_timers is not None:
            self.on_request_complete()
        stream.destroy()

    # back-pressure of the response

    def on_above_high(self) -> None:
        stream = self.stream
        if stream is not None:
            stream.router.pause_response()

    def on_below_low(self) -> None:
        stream = self.stream
        if stream is not None:
            stream.router.resume_response()
        else:
            self._go_on()

    # the connection's end

    def on_end_of_data(self) -> None:
        """FIN. As in Envoy a client that has closed its side is gone, whatever it may still want to read."""
        self.on_peer_gone()

    def on_connection_lost(self, error: OSError) -> None:
        self.on_peer_gone()

    def on_peer_gone(self) -> None:
        stream = self.stream
        stats = self.stats
        stats.downstream_cx_destroy_remote += 1
        if stream is not None:
            stats.downstream_cx_destroy_active_rq += 1
            stats.downstream_cx_destroy_remote_active_rq += 1
            stats.downstream_rq_rx_reset += 1
            stream.response_flags |= outcome.DC
            if not stream.response_code_details or not stream.end_sent:
                stream.response_code_details = outcome.DOWNSTREAM_REMOTE_DISCONNECT
        self._end(stream)

    def _end(self, stream: ActiveStream | None) -> None:
        if stream is not None:
            self._release_stream(stream)
        self.connection.close()
        self._gone()

    def on_closed(self) -> None:
        """A close that we began is done."""
        self.stats.downstream_cx_destroy_local += 1
        if self.connection.linger_expired:
            self.stats.downstream_cx_delayed_close_timeout += 1
        self._gone()

    def _close_gracefully(self) -> None:
        if self.connection.state == OPEN:
            self.connection.close_after_flush(self.config.linger)

    def close(self) -> None:
        """At once, whatever is going on."""
        stream = self.stream
        if stream is not None:
            self.stats.downstream_cx_destroy_active_rq += 1
            self.stats.downstream_cx_destroy_local_active_rq += 1
            stream.response_code_details = stream.response_code_details or "downstream_local_disconnect"
        self.stats.downstream_cx_destroy_local += 1
        self._end(stream)

    def _gone(self) -> None:
        self._cancel_duration()
        if self._waiting_for_head:
            self._head_complete()
        self.on_request_complete()
        self.listener.on_connection_gone(self)

    def forwarded_address(self) -> bytes:
        """What ``use_remote_address`` appends to x-forwarded-for; found out once per connection."""
        if self._forwarded_address is None:
            self._forwarded_address = self.listener.forwarded_address(self.peer_address)
        return self._forwarded_address

    def peer_is_internal(self, rules: HeaderRules) -> bool:
        """Whether the peer's address is internal; found out once per connection."""
        if self._internal is None:
            self._internal = rules.is_internal(self.peer_address.rpartition(":")[0].strip("[]"))
        return self._internal


def on_stream_duration(manager: ConnectionManager) -> None:
    manager.on_stream_duration()

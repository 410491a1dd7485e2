"""One attempt to have a request answered by one host: steps 3 (write request) and 4 (read response).

Waits for a connection, writes the request on it, hands what comes back to the router. Knows nothing of routes or
retries. Envoy's name: ``Router::UpstreamRequest``.

    waiting for the pool -> on_pool_ready -> writing / awaiting headers -> on_upstream_headers -> body -> done
    anywhere -> reset (the pool failed, the connection ended, the bytes were garbage, the router gave up)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.http import outcome
from workerproxy.worker.http.codec.encoder import chunk, field_bytes, last_chunk
from workerproxy.worker.http.codec.messages import LENGTH, NO_BODY, UNTIL_CLOSE
from workerproxy.worker.network.splice import Splice

if TYPE_CHECKING:
    from workerproxy.http.headers import HeaderMap
    from workerproxy.http.outcome import ResetReason
    from workerproxy.worker.http.codec.client_codec import ClientCodec
    from workerproxy.worker.http.codec.messages import ResponseMessage
    from workerproxy.worker.router.router import Router
    from workerproxy.worker.upstream.active_client import ActiveClient
    from workerproxy.worker.upstream.host import Host

# Methods for which a request without a body says nothing of its length (RFC 9110 section 8.6).
_NO_BODY_EXPECTED: Final = frozenset({b"GET", b"HEAD", b"DELETE", b"TRACE", b"CONNECT"})
SPLICE_MIN: Final = 65536  # bytes still to come for which a splice is worth its system calls


class UpstreamRequest:
    """Made by the router for each attempt; ``router`` gets the response or the reset, exactly one of them."""

    __slots__ = (
        "_body",
        "_chunked",
        "_end_stream",
        "_head_pending",
        "_headers_only",
        "_held_head",
        "_splice",
        "_trailers",
        "awaiting_headers",
        "client",
        "host",
        "paused_downstream",
        "router",
    )

    def __init__(self, router: Router, host: Host) -> None:
        self.router = router
        self.host = host
        self.client: ActiveClient | None = None
        self.awaiting_headers = True
        self.paused_downstream = False
        self._head_pending = True
        self._held_head: bytes | None = None  # its body follows in this very event
        self._chunked = False
        self._end_stream = False
        self._headers_only = False
        self._body: list[bytes] | None = None  # what waits for the pool
        self._trailers: HeaderMap | None = None
        self._splice: Splice | None = None

    def __repr__(self) -> str:
        where = repr(self.client) if self.client else "waiting for a connection"
        return f"<UpstreamRequest {self.host.text} {where}>"

    # step 3: write the request

    def start(self, end_stream: bool) -> None:
        """Ask the host's pool for a connection. ``end_stream``: the request has neither body nor trailers."""
        self._headers_only = self._end_stream = end_stream
        self.host.pool.new_stream(self)

    def on_pool_ready(self, client: ActiveClient) -> None:
        """Event B: the connection is ours. Write the head, and what of the body has come already."""
        self.client = client
        router = self.router
        router.on_connected(self)
        headers = router.headers
        client.codec.expect(headers.method)
        cluster = client.pool.cluster
        head = cluster.encode_head(headers)
        if b"content-length" not in headers:
            if not self._headers_only:
                self._chunked = True
                head = head[:-2] + cluster.chunked_field
            elif headers.method not in _NO_BODY_EXPECTED:
                head = head[:-2] + cluster.no_body_field
        stream = router.stream
        if stream.config.access_logs:
            stream.upstream_header_bytes_sent = field_bytes(head)
            stream.upstream_marks = (client.connection.bytes_read, client.connection.bytes_written)
        self._head_pending = False
        body = self._body
        if body is not None or self._trailers is not None:
            self._body = None
            self._write([head], body or [], self._end_stream)
        elif stream.body_follows:
            stream.body_follows = False
            self._held_head = head
        else:
            client.connection.write(head)
        if self.paused_downstream and self.client is client and not client.connection.above_high:
            self.on_below_low()

    def encode_data(self, chunks: list[bytes], end_stream: bool) -> None:
        """More of the request body; takes over the list."""
        self._end_stream = end_stream
        if self._head_pending:
            if self._body is None:
                self._body = chunks
            else:
                self._body += chunks
            self._pause_if_full()
        elif self._held_head is not None:
            head, self._held_head = self._held_head, None
            self._write([head], chunks, end_stream)
        else:
            self._write([], chunks, end_stream)

    def encode_trailers(self, trailers: HeaderMap) -> None:
        self._end_stream = True
        self._trailers = trailers
        if not self._head_pending:
            self._write([], [], True)

    def _write(self, out: list[bytes], body: list[bytes], end_stream: bool) -> None:
        if self._chunked:
            out += [chunk(data) for data in body]
            if end_stream:
                out.append(last_chunk(self._trailers_to_send()))
        else:
            out += body
        if out and self.client is not None:
            self.client.connection.write_many(out)

    def _trailers_to_send(self) -> HeaderMap | None:
        client = self.client
        if client is None or not client.pool.cluster.settings.codec.enable_trailers:
            return None
        return self._trailers

    def _pause_if_full(self) -> None:
        if not self.paused_downstream and sum(map(len, self._body or ())) > self.router.stream.buffer_limit:
            self.on_above_high()

    def on_above_high(self) -> None:
        """The request body is coming in faster than the upstream takes it."""
        if not self.paused_downstream:
            self.paused_downstream = True
            self.router.stream.pause_downstream()

    def on_below_low(self) -> None:
        if self.paused_downstream:
            self.paused_downstream = False
            self.router.stream.resume_downstream()

    # step 4: read the response

    def on_response_read(self, codec: ClientCodec) -> None:
        """Event C: the client codec was fed. Hand on what is new in its current message."""
        router = self.router
        messages = codec.messages
        now = router.stream.manager.dispatcher.clock()
        while messages:
            message = messages[0]
            if not message.headers_complete or (message.error is not None and self.awaiting_headers):
                break
            if self.awaiting_headers:
                if message.headers.status < 200:
                    messages.popleft()
                    router.on_upstream_1xx(message.headers)
                    if self.client is None:
                        return
                    continue
                self.awaiting_headers = False
                end_stream = message.complete and message.body_kind == NO_BODY
                if end_stream:
                    messages.popleft()
                    self._complete(message, now)
                    router.on_upstream_headers(self, message, True, now)
                    return
                router.on_upstream_headers(self, message, False, now)
                if self.client is None:
                    return  # the downstream is gone, or a filter answered
            self._pass_body(message, codec, now)
            return
        if messages and messages[0].error is not None:
            self._protocol_error()

    def _pass_body(self, message: ResponseMessage, codec: ClientCodec, now: float) -> None:
        router = self.router
        chunks = message.body
        if message.complete:
            codec.messages.popleft()
            trailers = message.trailers
            self._complete(message, now)
            if chunks or trailers is None:
                router.on_upstream_data(chunks, trailers is None, now)
            if trailers is not None:
                router.on_upstream_trailers(trailers, now)
            return
        if chunks:
            message.body = []
            router.on_upstream_data(chunks, False, now)
        if self.client is None:
            return
        if message.error is not None:
            self._protocol_error()
            return
        router.stream.flush()
        if message.body_kind == LENGTH and message.body_remaining >= SPLICE_MIN and self.client is not None:
            self._try_splice(message)

    def on_response_eof(self, codec: ClientCodec) -> None:
        """The upstream closed: the end of a close-delimited body, or a message cut short."""
        messages = codec.messages
        if messages and messages[0].complete and messages[0].body_kind == UNTIL_CLOSE:
            self.on_response_read(codec)
            return
        client = self.client
        if client is not None:
            client.pool.on_client_failed(client, local=False)
            self.on_reset(outcome.PROTOCOL_ERROR if messages else outcome.CONNECTION_TERMINATION, "")

    def _complete(self, message: ResponseMessage, now: float) -> None:
        """The last byte of the response was read: give the connection back before anything else needs one."""
        client = self.client
        if client is not None:
            self.client = None
            if self.paused_downstream:
                self.on_below_low()
            self.router.stream.upstream_last_rx = client.idle_since = now
            client.request_done(
                message.keep_alive and self._end_stream and not client.codec.failed and not client.connection.out_size
            )

    def _protocol_error(self) -> None:
        client = self.client
        if client is not None:
            client.pool.cluster.stats.upstream_cx_protocol_error += 1
            client.pool.on_client_failed(client, local=True)
        self.on_reset(outcome.PROTOCOL_ERROR, "")

    # a long body need not pass through here

    def _try_splice(self, message: ResponseMessage) -> None:
        client = self.client
        stream = self.router.stream
        if client is None or not stream.can_splice_response():
            return
        splice = stream.splice(client.connection, stream.connection, message.body_remaining, self._on_spliced)
        if splice is not None:
            self._splice = splice
            splice.start()

    def _on_spliced(self, moved: int, error: str) -> None:
        self._splice = None
        client = self.client
        if client is None:
            return
        stream = self.router.stream
        stream.on_response_spliced(moved)
        codec = client.codec
        codec.skip_body(moved)
        if not error:
            self.on_response_read(codec)
        elif error == "sink":
            stream.on_downstream_lost()
        else:
            codec.eof()
            self.on_response_eof(codec)

    # ending

    def on_pool_failure(self, reason: ResetReason, transport_failure: str) -> None:
        """No connection: refused, timed out, or a limit was reached."""
        self.router.stream.upstream_transport_failure_reason = transport_failure
        if reason is outcome.OVERFLOW:
            self.router.forget_host()
        self.on_reset(reason, transport_failure)

    def on_reset(self, reason: ResetReason, transport_failure: str) -> None:
        """The attempt failed. The connection, if there was one, is closed already."""
        client = self.client
        self.client = None
        self._cancel_splice()
        if client is not None:
            client.request_done(False)
        self.on_below_low()
        self.router.on_upstream_reset(self, reason, transport_failure)

    def on_fault(self) -> None:
        """Handling it raised."""
        self.router.stream.on_fault()

    def cancel(self) -> None:
        """The router no longer wants the answer: leave the queue, or close the connection."""
        self._cancel_splice()
        self.on_below_low()
        client = self.client
        if client is None:
            if self._head_pending:
                self.host.pool.cancel(self)
            return
        self.client = None
        client.pool.on_client_failed(client, local=True)
        client.request_done(False)

    def _cancel_splice(self) -> None:
        if self._splice is not None:
            self.router.stream.bytes_sent += self._splice.moved
            self._splice.cancel()
            self._splice = None

    # back-pressure from the downstream

    def pause_response(self) -> None:
        if self.client is not None and self._splice is None:
            self.client.connection.read_disable()

    def resume_response(self) -> None:
        if self.client is not None and self._splice is None:
            self.client.connection.read_enable()

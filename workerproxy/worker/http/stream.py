"""An active stream: one request and its response on a downstream connection. Envoy's name: ``ActiveStream``.

Steps 1 (its half above the codec) and 5: takes the parsed request through header rules, route and filters, and writes
the response. Its ``StreamInfo`` attributes are what the access log prints.

    headers -> rules -> route -> filters -> router ... -> filters -> send_headers, send_data, send_trailers -> done
    anywhere -> local_reply (an answer of our own) or reset (the response cannot be finished: the connection closes)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.http import outcome
from workerproxy.http.headers import RequestHeaders, ResponseHeaders
from workerproxy.http.stream_info import StreamInfo
from workerproxy.worker.http.codec.encoder import chunk, field_bytes, last_chunk
from workerproxy.worker.http.codec.messages import LENGTH, NO_BODY
from workerproxy.worker.http.filter_manager import FilterManager
from workerproxy.worker.network.splice import Splice
from workerproxy.worker.router.router import Router
from workerproxy.worker.router.upstream_request import SPLICE_MIN

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from workerproxy.http.headers import HeaderMap, Pair
    from workerproxy.http.outcome import Outcome
    from workerproxy.worker.http.codec.messages import CodecError, RequestMessage
    from workerproxy.worker.http.connection_manager import ConnectionManager
    from workerproxy.worker.http.settings import ConnectionManagerConfig
    from workerproxy.worker.network.connection import Connection
    from workerproxy.worker.router.route import Route
    from workerproxy.worker.upstream.active_client import ActiveClient

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_SMALL: Final = 16384  # bytes of body below which joining it to the head costs less than a vector
_HOP_BY_HOP: Final = (b"connection", b"upgrade", b"transfer-encoding", b"keep-alive", b"proxy-connection")


class ActiveStream(StreamInfo):
    """Made by the connection manager when a request's headers are complete, or for a request it refuses."""

    __slots__ = (
        "_chunked",
        "_handles",
        "_head",
        "_head_request",
        "_idle",
        "_idle_timeout_s",
        "_latest_splice",
        "_splice",
        "chain",
        "config",
        "connection",
        "destroyed",
        "end_sent",
        "internal",
        "manager",
        "message",
        "request_headers",
        "response_started",
        "route",
        "router",
        "start_time",
    )

    route: Route | None
    upstream_client: ActiveClient | None = None
    upstream_marks: tuple[int, int] = (0, 0)  # the upstream connection's byte counts when it was ours
    rare_headers: bool = False  # the request has, or a filter may have given it, headers that steer the router
    body_follows: bool = False  # body came with the head: the two leave for the upstream together
    routable: bool = True  # false: there is an empty x-forwarded-proto, which Envoy gives no route

    def __init__(
        self, manager: ConnectionManager, config: ConnectionManagerConfig, message: RequestMessage, now: float
    ) -> None:
        self.manager = manager
        self.config = config
        self.message = message
        self.connection: Connection = manager.connection
        self.request_headers: RequestHeaders | None = None
        self.route = None
        self.router = Router(config.router, self)
        self.chain: FilterManager | None = None
        self.internal = False  # an internal request: x-envoy-internal
        self.response_started = False
        self.end_sent = False
        self.destroyed = False
        self.start_time = now
        self._chunked = False
        self._head: bytes | None = None  # encoded, and waiting for what follows it in the same event
        self._head_request = False
        self._idle = config.idle_timers
        self._idle_timeout_s = config.idle_timeout_s
        self._splice: Splice | None = None  # of the request's body
        self._latest_splice: Splice | None = None  # of either body
        self._handles: list[asyncio.TimerHandle] | None = None
        self.downstream_remote_address = self.downstream_direct_remote_address = manager.peer_address
        if message.version == 10 and config.codec.accept_http_10:
            self.protocol = "HTTP/1.0"

    def __repr__(self) -> str:
        headers = self.request_headers
        what = f"{headers.method.decode()} {headers.path.decode('latin-1')}" if headers is not None else "no headers"
        state = "done" if self.end_sent else "responding" if self.response_started else "waiting"
        router = repr(self.router) if not self.destroyed else "destroyed"
        return f"<ActiveStream {what} {state} {router}>"

    # step 1: the request comes in

    def decode(self) -> None:
        """The headers are complete: rules, route, filters, router."""
        message = self.message
        config = self.config
        manager = self.manager
        headers = self.request_headers = message.headers
        self._head_request = headers.method == b"HEAD"
        end_stream = message.body_kind == NO_BODY
        if end_stream:
            self.request_complete_time = self.start_time
        if message.expect_continue and not config.proxy_100_continue:
            self._answer_expect(headers)
            if self.destroyed:
                return
        refused = config.rules.check(headers, self)
        if refused is not None:
            extra = ((b"location", headers.path),) if refused.status == 307 else ()
            self.local_reply(refused, extra)
            return
        config.rules.apply(headers, self, manager)
        if self.routable:
            route = self.route = config.routes.route(headers, self)
        else:
            route = None
        if route is not None:
            if route.name:
                self.route_name = route.name
            if route.idle_timeout_s is not None or route.max_stream_duration_s is not None:
                self._route_timeouts(route)
        if message.upgrade:
            self._refuse_upgrade()
            return
        if config.filters:
            self.chain = FilterManager(self, config.filters)
            self.rare_headers = True
        if config.filters or not end_stream or route is None or not 0 < route.timeout_s <= self._idle_timeout_s:
            self.arm_idle()  # else the route's timeout comes first
        if self.chain is None:
            if message.body:
                self.body_follows = True
            self.router.decode_headers(headers, end_stream)
        else:
            self.chain.decode_headers(headers, end_stream)
        if not end_stream:
            self.on_request_read()

    def _answer_expect(self, headers: RequestHeaders) -> None:
        headers.remove(b"expect")
        self.manager.stats.downstream_rq_1xx += 1
        self.connection.write(_CONTINUE)

    def _refuse_upgrade(self) -> None:
        self.manager.close_after_response = True
        self.manager.stats.downstream_rq_ws_on_non_ws_route += 1
        if self.route is None:
            self.local_reply(outcome.ROUTE_NOT_FOUND)
        else:
            self.upstream_cluster = self.upstream_cluster_raw = self.route.cluster
            self.local_reply(outcome.UPGRADE_FAILED)

    def _route_timeouts(self, route: Route) -> None:
        if route.idle_timeout_s is not None:
            seconds = route.idle_timeout_s
            self._idle_timeout_s = seconds or float("inf")
            self._idle = self.manager.dispatcher.timers(seconds, self.config.on_idle) if seconds else None
        if route.max_stream_duration_s is not None:
            self.manager.set_duration(route.max_stream_duration_s)

    def on_request_read(self) -> None:
        """Event A on a running stream: more of its body, its trailers, or a fault."""
        message = self.message
        if self.destroyed:
            return
        if message.error is not None:
            self._on_codec_error(message.error)
            return
        chunks = message.body
        trailers = message.trailers
        complete = message.complete
        if complete and not self.request_complete_time:
            self.request_complete_time = self.manager.dispatcher.clock()
            self.manager.on_request_complete()
        if chunks:
            message.body = []
            self.bytes_received += sum(map(len, chunks))
        self.arm_idle()
        if self.end_sent or (self.response_started and self.router.attempt is None):
            return  # nobody wants the rest; the connection closes after the response
        if chunks or (complete and trailers is None):
            end_stream = complete and trailers is None
            if self.chain is None:
                self.router.send_data(chunks, end_stream)
            else:
                self.chain.decode_data(chunks, end_stream)
        if complete and trailers is not None and not self.destroyed:
            self.request_trailers = trailers
            if self.chain is None:
                self.router.decode_trailers(trailers)
            else:
                self.chain.decode_trailers(trailers)
        if not complete and message.body_remaining >= SPLICE_MIN and message.body_kind == LENGTH and not self.destroyed:
            self._try_splice_request()

    def _on_codec_error(self, error: CodecError) -> None:
        self.manager.stats.downstream_cx_protocol_error += 1
        self.manager.close_after_response = True
        if self.response_started:
            self.reset(error.details, outcome.DPE)
        else:
            self.local_reply(outcome.Outcome(error.status, error.body, error.details, outcome.DPE))

    # timeouts

    def arm_idle(self) -> None:
        """Start the idle timeout anew: something moved, or no other timeout will come first."""
        if self._idle is not None:
            self._idle.set(self.manager)

    def timed_out(self, end: Outcome) -> None:
        """A timeout of the stream: 408 while the request is still coming in, 504 after (maybeRequestTimeoutCode)."""
        if self.response_started:
            self.reset(end.details, end.flag)
        else:
            self.local_reply(end._replace(status=504) if self.request_complete_time else end)

    def on_request_too_large(self) -> None:
        self.manager.stats.downstream_rq_too_large += 1
        self.local_reply(outcome.REQUEST_PAYLOAD_TOO_LARGE)

    def on_response_too_large(self) -> None:
        self.manager.stats.rs_too_large += 1
        if self.response_started:
            self.reset(outcome.RESPONSE_PAYLOAD_TOO_LARGE.details, 0)
        else:
            self.local_reply(outcome.RESPONSE_PAYLOAD_TOO_LARGE)

    # step 4's end: the router's response, through the filters

    def encode_1xx_headers(self, headers: ResponseHeaders) -> None:
        """An informational response on its way down. 100 goes through only with ``proxy_100_continue``."""
        if self.response_started or self.message.version == 10:
            return
        if headers.status == 100 and not self.config.proxy_100_continue:
            return
        if self.chain is not None and not self.chain.encode_1xx_headers(headers):
            return
        self.manager.stats.downstream_rq_1xx += 1
        for name in _HOP_BY_HOP:
            headers.remove(name)
        self.connection.write(self.config.encode_head(headers))

    def encode_trailers(self, trailers: HeaderMap) -> None:
        self.response_trailers = trailers
        if self.chain is None:
            self.send_trailers(trailers)
        else:
            self.chain.encode_trailers(trailers)

    def local_reply(
        self,
        end: Outcome,
        extra: tuple[Pair, ...] = (),
        finalize: Callable[[ResponseHeaders, StreamInfo], object] | None = None,
    ) -> None:
        """Answer in the proxy's own name. ``extra``: further headers; ``finalize``: the route's response headers."""
        if self.destroyed or self.end_sent:
            return
        self.response_flags |= end.flag
        if self.response_started:
            self.reset(end.details, 0)
            return
        if end.status == 400 and not self.config.keep_after_bad_request:
            self.manager.close_after_response = True
        self.response_code_details = end.details
        self.router.on_destroy()
        headers = ResponseHeaders()
        headers.status = end.status
        body = end.body
        if body:
            headers[b"content-length"] = b"%d" % len(body)
            headers[b"content-type"] = b"text/plain"
            self.local_reply_body = body
        for name, value in extra:
            headers.replace(name, value)
        if finalize is not None:
            finalize(headers, self)
        # In place of a response that is on its way through the filters it passes none (Envoy: sendDirectLocalReply).
        chain = self.chain if self.response_headers is None else None
        self.response_headers = headers
        if self.chain is not None:
            self.chain.begin_local_reply()
        if chain is None:
            self.send_headers(headers, not body)
            if body:
                self.send_data([body], True)
            return
        chain.encode_headers(headers, not body)
        if body and not self.destroyed:
            chain.encode_data([body], True)

    # step 5: write the response

    def send_headers(self, headers: ResponseHeaders, end_stream: bool) -> None:
        """Complete the response's headers and encode them; they leave with what follows in this event."""
        if self.destroyed:
            return
        config = self.config
        manager = self.manager
        listener = manager.listener
        rules = config.rules
        status = headers.status
        self.response_started = True
        self.response_code = status
        if b"date" not in headers:
            headers[b"date"] = config.date.value
        if rules.overwrite_server:
            headers[b"server"] = rules.server_name
        else:
            rules.set_server(headers)
        if b"connection" in headers:
            headers.remove(b"connection")
        if b"transfer-encoding" in headers:
            headers.remove(b"transfer-encoding")
        if b"keep-alive" in headers:
            headers.remove(b"keep-alive")
        if b"upgrade" in headers or b"proxy-connection" in headers:
            headers.remove(b"upgrade")
            headers.remove(b"proxy-connection")
        if rules.response_extras or self.internal:
            rules.apply_to_response(headers, self.request_headers)
        framing = self._framing(headers, status, end_stream)
        if not self.request_complete_time:
            manager.stats.downstream_rq_response_before_rq_complete += 1
            manager.close_after_response = True
        elif manager.draining or (listener.drain.active and listener.drain.close_now()):
            manager.stats.downstream_cx_drain_close += 1
            manager.close_after_response = True
        if manager.close_after_response:
            headers[b"connection"] = b"close"
        elif self.protocol == "HTTP/1.0":
            headers[b"connection"] = b"keep-alive"
        statuses = listener.statuses
        statuses[status] = statuses.get(status, 0) + 1
        head = config.encode_head_10(headers) if self.protocol == "HTTP/1.0" else config.encode_head(headers)
        if framing is not None:
            head = head[:-2] + framing
        if config.access_logs:
            self.response_head_bytes = field_bytes(head)
        if end_stream:
            self.connection.write(head)
            self._finish()
        else:
            self._head = head

    def _framing(self, headers: ResponseHeaders, status: int, end_stream: bool) -> bytes | None:
        """How the client will know where the body ends (RFC 9112 section 6.3): the field to add, if any."""
        if b"content-length" in headers or status < 200 or status == 204 or status == 304:
            return None
        if end_stream and not self._head_request:
            return self.config.no_body_field
        if self.protocol == "HTTP/1.0":
            if not end_stream:
                self.manager.close_after_response = True
            return None
        self._chunked = not self._head_request
        return self.config.chunked_field

    def send_data(self, chunks: list[bytes], end_stream: bool) -> None:
        """Part of the response body; takes over the list."""
        if self.destroyed:
            return
        if self._idle is not None and not end_stream:
            self.arm_idle()
        head = self._head
        self._head = None
        if len(chunks) == 1 and head is not None and not self._chunked and not self._head_request:
            # Nearly always: a short body that came with its headers leaves with them.
            data = chunks[0]
            size = len(data)
            if size < _SMALL:
                self.bytes_sent += size
                self.connection.write(head + data)
                if end_stream:
                    self._finish()
                return
        if self._head_request:
            out = []
        else:
            self.bytes_sent += sum(map(len, chunks))
            if self._chunked:
                out = [chunk(data) for data in chunks]
                if end_stream:
                    out.append(last_chunk(None))
            else:
                out = chunks
        if head is not None:
            out.insert(0, head)
        if out:
            self.connection.write_many(out)
        if end_stream:
            self._finish()

    def send_trailers(self, trailers: HeaderMap) -> None:
        """The end of a response with trailers; HTTP/1 keeps them only behind chunks (``enable_trailers``)."""
        if self.destroyed:
            return
        out = [self._head] if self._head is not None else []
        self._head = None
        if self._chunked:
            out.append(last_chunk(trailers if self.config.enable_trailers else None))
        if out:
            self.connection.write_many(out)
        self._finish()

    def flush(self) -> None:
        """End of an event: headers that wait for a body leave without it."""
        head = self._head
        if head is not None:
            self._head = None
            self.arm_idle()
            self.connection.write(head)

    def _finish(self) -> None:
        """The response is complete."""
        self.end_sent = True
        if not self.request_complete_time and not self.message.complete:
            self.manager.close_after_response = True
        self.manager.on_stream_done(self)

    # long bodies go from socket to socket

    def can_splice_response(self) -> bool:
        """Nobody needs to see the body: no filters, framed by its length, nothing waiting in the way."""
        return (
            self.chain is None
            and not self._chunked
            and not self._head_request
            and self._splice is None
            and self._head is None
            and not self.connection.out_size
            and self.config.splice
        )

    def splice(
        self, source: Connection, sink: Connection, count: int, on_done: Callable[[int, str], None]
    ) -> Splice | None:
        """A splice of ``count`` bytes, not started; None when there is no pipe to be had."""
        pipe = self.manager.pipes.take()
        if pipe is None:
            return None
        loop = self.manager.dispatcher.loop
        splice = self._latest_splice = Splice(self.manager.pipes, pipe, loop, source, sink, count, on_done)
        return splice

    def moves_on(self) -> bool:
        """Asked when the idle timeout is over: whether a splice has moved bytes since; then it is asked again later."""
        splice, idle = self._latest_splice, self._idle
        if splice is None or idle is None or not splice.running:
            return False
        left = splice.last_moved + idle.duration_s - self.manager.dispatcher.loop.time()
        if left <= 0:
            return False
        self.call_later(left, self._check_moving)
        return True

    def _check_moving(self) -> None:
        if self._latest_splice is not None and self._latest_splice.running:
            self.manager.on_stream_idle()
        # else: what ended it has set the timeout anew

    def on_response_spliced(self, moved: int) -> None:
        self.bytes_sent += moved
        self.arm_idle()

    def _try_splice_request(self) -> None:
        client = self._upstream_for_splice()
        if client is None:
            return
        splice = self.splice(self.connection, client.connection, self.message.body_remaining, self._on_request_spliced)
        if splice is not None:
            self._splice = splice
            self.connection.watch_leaving(True)
            splice.start()

    def _upstream_for_splice(self) -> ActiveClient | None:
        attempt = self.router.attempt
        if self.chain is not None or attempt is None or self._splice is not None or not self.config.splice:
            return None
        client = attempt.client
        if client is None or client.connection.out_size or self.connection.read_disabled:
            return None
        return client

    def _on_request_spliced(self, moved: int, error: str) -> None:
        self._splice = None
        self.connection.watch_leaving(False)
        self.bytes_received += moved
        self.manager.codec.skip_body(moved)
        if not error:
            self.on_request_read()
        elif error == "source":
            self.on_downstream_lost()
        else:
            attempt = self.router.attempt
            client = attempt.client if attempt is not None else None
            if attempt is not None and client is not None:
                attempt.on_response_eof(client.codec)

    # back-pressure

    @property
    def buffer_limit(self) -> int:
        """Bytes of body kept for this stream at any one place (Envoy: per_connection_buffer_limit_bytes)."""
        return self.config.buffer_limit

    def pause_downstream(self) -> None:
        self.manager.stats.downstream_flow_control_paused_reading_total += 1
        self.connection.read_disable()
        self.connection.watch_leaving(True)

    def resume_downstream(self) -> None:
        self.manager.stats.downstream_flow_control_resumed_reading_total += 1
        self.connection.watch_leaving(False)
        self.connection.read_enable()

    # the end

    @property
    def may_route_again(self) -> bool:
        """Whether ``clear_route_cache`` may still be called and mean something."""
        return self.chain is not None and not self.response_started

    def clear_route_cache(self) -> None:
        """A filter changed what routes are matched by: choose again. Nothing happens once the response has begun."""
        headers = self.request_headers
        if headers is not None and not self.response_started:
            self.route = self.config.routes.route(headers, self)
            self.route_name = self.route.name if self.route is not None else ""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> object:
        if self.destroyed:
            return None
        handle = self.manager.dispatcher.call_later(delay_s, callback)
        if self._handles is None:
            self._handles = []
        self._handles.append(handle)
        return handle

    def on_downstream_lost(self) -> None:
        """The client went away."""
        self.response_flags |= outcome.DC
        self.manager.on_peer_gone()

    def reset(self, details: str, flag: int) -> None:
        """The response cannot be completed: the connection closes, so that the client sees it cut short."""
        if self.destroyed:
            return
        self.response_flags |= flag
        self.response_code_details = details
        self.flush()
        self.manager.stats.downstream_rq_tx_reset += 1
        self.manager.close_after_response = True
        headers = self.response_headers
        if self.protocol == "HTTP/1.0" and headers is not None and b"content-length" not in headers:
            # FIN would say that the body is complete (RFC 9112 section 8); Envoy sends one all the same.
            self.connection.reset()
            self.manager.close()
        else:
            self.manager.on_stream_done(self)

    def on_fault(self) -> None:
        """A filter or this program raised: what was made of this stream is not to be trusted; its connection closes."""
        self.reset("internal_error", 0)

    def _count_wire_bytes(self, client: ActiveClient | None) -> None:
        """What went over the two connections for this stream; for the access log."""
        connection = self.connection
        rx, tx = self.manager.wire_marks
        sent = connection.bytes_written + connection.out_size
        self.downstream_wire_bytes_received = connection.bytes_read - rx
        self.downstream_wire_bytes_sent = sent - tx
        self.manager.wire_marks = (connection.bytes_read, sent)
        if client is not None:
            rx, tx = self.upstream_marks
            self.upstream_wire_bytes_received = client.connection.bytes_read - rx
            self.upstream_wire_bytes_sent = client.connection.bytes_written - tx

    def destroy(self) -> None:
        """Let go of everything upstream and every timer; called once, by the connection manager."""
        self.destroyed = True
        if self._splice is not None:
            self.bytes_received += self._splice.moved
            self._splice.cancel()
            self._splice = None
        self.router.on_destroy()
        self._latest_splice = None
        if self.chain is not None:
            self.chain.destroy()
            self.chain = None
        del self.router  # the two hold each other; this way nothing is left to the garbage collector
        if self._idle is not None:
            self._idle.cancel(self.manager)
        if self._handles is not None:
            for handle in self._handles:
                handle.cancel()
        loggers = self.config.access_logs
        if loggers:
            self.access_log_type = "DownstreamEnd"
            client = self.upstream_client
            if client is not None:
                self.upstream_connect_begin = client.connect_started
                self.upstream_connect_end = client.connected_at
                self.upstream_local_address = client.local_address
            headers = self.request_headers
            self._count_wire_bytes(client)
            self.stream_id = (headers.get(b"x-request-id", b"") if headers is not None else b"").decode("latin-1")
            for logger in loggers:
                logger.log(self)

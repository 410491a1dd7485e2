"""The router filter: step 2, from a matched route to an upstream request, and back to the downstream.

The last filter of every chain. Envoy's name: ``Router::Filter`` (``envoy.filters.http.router``). Chooses cluster and
host, owns the upstream request, decides what a failure means, runs the route's timeout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.extensions.base import STOP_ITERATION, STOP_NO_BUFFER, Body, StreamFilter
from workerproxy.http import outcome
from workerproxy.http.outcome import Outcome
from workerproxy.worker.router.upstream_request import UpstreamRequest

if TYPE_CHECKING:
    from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders
    from workerproxy.http.outcome import ResetReason
    from workerproxy.worker.http.codec.messages import ResponseMessage
    from workerproxy.worker.http.stream import ActiveStream
    from workerproxy.worker.network.dispatcher import Dispatcher, TimerQueue
    from workerproxy.worker.router.direct_response import DirectResponse
    from workerproxy.worker.router.route import Route
    from workerproxy.worker.router.stats import RouterStats
    from workerproxy.worker.upstream.cluster import Cluster
    from workerproxy.worker.upstream.cluster_manager import ClusterManager

_OVERLOADED: Final = ((b"x-envoy-overloaded", b"true"),)
_EXPECTED_TIMEOUT: Final = b"x-envoy-expected-rq-timeout-ms"
_TIMEOUT_MS: Final = b"x-envoy-upstream-rq-timeout-ms"
_ALT_RESPONSE: Final = b"x-envoy-upstream-rq-timeout-alt-response"
_STREAM_DURATION: Final = b"x-envoy-upstream-stream-duration-ms"
_ALT_STAT_NAME: Final = b"x-envoy-upstream-alt-stat-name"
_PER_TRY_MS: Final = b"x-envoy-upstream-rq-per-try-timeout-ms"
# What callers may say of retries; taken off the request here, as in Envoy.
_RETRY_CONTROL: Final = (
    b"x-envoy-retry-on",
    b"x-envoy-retry-grpc-on",
    b"x-envoy-max-retries",
    b"x-envoy-retriable-status-codes",
    b"x-envoy-retriable-header-names",
    b"x-envoy-hedge-on-per-try-timeout",
)
# Headers the router reads, all rare: one set operation tells that none is there.
_CONTROL_HEADERS: Final = frozenset(
    {_TIMEOUT_MS, _ALT_RESPONSE, _STREAM_DURATION, _ALT_STAT_NAME, _PER_TRY_MS, *_RETRY_CONTROL}
)


class RouterConfig:
    """Shared by all streams of one connection manager (``router.v3.Router``)."""

    def __init__(
        self,
        clusters: ClusterManager,
        dispatcher: Dispatcher,
        stats: RouterStats,
        *,
        suppress_envoy_headers: bool = False,
        dynamic_stats: bool = True,
        respect_expected_rq_timeout: bool = False,
        match_upstream_scheme: bool = False,
        strict_check_headers: tuple[bytes, ...] = (),
    ) -> None:
        self.clusters = clusters
        self.dispatcher = dispatcher
        self.stats = stats
        self.add_envoy_headers = not suppress_envoy_headers
        self.dynamic_stats = dynamic_stats
        self.respect_expected_rq_timeout = respect_expected_rq_timeout
        self.match_upstream_scheme = match_upstream_scheme
        self.strict_check_headers = strict_check_headers
        self._timers: dict[float, tuple[TimerQueue[Router], bytes]] = {}

    def timeout(self, seconds: float) -> tuple[TimerQueue[Router], bytes]:
        """The timer queue of a route timeout and its text in milliseconds."""
        found = self._timers.get(seconds)
        if found is None:
            queue = self.dispatcher.timers(seconds, _on_response_timeout)
            found = (queue, b"%d" % round(seconds * 1000))
            if len(self._timers) < 1024:  # clients may choose: x-envoy-upstream-rq-timeout-ms
                self._timers[seconds] = found
        return found


class Router(StreamFilter):
    """One per stream."""

    __slots__ = (
        "_alt_response",
        "_attempt",
        "_cluster",
        "_config",
        "_duration_timers",
        "_per_try",
        "_response_started",
        "_route",
        "_timer",
        "headers",
        "stream",
    )

    headers: RequestHeaders

    def __init__(self, config: RouterConfig, stream: ActiveStream) -> None:
        self._config = config
        self.stream = stream
        self._attempt: UpstreamRequest | None = None
        self._route: Route | None = None
        self._cluster: Cluster | None = None
        self._timer: TimerQueue[Router] | None = None
        self._duration_timers: TimerQueue[Router] | None = None
        self._response_started = False
        self._alt_response = False
        self._per_try = False  # the timeout is that of the try

    def __repr__(self) -> str:
        return f"<Router {self._attempt!r}>"

    # the request on its way up

    def decode_headers(self, headers: RequestHeaders, end_stream: bool) -> int:
        """Event A, step 2: route -> cluster -> host -> upstream request."""
        config = self._config
        stream = self.stream
        config.stats.rq_total += 1
        self.headers = headers
        route = stream.route
        if route is None:
            config.stats.no_route += 1
            stream.local_reply(outcome.ROUTE_NOT_FOUND)
            return STOP_ITERATION
        if route.direct_response is not None:
            self._respond_directly(route, route.direct_response)
            return STOP_ITERATION
        name = route.cluster or route.select_cluster(headers, stream)
        cluster = config.clusters.clusters.get(name)
        if cluster is None:
            config.stats.no_cluster += 1
            self._route = route
            self._abort(outcome.CLUSTER_NOT_FOUND._replace(status=route.cluster_not_found_status), ())
            return STOP_ITERATION
        self._route = route
        self._cluster = cluster
        stream.upstream_cluster = cluster.settings.stat_name
        stream.upstream_cluster_raw = name
        if config.strict_check_headers and not self._headers_pass(headers):
            return STOP_ITERATION
        stream.upstream_attempt_count = 1
        self._set_timeouts(route, headers)
        finalize = route.finalize_request_headers
        if finalize is not None:
            invalid = finalize(headers, stream)
            if invalid is not None:
                self._abort(outcome.invalid_request_header(invalid), ())
                return STOP_ITERATION
        host = cluster.choose_host()
        if host is None:
            cluster.stats.upstream_cx_none_healthy += 1
            self._charge(cluster, 503)
            self._abort(outcome.NO_HEALTHY_UPSTREAM, ())
            return STOP_ITERATION
        if route.include_request_attempt_count:
            headers.replace(b"x-envoy-attempt-count", b"1")
        if config.match_upstream_scheme:
            headers.scheme = b"http"  # no cluster has TLS
        if route.auto_host_rewrite:
            route.rewrite_to_host(headers, host.hostname, config.add_envoy_headers)
        attempt = self._attempt = UpstreamRequest(self, host)
        stream.upstream_host = host.text
        stream.upstream_host_name = host.hostname
        attempt.start(end_stream)
        if end_stream and self._attempt is attempt:
            self._on_request_complete()
        return STOP_ITERATION

    def _respond_directly(self, route: Route, direct: DirectResponse) -> None:
        stream = self.stream
        self._config.stats.rq_direct_response += 1
        direct.rewrite_path_header(self.headers, self._config.add_envoy_headers)
        stream.local_reply(
            Outcome(direct.status, direct.body, outcome.DIRECT_RESPONSE),
            direct.response_headers(self.headers, stream),
            route.finalize_response_headers,
        )

    def _headers_pass(self, headers: RequestHeaders) -> bool:
        for name in self._config.strict_check_headers:
            value = headers.get(name)
            if value is not None and not _valid_control_value(name, value):
                text = f"invalid header '{name.decode()}' with value '{value.decode('latin-1')}'"
                details = f"request_headers_failed_strict_check{{{name.decode()}}}"
                self.stream.local_reply(Outcome(400, text.encode("latin-1"), details, outcome.IH))
                return False
        return True

    def _set_timeouts(self, route: Route, headers: RequestHeaders) -> None:
        config = self._config
        timeout_s = route.timeout_s
        steered = self.stream.rare_headers and not _CONTROL_HEADERS.isdisjoint(headers)
        if steered or config.respect_expected_rq_timeout:
            timeout_s = self._timeouts_from_headers(timeout_s, headers)
        if timeout_s:
            self._timer, text = config.timeout(timeout_s)
            if config.add_envoy_headers:
                headers[_EXPECTED_TIMEOUT] = text
        cluster = self._cluster
        if cluster is not None and cluster.settings.max_stream_duration_s and self._duration_timers is None:
            self._duration_timers = config.dispatcher.timers(
                cluster.settings.max_stream_duration_s, _on_max_stream_duration
            )

    def _timeouts_from_headers(self, timeout_s: float, headers: RequestHeaders) -> float:
        expected = headers.get(_EXPECTED_TIMEOUT) if self._config.respect_expected_rq_timeout else None
        wanted = expected if expected is not None else headers.get(_TIMEOUT_MS)
        if expected is None:
            headers.remove(_TIMEOUT_MS)
        milliseconds = _integer(wanted)
        if milliseconds is not None:
            timeout_s = milliseconds / 1000
        per_try = _integer(headers.get(_PER_TRY_MS))
        headers.remove(_PER_TRY_MS)
        if per_try and (not timeout_s or per_try / 1000 < timeout_s):
            timeout_s = per_try / 1000
            self._per_try = True
        headers.remove(_ALT_STAT_NAME)
        for name in _RETRY_CONTROL:
            headers.remove(name)
        self._alt_response = headers.remove(_ALT_RESPONSE)
        duration = _integer(headers.get(_STREAM_DURATION))
        if headers.remove(_STREAM_DURATION) and duration:
            self._duration_timers = self._config.dispatcher.timers(duration / 1000, _on_max_stream_duration)
        self.stream.arm_idle()  # the route's timeout may be gone, or the longer one
        return timeout_s

    def decode_data(self, data: Body, end_stream: bool) -> int:
        self.send_data(list(data), end_stream)
        data.clear()
        return STOP_NO_BUFFER

    def send_data(self, chunks: list[bytes], end_stream: bool) -> None:
        """The request body, without a filter in between."""
        attempt = self._attempt
        if attempt is not None:
            attempt.encode_data(chunks, end_stream)
            if end_stream and self._attempt is attempt:
                self._on_request_complete()

    def decode_trailers(self, trailers: HeaderMap) -> int:
        attempt = self._attempt
        if attempt is not None:
            attempt.encode_trailers(trailers)
            if self._attempt is attempt:
                self._on_request_complete()
        return STOP_ITERATION

    def _on_request_complete(self) -> None:
        """The route's timeout runs from the request's last byte (Envoy: onRequestComplete)."""
        if self._timer is not None and not (self._response_started and self._attempt is None):
            self._timer.set(self)

    # the response on its way down

    def on_connected(self, attempt: UpstreamRequest) -> None:
        """The attempt has a connection."""
        client = attempt.client
        stream = self.stream
        if client is not None:
            stream.upstream_connection_id = client.connection_id
            stream.upstream_client = client
            stream.upstream_host = client.remote_address
        if self._duration_timers is not None:
            self._duration_timers.set(self)

    def forget_host(self) -> None:
        """A limit refused the request before it came near the host: the access log names none."""
        self.stream.upstream_host = self.stream.upstream_host_name = ""

    def on_upstream_1xx(self, headers: ResponseHeaders) -> None:
        self.stream.encode_1xx_headers(headers)

    def on_upstream_headers(
        self, attempt: UpstreamRequest, message: ResponseMessage, end_stream: bool, now: float
    ) -> None:
        """Event C, step 4: commit to this response. ``now``: when it was read."""
        stream = self.stream
        config = self._config
        headers = message.headers
        status = headers.status
        stream.upstream_first_rx = now
        if message.head_bytes:
            stream.upstream_header_bytes_received = message.head_bytes
        if stream.request_complete_time and config.add_envoy_headers:
            headers[b"x-envoy-upstream-service-time"] = b"%d" % ((now - stream.request_complete_time) * 1000)
        cluster = self._cluster
        host = attempt.host
        if cluster is not None and config.dynamic_stats:
            cluster.codes.charge(status, stream.internal, headers.get(b"x-envoy-upstream-canary") == b"true")
        if status < 500:
            host.rq_success += 1
        else:
            host.rq_error += 1
        self._response_started = True
        stream.response_code = status
        stream.response_code_details = outcome.VIA_UPSTREAM
        route = self._route
        if route is not None:
            finalize = route.finalize_response_headers
            if finalize is not None:
                finalize(headers, stream)
            if route.include_attempt_count_in_response:
                headers.replace(b"x-envoy-attempt-count", b"1")
        if end_stream:
            self._on_upstream_complete(now)
        stream.response_headers = headers
        if stream.chain is None:
            stream.send_headers(headers, end_stream)
        else:
            stream.chain.encode_headers(headers, end_stream)

    def on_upstream_data(self, chunks: list[bytes], end_stream: bool, now: float) -> None:
        if end_stream:
            self._on_upstream_complete(now)
        stream = self.stream
        if stream.chain is None:
            stream.send_data(chunks, end_stream)
        else:
            stream.chain.encode_data(chunks, end_stream)

    def on_upstream_trailers(self, trailers: HeaderMap, now: float) -> None:
        self._on_upstream_complete(now)
        self.stream.encode_trailers(trailers)

    def _on_upstream_complete(self, now: float) -> None:
        self._attempt = None
        if self._timer is not None:
            self._timer.cancel(self)
        if self._duration_timers is not None:
            self._duration_timers.cancel(self)
        stream = self.stream
        began = stream.request_complete_time
        if began and self._cluster is not None and self._config.dynamic_stats:
            self._cluster.codes.record_time(int((now - began) * 1000), stream.internal)

    # failures

    def on_upstream_reset(self, attempt: UpstreamRequest, reason: ResetReason, transport_failure: str) -> None:
        if self._attempt is not attempt:
            return
        self._attempt = None
        self._cancel_timers()
        stream = self.stream
        if self._response_started:
            text = f"upstream_reset_after_response_started{{{reason.text}}}".replace(" ", "_")
            stream.reset(text, reason.flag)
            return
        end = outcome.reset_before_response(reason, transport_failure)
        if self._cluster is not None:
            self._charge(self._cluster, end.status)
        attempt.host.rq_error += 1
        self._abort(end, _OVERLOADED if reason is outcome.OVERFLOW and self._config.add_envoy_headers else ())

    def _abort(self, end: Outcome, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        if (
            self._route is not None
            and self._route.include_attempt_count_in_response
            and self.stream.upstream_attempt_count
        ):
            headers = (*headers, (b"x-envoy-attempt-count", b"1"))
        finalize = self._route.finalize_response_headers if self._route is not None else None
        self.stream.local_reply(end, headers, finalize)

    def _charge(self, cluster: Cluster, status: int) -> None:
        if self._config.dynamic_stats:
            cluster.codes.charge(status, self.stream.internal, False)

    def on_response_timeout(self) -> None:
        """The route's timeout: the whole response did not come in time."""
        attempt = self._attempt
        if attempt is None:
            return
        self._attempt = None
        cluster = self._cluster
        if cluster is not None:
            if self._per_try:
                cluster.stats.upstream_rq_per_try_timeout += 1
            else:
                cluster.stats.upstream_rq_timeout += 1
            if attempt.awaiting_headers:
                self._charge(cluster, 204 if self._alt_response else 504)
        attempt.host.rq_timeout += 1
        attempt.host.rq_error += 1
        self._cancel_timers()
        attempt.cancel()
        end = outcome.PER_TRY_TIMEOUT if self._per_try else outcome.RESPONSE_TIMEOUT
        if self._response_started:
            self.stream.reset(end.details, end.flag)
        else:
            self._abort(end._replace(status=204, body=b"") if self._alt_response else end, ())

    def on_max_stream_duration(self) -> None:
        """``max_stream_duration`` of the cluster, or the caller's, is over."""
        attempt = self._attempt
        if attempt is None:
            return
        self._attempt = None
        if self._cluster is not None:
            self._cluster.stats.upstream_rq_max_duration_reached += 1
        self._cancel_timers()
        attempt.cancel()
        end = outcome.UPSTREAM_MAX_STREAM_DURATION
        if self._response_started:
            self.stream.reset(end.details, end.flag)
        else:
            self._abort(end, ())

    # flow control and the end

    def pause_response(self) -> None:
        """The downstream does not take the response fast enough."""
        attempt = self._attempt
        if attempt is not None:
            if self._cluster is not None:
                self._cluster.stats.upstream_flow_control_paused_reading_total += 1
            attempt.pause_response()

    def resume_response(self) -> None:
        attempt = self._attempt
        if attempt is not None:
            if self._cluster is not None:
                self._cluster.stats.upstream_flow_control_resumed_reading_total += 1
            attempt.resume_response()

    @property
    def attempt(self) -> UpstreamRequest | None:
        return self._attempt

    def on_destroy(self) -> None:
        """The stream is over; an answer still to come is not wanted."""
        attempt = self._attempt
        if attempt is not None:
            self._attempt = None
            self._cancel_timers()
            attempt.cancel()

    def _cancel_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel(self)
        if self._duration_timers is not None:
            self._duration_timers.cancel(self)


def _on_response_timeout(router: Router) -> None:
    router.on_response_timeout()


def _on_max_stream_duration(router: Router) -> None:
    router.on_max_stream_duration()


def _integer(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) < 16 else None


def _valid_control_value(name: bytes, value: bytes) -> bool:
    return _integer(value) is not None

"""A finished request for the tests of this folder, as Envoy saw it when the expectations were taken from it."""

from __future__ import annotations

import time

from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders
from workerproxy.http.stream_info import StreamInfo

TARGET = "/p?q=a%20bc&e&q=2&a+b=1"


def finished(target: str = TARGET, headers: tuple[tuple[str, str], ...] = ()) -> StreamInfo:
    info = StreamInfo()
    request = RequestHeaders()
    request.method, request.path, request.authority, request.scheme = b"GET", target.encode(), b"h:80", b"http"
    for name, value in (("x-multi", "1"), ("x-multi", "2"), ("empty", ""), ("x-q", '"a\\b"'), *headers):
        request.add(name.encode(), value.encode("latin-1"))
    response = ResponseHeaders()
    response.status = 200
    response[b"content-length"], response[b"x-o"] = b"2", b"1"
    info.request_headers, info.response_headers = request, response
    info.response_code, info.response_code_details = 200, "via_upstream"
    info.start_time = time.monotonic()
    info.request_complete_time = info.start_time + 0.000039
    info.upstream_connect_begin, info.upstream_connect_end = info.start_time + 0.0002, info.start_time + 0.000234
    info.upstream_first_tx, info.upstream_last_tx = info.start_time + 0.0003, info.start_time + 0.0008
    info.upstream_first_rx, info.upstream_last_rx = info.start_time + 0.0021, info.start_time + 0.0022
    info.downstream_first_tx, info.end_time = info.start_time + 0.0023, info.start_time + 0.0029
    info.bytes_sent = 2
    info.upstream_cluster, info.upstream_cluster_raw, info.upstream_protocol = "alt", "c", "HTTP/1.1"
    info.upstream_host, info.upstream_local_address = "127.0.0.1:40781", "127.0.0.1:37488"
    info.upstream_attempt_count, info.upstream_connection_id, info.connection_id = 1, 3, 2
    info.downstream_remote_address = info.downstream_direct_remote_address = "[2001:db8::1]:57142"
    info.downstream_local_address = "127.0.0.1:37301"
    info.stream_id, info.route_name, info.access_log_type = (
        "e042250a-de49-4185-922d-d3595f99987a",
        "r1",
        "DownstreamEnd",
    )
    return info


def refused() -> StreamInfo:
    """A request whose upstream refused the connection."""
    info = finished("/x")
    details = (
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
    )
    info.response_code, info.response_code_details = 503, details
    info.response_flags = 1 << 5
    info.upstream_host, info.upstream_local_address, info.upstream_protocol = "127.0.0.1:1", "", ""
    info.upstream_transport_failure_reason = "delayed connect error: Connection refused"
    info.upstream_first_tx = info.upstream_last_tx = info.upstream_first_rx = info.upstream_last_rx = 0.0
    return info


def unread() -> StreamInfo:
    """A request that could not be parsed: there are no headers."""
    info = StreamInfo()
    info.start_time = info.end_time = time.monotonic()
    info.response_code, info.response_code_details, info.response_flags = 400, "http1.invalid_characters", 1 << 18
    info.response_headers = ResponseHeaders()
    info.response_headers.status = 400
    return info


def grpc(status: str | None = None, in_trailers: bool = True, code: int = 200) -> StreamInfo:
    info = finished(headers=(("content-type", "application/grpc"),))
    info.response_code = code
    fields = HeaderMap() if status is None else HeaderMap({b"grpc-status": status.encode()})
    if in_trailers:
        info.response_trailers = fields
    elif info.response_headers is not None:
        info.response_headers.update(fields)
    return info

"""What is known of one request while it runs and when it is logged. Envoy's name: ``StreamInfo``.

Class attributes are the defaults, so that a stream pays only for what is set. Times are monotonic seconds of the
event loop's clock (``time.monotonic``), 0.0 where the point was not reached; sizes are bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders


class StreamInfo:
    """The attributes that access-log and header formatters read (``%…%`` operators)."""

    # request and response
    request_headers: RequestHeaders | None = None
    response_headers: ResponseHeaders | None = None
    request_trailers: HeaderMap | None = None
    response_trailers: HeaderMap | None = None
    protocol: str = "HTTP/1.1"  # %PROTOCOL%: HTTP/1.0 or HTTP/1.1
    upstream_protocol: str = ""
    response_code: int = 0
    response_code_details: str = ""
    connection_termination_details: str = ""
    response_flags: int = 0  # bits of workerproxy.http.outcome
    local_reply_body: bytes = b""
    # sizes
    bytes_received: int = 0  # request body
    bytes_sent: int = 0  # response body
    request_head_bytes: int = 0
    response_head_bytes: int = 0
    upstream_wire_bytes_sent: int = 0
    upstream_wire_bytes_received: int = 0
    upstream_header_bytes_sent: int = 0
    upstream_header_bytes_received: int = 0
    downstream_wire_bytes_sent: int = 0
    downstream_wire_bytes_received: int = 0
    # times
    start_time: float = 0.0  # first byte of the request (DS_RX_BEG)
    request_complete_time: float = 0.0  # last byte of the request received (DS_RX_END)
    upstream_connect_begin: float = 0.0
    upstream_connect_end: float = 0.0
    upstream_first_tx: float = 0.0
    upstream_last_tx: float = 0.0
    upstream_first_rx: float = 0.0
    upstream_last_rx: float = 0.0
    downstream_first_tx: float = 0.0
    end_time: float = 0.0  # last byte of the response sent, or the stream destroyed (DS_TX_END)
    # routing and upstream
    route_name: str = ""
    virtual_cluster_name: str = ""
    upstream_cluster: str = ""  # %UPSTREAM_CLUSTER%: alt_stat_name, or the name
    upstream_cluster_raw: str = ""
    upstream_host: str = ""  # "ip:port" or the pipe's path; "" when no host was chosen
    upstream_host_name: str = ""  # the endpoint's hostname or address as configured
    upstream_local_address: str = ""  # "ip:port"
    upstream_transport_failure_reason: str = ""
    upstream_attempt_count: int = 0
    upstream_connection_id: int = 0
    # downstream connection
    connection_id: int = 0
    stream_id: str = ""  # UUID; the request id when there is one
    downstream_remote_address: str = ""  # the trusted client address, "ip:port" ([v6]:port)
    downstream_direct_remote_address: str = ""  # the peer of the TCP connection
    downstream_local_address: str = ""
    requested_server_name: str = ""
    filter_chain_name: str = ""
    access_log_type: str = "NotSet"
    # set by filters: namespace -> key -> value
    dynamic_metadata: dict[str, dict[str, Any]] | None = None

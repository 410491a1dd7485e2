"""What a connection manager's configuration comes to: everything decided, nothing looked up per request.

Built by the runtime from ``http_connection_manager.v3.HttpConnectionManager``, one for each listener and version; a
stream keeps the one it began with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from envoy.config.route.v3.route_pb2 import RouteConfiguration

from workerproxy.worker.router.route_table import RouteTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.extensions.base import AccessLogger, StreamFilter
    from workerproxy.http.headers import ResponseHeaders
    from workerproxy.worker.http.codec.settings import CodecSettings
    from workerproxy.worker.http.connection_manager import ConnectionManager
    from workerproxy.worker.http.date import DateProvider
    from workerproxy.worker.http.header_rules import HeaderRules
    from workerproxy.worker.http.stats import ConnectionManagerStats
    from workerproxy.worker.network.connection import Connection
    from workerproxy.worker.network.dispatcher import TimerQueue
    from workerproxy.worker.router.router import RouterConfig

DEFAULT_STREAM_IDLE_TIMEOUT_S: Final = 300.0
DEFAULT_CONNECTION_IDLE_TIMEOUT_S: Final = 3600.0
DEFAULT_DELAYED_CLOSE_S: Final = 1.0
DEFAULT_DRAIN_TIMEOUT_S: Final = 5.0
DEFAULT_BUFFER_LIMIT: Final = 1 << 20  # bytes
NO_BUFFER_LIMIT: Final = 1 << 62  # for a configured limit of 0 (Envoy: no watermarks)
NO_ROUTES: Final = RouteTable(RouteConfiguration())  # in place of a table that no stream will look at any more


@dataclass(slots=True)
class ConnectionManagerConfig:
    """Seconds, bytes and counts; 0 or None where the option is off."""

    stat_prefix: str
    stats: ConnectionManagerStats
    rules: HeaderRules
    routes: RouteTable
    router: RouterConfig
    filters: tuple[Callable[[], StreamFilter], ...]  # without the router
    access_logs: tuple[AccessLogger, ...]
    codec: CodecSettings
    date: DateProvider
    encode_head: Callable[[ResponseHeaders], bytes]
    encode_head_10: Callable[[ResponseHeaders], bytes]
    chunked_field: bytes
    no_body_field: bytes
    on_idle: Callable[[ConnectionManager], None]
    buffer_limit: int
    idle_timeout_s: float  # stream_idle_timeout
    connection_idle_timeout_s: float
    max_connection_duration_s: float
    max_requests_per_connection: int
    max_stream_duration_s: float
    idle_timers: TimerQueue[ConnectionManager] | None
    header_timers: TimerQueue[ConnectionManager] | None
    request_timers: TimerQueue[ConnectionManager] | None
    linger: TimerQueue[Connection] | None  # delayed_close_timeout
    drain_timeout_s: float
    keep_after_bad_request: bool  # stream_error_on_invalid_http_message
    proxy_100_continue: bool
    enable_trailers: bool
    splice: bool = True

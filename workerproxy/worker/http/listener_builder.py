"""From ``envoy.config.listener.v3.Listener`` to what an HTTP listener runs: connection manager, routes, filters.

The configuration layer has validated the message; what only shows here is ``Refused``.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from workerproxy.control.stats import stat_name
from workerproxy.worker.context import Refused
from workerproxy.worker.http import header_rules
from workerproxy.worker.http.codec import encoder
from workerproxy.worker.http.codec.settings import CodecSettings
from workerproxy.worker.http.connection_manager import ConnectionManager
from workerproxy.worker.http.header_rules import HeaderRules, HeaderSettings
from workerproxy.worker.http.settings import (
    DEFAULT_BUFFER_LIMIT,
    DEFAULT_CONNECTION_IDLE_TIMEOUT_S,
    DEFAULT_DELAYED_CLOSE_S,
    DEFAULT_DRAIN_TIMEOUT_S,
    DEFAULT_STREAM_IDLE_TIMEOUT_S,
    NO_BUFFER_LIMIT,
    ConnectionManagerConfig,
)
from workerproxy.worker.http.stats import ConnectionManagerStats
from workerproxy.worker.network.connection import Connection
from workerproxy.worker.router.errors import RouteConfigError
from workerproxy.worker.router.route_table import RouteTable, RouteTableSettings
from workerproxy.worker.router.router import RouterConfig
from workerproxy.worker.router.stats import RouterStats
from workerproxy.worker.upstream.cluster_builder import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from envoy.config.core.v3.base_pb2 import Node
    from envoy.config.listener.v3.listener_pb2 import Listener

    from workerproxy.extensions.base import AccessLogger, StreamFilter
    from workerproxy.extensions.registry import Registry
    from workerproxy.worker.access_logs import AccessLogs
    from workerproxy.worker.context import WorkerContext
    from workerproxy.worker.http.date import DateProvider
    from workerproxy.worker.http.request_id import RequestIds
    from workerproxy.worker.network.dispatcher import Dispatcher, TimerQueue
    from workerproxy.worker.upstream.cluster_manager import ClusterManager

Hcm = http_connection_manager_pb2.HttpConnectionManager
_MAX_HEADERS_KB: Final = 60
_MAX_HEADERS: Final = 100
_ESCAPED_SLASHES: Final = {
    Hcm.IMPLEMENTATION_SPECIFIC_DEFAULT: header_rules.KEEP_UNCHANGED,
    Hcm.KEEP_UNCHANGED: header_rules.KEEP_UNCHANGED,
    Hcm.REJECT_REQUEST: header_rules.REJECT_REQUEST,
    Hcm.UNESCAPE_AND_REDIRECT: header_rules.UNESCAPE_AND_REDIRECT,
    Hcm.UNESCAPE_AND_FORWARD: header_rules.UNESCAPE_AND_FORWARD,
}
_SERVER_HEADER: Final = {
    Hcm.OVERWRITE: header_rules.OVERWRITE,
    Hcm.APPEND_IF_ABSENT: header_rules.APPEND_IF_ABSENT,
    Hcm.PASS_THROUGH: header_rules.PASS_THROUGH,
}


class ListenerBuilder:
    """Builds the connection managers' configurations of one worker."""

    def __init__(
        self,
        context: WorkerContext,
        dispatcher: Dispatcher,
        registry: Registry,
        clusters: ClusterManager,
        date: DateProvider,
        request_ids: RequestIds,
        access_logs: AccessLogs,
    ) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._registry = registry
        self._clusters = clusters
        self._date = date
        self._request_ids = request_ids
        self._access_logs = access_logs

    def build(self, listener: Listener, port: int, node: Node) -> ConnectionManagerConfig:
        """``port`` is the one the listener is really bound to, ``node`` the bootstrap's. Raises ``Refused``."""
        hcm = _connection_manager_of(listener)
        stats_prefix = f"http.{stat_name(hcm.stat_prefix)}."
        filters, router = self._filters(listener, hcm)
        suppress = router.suppress_envoy_headers
        try:
            routes = RouteTable(hcm.route_config, RouteTableSettings(suppress_envoy_headers=suppress))
        except RouteConfigError as error:
            raise Refused(f"listener {listener.name}: route_config.{error}") from None
        common, http1 = hcm.common_http_protocol_options, hcm.http_protocol_options
        buffer_limit = (
            listener.per_connection_buffer_limit_bytes.value or NO_BUFFER_LIMIT
            if listener.HasField("per_connection_buffer_limit_bytes")
            else DEFAULT_BUFFER_LIMIT
        )
        idle_s = _duration(hcm, "stream_idle_timeout", DEFAULT_STREAM_IDLE_TIMEOUT_S)
        linger_s = _duration(hcm, "delayed_close_timeout", DEFAULT_DELAYED_CLOSE_S)
        proper_case = http1.header_key_format.HasField("proper_case_words")
        chunked_field, no_body_field = encoder.framing_fields(proper_case=proper_case)
        return ConnectionManagerConfig(
            stat_prefix=hcm.stat_prefix,
            stats=self._context.stats.group(stats_prefix, ConnectionManagerStats),
            rules=HeaderRules(_header_settings(hcm, node), self._request_ids, port),
            routes=routes,
            router=RouterConfig(
                self._clusters,
                self._dispatcher,
                self._context.stats.group(stats_prefix, RouterStats),
                suppress_envoy_headers=suppress,
                dynamic_stats=router.dynamic_stats.value if router.HasField("dynamic_stats") else True,
                respect_expected_rq_timeout=router.respect_expected_rq_timeout,
                match_upstream_scheme=hcm.scheme_header_transformation.match_upstream,
                strict_check_headers=tuple(name.lower().encode() for name in router.strict_check_headers),
            ),
            filters=filters,
            access_logs=self._loggers(hcm),
            codec=CodecSettings(
                max_headers_kb=hcm.max_request_headers_kb.value or _MAX_HEADERS_KB,
                max_headers_count=common.max_headers_count.value or _MAX_HEADERS,
                allow_absolute_url=http1.allow_absolute_url.value if http1.HasField("allow_absolute_url") else True,
                accept_http_10=http1.accept_http_10,
                default_host_for_http_10=http1.default_host_for_http_10.encode(),
                enable_trailers=http1.enable_trailers,
                allow_chunked_length=http1.allow_chunked_length,
                headers_with_underscores_action=common.headers_with_underscores_action,
            ),
            date=self._date,
            encode_head=encoder.response_head_proper_case if proper_case else encoder.response_head,
            drain_timeout_s=_duration(hcm, "drain_timeout", DEFAULT_DRAIN_TIMEOUT_S),
            keep_after_bad_request=(
                http1.override_stream_error_on_invalid_http_message.value
                if http1.HasField("override_stream_error_on_invalid_http_message")
                else hcm.stream_error_on_invalid_http_message.value
            ),
            encode_head_10=encoder.response_head_10_proper_case if proper_case else encoder.response_head_10,
            chunked_field=chunked_field,
            no_body_field=no_body_field,
            on_idle=_on_stream_idle,
            buffer_limit=buffer_limit,
            idle_timeout_s=idle_s or float("inf"),
            connection_idle_timeout_s=_duration(common, "idle_timeout", DEFAULT_CONNECTION_IDLE_TIMEOUT_S),
            max_connection_duration_s=seconds(common.max_connection_duration),
            max_requests_per_connection=common.max_requests_per_connection.value,
            max_stream_duration_s=seconds(common.max_stream_duration),
            idle_timers=self._timers(idle_s, _on_stream_idle),
            header_timers=self._timers(seconds(hcm.request_headers_timeout), _on_header_timeout),
            request_timers=self._timers(seconds(hcm.request_timeout), _on_request_timeout),
            linger=self._dispatcher.timers(linger_s, _on_linger) if linger_s else None,
            proxy_100_continue=hcm.proxy_100_continue,
            enable_trailers=http1.enable_trailers,
        )

    def _timers(
        self, duration_s: float, callback: Callable[[ConnectionManager], None]
    ) -> TimerQueue[ConnectionManager] | None:
        return self._dispatcher.timers(duration_s, callback) if duration_s else None

    def _filters(
        self, listener: Listener, hcm: Any
    ) -> tuple[tuple[Callable[[], StreamFilter], ...], router_pb2.Router]:
        factories: list[Callable[[], StreamFilter]] = []
        router: router_pb2.Router | None = None
        for config in hcm.http_filters:
            type_name = config.typed_config.TypeName()
            extension = self._registry.find("http_filters", type_name)
            if extension is None:
                raise Refused(f"listener {listener.name}: no HTTP filter for {type_name or config.name}")
            if getattr(extension.module, "TERMINAL", False):
                router = router_pb2.Router()
                config.typed_config.Unpack(router)
            elif not config.disabled:
                factories.append(extension.module.create_factory(config.typed_config, self._context))
        if router is None:
            raise Refused(
                f"listener {listener.name}: http_filters must end with {router_pb2.Router.DESCRIPTOR.full_name}"
            )
        return tuple(factories), router

    def _loggers(self, hcm: Any) -> tuple[AccessLogger, ...]:
        return tuple(self._access_logs.create(config) for config in hcm.access_log)


def _connection_manager_of(listener: Listener) -> Any:
    chain = listener.filter_chains[0] if listener.filter_chains else listener.default_filter_chain
    hcm = Hcm()
    if not chain.filters or not chain.filters[-1].typed_config.Unpack(hcm):
        raise Refused(f"listener {listener.name}: its filter chain has no HTTP connection manager")
    return hcm


def _header_settings(hcm: Any, node: Node) -> HeaderSettings:
    internal = hcm.internal_address_config
    return HeaderSettings(
        use_remote_address=hcm.use_remote_address.value,
        xff_num_trusted_hops=hcm.xff_num_trusted_hops,
        skip_xff_append=hcm.skip_xff_append,
        append_x_forwarded_port=hcm.append_x_forwarded_port,
        internal_unix_sockets=internal.unix_sockets,
        internal_networks=(
            tuple(f"{r.address_prefix}/{r.prefix_len.value}" for r in internal.cidr_ranges)
            if hcm.HasField("internal_address_config")
            else ()
        ),
        generate_request_id=hcm.generate_request_id.value if hcm.HasField("generate_request_id") else True,
        preserve_external_request_id=hcm.preserve_external_request_id,
        always_set_request_id_in_response=hcm.always_set_request_id_in_response,
        via=hcm.via.encode(),
        server_name=hcm.server_name.encode() or b"envoy",
        server_header_transformation=_SERVER_HEADER[hcm.server_header_transformation],
        scheme_to_overwrite=hcm.scheme_header_transformation.scheme_to_overwrite.encode(),
        normalize_path=hcm.normalize_path.value,
        merge_slashes=hcm.merge_slashes,
        escaped_slashes=_ESCAPED_SLASHES[hcm.path_with_escaped_slashes_action],
        strip_any_port=hcm.strip_any_host_port,
        strip_matching_port=hcm.strip_matching_host_port,
        strip_trailing_dot=hcm.strip_trailing_host_dot,
        user_agent=node.cluster.encode() if hcm.add_user_agent.value else None,
        node_name=node.id.encode(),
        internal_only_headers=tuple(h.lower().encode() for h in hcm.route_config.internal_only_headers),
    )


def _duration(message: Any, field: str, default: float) -> float:
    return seconds(getattr(message, field)) if message.HasField(field) else default


def _on_stream_idle(manager: ConnectionManager) -> None:
    manager.on_stream_idle()


def _on_header_timeout(manager: ConnectionManager) -> None:
    manager.on_header_timeout()


def _on_request_timeout(manager: ConnectionManager) -> None:
    manager.on_request_timeout()


def _on_linger(connection: Connection) -> None:
    connection.on_linger_timeout()


def machine_address(family: int) -> str:
    """An address of this machine that is not loopback, as Envoy finds it for x-forwarded-for; loopback if none.

    Asks the routing table where a packet to a documentation address would leave; nothing is sent.
    """
    target = ("2001:db8::1", 9) if family == socket.AF_INET6 else ("192.0.2.1", 9)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(target)
            return str(sock.getsockname()[0])
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"

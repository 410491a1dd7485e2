"""From ``envoy.config.cluster.v3.Cluster`` to a running cluster.

The configuration layer has validated the message; what only shows here (a balancer nobody knows) is ``Refused``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from workerproxy.control.stats import stat_name
from workerproxy.worker.context import Refused
from workerproxy.worker.http.codec.settings import CodecSettings
from workerproxy.worker.upstream.circuit_breakers import DEFAULT_LIMIT, DEFAULT_RETRIES, CircuitBreakers, Limit
from workerproxy.worker.upstream.cluster import (
    DEFAULT_BUFFER_LIMIT,
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_IDLE_TIMEOUT_S,
    DEFAULT_PANIC_THRESHOLD,
    NO_BUFFER_LIMIT,
    Cluster,
    ClusterSettings,
    TcpKeepalive,
    resolved_hosts,
)
from workerproxy.worker.upstream.code_stats import CodeStats
from workerproxy.worker.upstream.host import DEGRADED, HEALTHY, UNHEALTHY, Endpoint, Host, ip_host, pipe_host
from workerproxy.worker.upstream.stats import ClusterStats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from workerproxy.extensions.base import LoadBalancer
    from workerproxy.extensions.registry import Registry
    from workerproxy.worker.context import WorkerContext
    from workerproxy.worker.network.dispatcher import Dispatcher

HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MAX_HEADERS_KB: Final = 80  # of a response; for HTTP/1 Envoy allows more than for a request
_MAX_HEADERS: Final = 100
_UNFIT: Final = frozenset({health_check_pb2.UNHEALTHY, health_check_pb2.DRAINING, health_check_pb2.TIMEOUT})


def seconds(duration: Any) -> float:
    """A protobuf duration in seconds."""
    whole, nanos = int(duration.seconds), int(duration.nanos)
    return whole + nanos / 1e9


class ClusterBuilder:
    """Builds the clusters of one worker."""

    def __init__(self, context: WorkerContext, dispatcher: Dispatcher, registry: Registry) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._registry = registry

    def build(self, config: cluster_pb2.Cluster, slots: Mapping[str, int], previous: Cluster | None) -> Cluster:
        """The cluster, without hosts; ``previous`` itself when all but the endpoints is as it was."""
        fingerprint = _fingerprint(config)
        if previous is not None and previous.fingerprint == fingerprint:
            return previous
        settings = _settings(config)
        prefix = f"cluster.{stat_name(settings.stat_name)}."
        writer = self._context.stats
        codes = previous.codes if previous is not None else CodeStats(writer, prefix)
        return Cluster(
            settings,
            self._dispatcher,
            writer.group(prefix, ClusterStats),
            codes,
            self._breakers(config, slots),
            self._balancer(config),
            fingerprint,
        )

    def _breakers(self, config: cluster_pb2.Cluster, slots: Mapping[str, int]) -> CircuitBreakers:
        chosen = next((t for t in config.circuit_breakers.thresholds if t.priority == 0), None)
        board = self._context.board

        def limit(kind: str, field: str, default: int) -> Limit:
            maximum = getattr(chosen, field).value if chosen is not None and chosen.HasField(field) else default
            cell = board.cell(slots[f"{config.name}/default/{kind}"])
            return Limit(cell, maximum, board.rows)

        return CircuitBreakers(
            limit("connections", "max_connections", DEFAULT_LIMIT),
            limit("pending", "max_pending_requests", DEFAULT_LIMIT),
            limit("requests", "max_requests", DEFAULT_LIMIT),
            limit("retries", "max_retries", DEFAULT_RETRIES),
        )

    def _balancer(self, config: cluster_pb2.Cluster) -> Callable[[Sequence[Host]], LoadBalancer[Host]]:
        policy = cluster_pb2.Cluster.LbPolicy.Name(config.lb_policy)
        for extension in self._registry.of("load_balancers"):
            if policy == extension.module.LB_POLICY:
                create: Callable[[Sequence[Host]], LoadBalancer[Host]] = extension.module.create
                return create
        raise Refused(f"cluster {config.name}: no load balancer for lb_policy {policy}")


def _fingerprint(config: cluster_pb2.Cluster) -> bytes:
    copy = cluster_pb2.Cluster()
    copy.CopyFrom(config)
    if config.type != cluster_pb2.Cluster.LOGICAL_DNS:  # its one endpoint is the cluster
        copy.ClearField("load_assignment")
    serialized: bytes = copy.SerializeToString(deterministic=True)
    return serialized


def _settings(config: cluster_pb2.Cluster) -> ClusterSettings:
    common, http1 = config.common_http_protocol_options, config.http_protocol_options
    if HTTP_OPTIONS in config.typed_extension_protocol_options:
        options = http_protocol_options_pb2.HttpProtocolOptions()
        config.typed_extension_protocol_options[HTTP_OPTIONS].Unpack(options)
        common, http1 = options.common_http_protocol_options, options.explicit_http_config.http_protocol_options
    max_requests = common.max_requests_per_connection if common.HasField("max_requests_per_connection") else None
    if max_requests is None and config.HasField("max_requests_per_connection"):
        max_requests = config.max_requests_per_connection
    keepalive = config.upstream_connection_options.tcp_keepalive
    return ClusterSettings(
        name=config.name,
        stat_name=config.alt_stat_name or config.name,
        codec=CodecSettings(
            max_headers_kb=common.max_response_headers_kb.value or _MAX_HEADERS_KB,
            max_headers_count=common.max_headers_count.value or _MAX_HEADERS,
            enable_trailers=http1.enable_trailers,
            allow_chunked_length=http1.allow_chunked_length,
            headers_with_underscores_action=common.headers_with_underscores_action,
        ),
        connect_timeout_s=(
            seconds(config.connect_timeout) if config.HasField("connect_timeout") else DEFAULT_CONNECT_TIMEOUT_S
        ),
        idle_timeout_s=seconds(common.idle_timeout) if common.HasField("idle_timeout") else DEFAULT_IDLE_TIMEOUT_S,
        max_connection_duration_s=seconds(common.max_connection_duration),
        max_stream_duration_s=seconds(common.max_stream_duration),
        max_requests_per_connection=max_requests.value if max_requests is not None else 0,
        buffer_limit=(
            config.per_connection_buffer_limit_bytes.value or NO_BUFFER_LIMIT
            if config.HasField("per_connection_buffer_limit_bytes")
            else DEFAULT_BUFFER_LIMIT
        ),
        panic_threshold=(
            config.common_lb_config.healthy_panic_threshold.value
            if config.common_lb_config.HasField("healthy_panic_threshold")
            else DEFAULT_PANIC_THRESHOLD
        ),
        fail_traffic_on_panic=config.common_lb_config.zone_aware_lb_config.fail_traffic_on_panic,
        proper_case=http1.header_key_format.HasField("proper_case_words"),
        tcp_keepalive=(
            TcpKeepalive(
                keepalive.keepalive_probes.value, keepalive.keepalive_time.value, keepalive.keepalive_interval.value
            )
            if config.upstream_connection_options.HasField("tcp_keepalive")
            else None
        ),
    )


def endpoints_of(config: cluster_pb2.Cluster) -> tuple[Endpoint, ...]:
    """The endpoints of a DNS cluster in the order in which ``control.messages.Hosts`` counts them; none for STATIC."""
    if config.type == cluster_pb2.Cluster.STATIC:
        return ()
    return tuple(
        Endpoint(
            member.endpoint.hostname or member.endpoint.address.socket_address.address,
            member.load_balancing_weight.value or 1,
            _health(member.health_status),
            config.type == cluster_pb2.Cluster.LOGICAL_DNS,
        )
        for locality in config.load_assignment.endpoints
        for member in locality.lb_endpoints
    )


def hosts_of(config: cluster_pb2.Cluster, resolved: Sequence[tuple[str, int, int]] | None) -> list[Host]:
    """The hosts of a cluster: its endpoints, or for a DNS cluster what they resolve to.

    ``resolved`` (``control.messages.Hosts``) is None for a STATIC cluster, and while nothing is resolved.
    """
    if config.type != cluster_pb2.Cluster.STATIC:
        return resolved_hosts(endpoints_of(config), resolved or ())
    hosts: list[Host] = []
    for locality in config.load_assignment.endpoints:
        for member in locality.lb_endpoints:
            weight = member.load_balancing_weight.value or 1
            health = _health(member.health_status)
            address = member.endpoint.address
            if address.HasField("pipe"):
                hosts.append(pipe_host(address.pipe.path, member.endpoint.hostname, weight, health))
            else:
                at = address.socket_address
                hosts.append(ip_host(at.address, at.port_value, member.endpoint.hostname, weight, health))
    return hosts


def _health(status: int) -> int:
    if status in _UNFIT:
        return UNHEALTHY
    return DEGRADED if status == health_check_pb2.DEGRADED else HEALTHY

"""What workerproxy reads of Envoy's configuration: plain data, message by message, one field a line.

A field that is set in a file and that stands neither here, nor in ``supported_routes``, nor in an extension's
``READS`` is refused (``support_check``). ``docs/supported.md`` is generated from this. To support one more field: read
it in the builder that turns the message into a runtime object, and add its line here.

``READ``: the field is read. ``note(...)``: the same, with a remark for the documentation. ``only(...)``: read, but
these values alone are supported. What Envoy itself ignores by definition (free-text names, metadata for others)
counts as read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from workerproxy.config.runtime import CONNECTION_LIMIT, GLOBAL_CONNECTION_LIMIT


@dataclass(frozen=True, slots=True)
class Support:
    """How one field is supported. ``values`` None: whatever Envoy allows; else these alone, enum values by name."""

    note: str = ""
    values: tuple[str | bool | int, ...] | None = None


Fields: TypeAlias = Mapping[str, Support]

READ: Final = Support()


def note(text: str) -> Support:
    return Support(text)


def only(*values: str | bool | int, note: str = "") -> Support:
    return Support(note, values)


_FREE_TEXT: Final = note("free text")
_HCM: Final = "envoy.extensions.filters.network.http_connection_manager.v3"

SUPPORTED: Final[Mapping[str, Fields]] = {
    # --- the bootstrap -----------------------------------------------------------------------------------------
    "envoy.config.bootstrap.v3.Bootstrap": {
        "node": READ,
        "static_resources": READ,
        "admin": READ,
        "layered_runtime": READ,
        "stats_flush_interval": note("there are no sinks to flush to"),
        "watchdogs": READ,
        "watchdog": note("deprecated by Envoy: for workers and main thread alike"),
    },
    "envoy.config.bootstrap.v3.Bootstrap.StaticResources": {
        "listeners": READ,
        "clusters": READ,
    },
    "envoy.config.bootstrap.v3.Watchdogs": {
        "main_thread_watchdog": note("its late turns are counted; systemd's watchdog is what replaces a main process"),
        "worker_watchdog": READ,
    },
    "envoy.config.bootstrap.v3.Watchdog": {
        "miss_timeout": READ,
        "megamiss_timeout": note("then the worker's stack is written to the log"),
        "kill_timeout": note("then the worker is replaced; 30 s when not given, 0 for never; for workers only"),
        "max_kill_timeout_jitter": READ,
    },
    "envoy.config.bootstrap.v3.Admin": {
        "address": READ,
        "access_log_path": only("/dev/null", note="the admin pages write no access log yet"),
        "profile_path": note("nothing is profiled into it"),
        "allow_paths": READ,
        "ignore_global_conn_limit": note("admin connections are never limited"),
    },
    "envoy.config.bootstrap.v3.LayeredRuntime": {
        "layers": READ,
    },
    "envoy.config.bootstrap.v3.RuntimeLayer": {
        "name": _FREE_TEXT,
        "static_layer": note("only the keys listed under Runtime keys"),
        "admin_layer": note("accepted; there is no page to change it yet"),
    },
    "envoy.config.core.v3.Node": {
        "id": READ,
        "cluster": READ,
        "locality": READ,
        "metadata": READ,
        "user_agent_name": _FREE_TEXT,
        "user_agent_version": _FREE_TEXT,
    },
    "envoy.config.core.v3.Locality": {
        "region": READ,
        "zone": READ,
        "sub_zone": READ,
    },
    "envoy.config.core.v3.Metadata": {
        "filter_metadata": note("data for others"),
        "typed_filter_metadata": note("data for others, of any type"),
    },
    # --- addresses and sockets -----------------------------------------------------------------------------------
    "envoy.config.core.v3.Address": {
        "socket_address": READ,
        "pipe": READ,
    },
    "envoy.config.core.v3.SocketAddress": {
        "protocol": only("TCP"),
        "address": READ,
        "port_value": READ,
        "ipv4_compat": READ,
    },
    "envoy.config.core.v3.Pipe": {
        "path": note("a leading @ names an abstract socket"),
        "mode": READ,
    },
    "envoy.config.core.v3.SocketOption": {
        "description": _FREE_TEXT,
        "level": READ,
        "name": READ,
        "int_value": READ,
        "buf_value": READ,
        "state": READ,
    },
    "envoy.config.core.v3.TcpKeepalive": {
        "keepalive_probes": READ,
        "keepalive_time": READ,
        "keepalive_interval": READ,
    },
    "envoy.config.core.v3.CidrRange": {
        "address_prefix": READ,
        "prefix_len": READ,
    },
    # --- listeners -----------------------------------------------------------------------------------------------
    "envoy.config.listener.v3.Listener": {
        "name": READ,
        "address": READ,
        "stat_prefix": READ,
        "filter_chains": note("one without match, or default_filter_chain alone"),
        "default_filter_chain": READ,
        "per_connection_buffer_limit_bytes": READ,
        "metadata": READ,
        "tcp_backlog_size": READ,
        "connection_balance_config": READ,
        "enable_reuse_port": note("false: one socket for all workers; one connection may wake several"),
        "freebind": READ,
        "transparent": READ,
        "tcp_fast_open_queue_length": READ,
        "socket_options": READ,
        "bind_to_port": only(True),
        "traffic_direction": READ,
        "listener_filters_timeout": note("there are no listener filters to wait for"),
        "continue_on_listener_filters_timeout": note("there are no listener filters to wait for"),
    },
    "envoy.config.listener.v3.Listener.ConnectionBalanceConfig": {
        "exact_balance": note("an accepted connection goes to the worker with the fewest of its listener"),
    },
    "envoy.config.listener.v3.Listener.ConnectionBalanceConfig.ExactBalance": {},
    "envoy.config.listener.v3.FilterChain": {
        "name": _FREE_TEXT,
        "filters": note("the HTTP connection manager alone"),
        "filter_chain_match": note("only without criteria"),
        "metadata": READ,
    },
    "envoy.config.listener.v3.FilterChainMatch": {},
    "envoy.config.listener.v3.Filter": {
        "name": _FREE_TEXT,
        "typed_config": READ,
    },
    # --- the HTTP connection manager -----------------------------------------------------------------------------
    f"{_HCM}.HttpConnectionManager": {
        "codec_type": only("AUTO", "HTTP1", note="AUTO finds HTTP/1 only"),
        "stat_prefix": READ,
        "route_config": READ,
        "http_filters": READ,
        "add_user_agent": READ,
        "common_http_protocol_options": READ,
        "http_protocol_options": READ,
        "server_name": READ,
        "server_header_transformation": READ,
        "scheme_header_transformation": READ,
        "max_request_headers_kb": READ,
        "stream_idle_timeout": READ,
        "request_timeout": READ,
        "request_headers_timeout": READ,
        "drain_timeout": READ,
        "delayed_close_timeout": READ,
        "access_log": READ,
        "use_remote_address": READ,
        "xff_num_trusted_hops": READ,
        "internal_address_config": READ,
        "skip_xff_append": READ,
        "via": READ,
        "generate_request_id": READ,
        "preserve_external_request_id": READ,
        "always_set_request_id_in_response": READ,
        "forward_client_cert_details": only("SANITIZE", note="there is no TLS yet"),
        "proxy_100_continue": READ,
        "stream_error_on_invalid_http_message": READ,
        "normalize_path": READ,
        "merge_slashes": READ,
        "path_with_escaped_slashes_action": READ,
        "strip_matching_host_port": READ,
        "strip_any_host_port": READ,
        "strip_trailing_host_dot": READ,
        "append_x_forwarded_port": READ,
    },
    f"{_HCM}.HttpConnectionManager.InternalAddressConfig": {
        "unix_sockets": READ,
        "cidr_ranges": READ,
    },
    f"{_HCM}.HttpFilter": {
        "name": READ,
        "typed_config": READ,
        "is_optional": note("a filter of unknown type is refused all the same"),
        "disabled": READ,
    },
    "envoy.config.core.v3.SchemeHeaderTransformation": {
        "scheme_to_overwrite": READ,
        "match_upstream": READ,
    },
    "envoy.config.core.v3.HttpProtocolOptions": {
        "idle_timeout": READ,
        "max_connection_duration": READ,
        "max_headers_count": READ,
        "max_response_headers_kb": READ,
        "max_stream_duration": READ,
        "headers_with_underscores_action": READ,
        "max_requests_per_connection": READ,
    },
    "envoy.config.core.v3.Http1ProtocolOptions": {
        "allow_absolute_url": READ,
        "accept_http_10": READ,
        "default_host_for_http_10": READ,
        "header_key_format": READ,
        "enable_trailers": READ,
        "allow_chunked_length": READ,
        "override_stream_error_on_invalid_http_message": READ,
        "use_balsa_parser": note("there is one parser; it is at least as strict as either of Envoy's"),
    },
    "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat": {
        "proper_case_words": READ,
    },
    "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords": {},
    # --- clusters ------------------------------------------------------------------------------------------------
    "envoy.config.cluster.v3.Cluster": {
        "name": READ,
        "alt_stat_name": READ,
        "type": only(
            "STATIC", "STRICT_DNS", "LOGICAL_DNS", note="of LOGICAL_DNS the first address alone, without Happy Eyeballs"
        ),
        "connect_timeout": READ,
        "per_connection_buffer_limit_bytes": READ,
        "lb_policy": note("those whose module is in extensions/load_balancers"),
        "load_assignment": READ,
        "max_requests_per_connection": READ,
        "circuit_breakers": READ,
        "common_http_protocol_options": READ,
        "http_protocol_options": READ,
        "typed_extension_protocol_options": READ,
        "dns_refresh_rate": READ,
        "dns_jitter": READ,
        "dns_failure_refresh_rate": READ,
        "respect_dns_ttl": READ,
        "dns_lookup_family": READ,
        "wait_for_warm_on_init": note("workers start when every cluster is resolved or has failed once"),
        "cleanup_interval": note("concerns ORIGINAL_DST clusters only"),
        "common_lb_config": READ,
        "metadata": READ,
        "upstream_connection_options": READ,
    },
    "envoy.config.cluster.v3.Cluster.RefreshRate": {
        "base_interval": READ,
        "max_interval": READ,
    },
    "envoy.config.cluster.v3.Cluster.CommonLbConfig": {
        "healthy_panic_threshold": READ,
        "zone_aware_lb_config": READ,
        "update_merge_window": note("there are no updates of health or weight to be merged"),
        "ignore_new_hosts_until_first_hc": note("there is no active health checking"),
    },
    "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig": {
        "routing_enabled": note("zones count only with cluster_manager.local_cluster_name, which is refused"),
        "min_cluster_size": note("the same"),
        "fail_traffic_on_panic": READ,
    },
    "envoy.type.v3.Percent": {
        "value": READ,
    },
    "envoy.config.cluster.v3.CircuitBreakers": {
        "thresholds": READ,
    },
    "envoy.config.cluster.v3.CircuitBreakers.Thresholds": {
        "priority": note("HIGH limits nothing: routes have no priority yet"),
        "max_connections": READ,
        "max_pending_requests": READ,
        "max_requests": READ,
        "max_retries": READ,
        "track_remaining": note("without remaining_cx_pools: pools are not limited"),
    },
    "envoy.config.cluster.v3.UpstreamConnectionOptions": {
        "tcp_keepalive": READ,
    },
    "envoy.config.endpoint.v3.ClusterLoadAssignment": {
        "cluster_name": note("need not be the cluster's name"),
        "endpoints": READ,
    },
    "envoy.config.endpoint.v3.LocalityLbEndpoints": {
        "locality": note("hosts of all localities are balanced together"),
        "lb_endpoints": READ,
        "load_balancing_weight": note("counts only with locality_weighted_lb_config, which is refused"),
        "priority": only(0),
        "metadata": READ,
    },
    "envoy.config.endpoint.v3.LbEndpoint": {
        "endpoint": READ,
        "health_status": READ,
        "metadata": READ,
        "load_balancing_weight": READ,
    },
    "envoy.config.endpoint.v3.Endpoint": {
        "address": READ,
        "hostname": READ,
    },
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "common_http_protocol_options": READ,
        "explicit_http_config": READ,
    },
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig": {
        "http_protocol_options": READ,
    },
    # --- access logs: the loggers themselves are in extensions/access_loggers -------------------------------------
    "envoy.config.accesslog.v3.AccessLog": {
        "name": _FREE_TEXT,
        "typed_config": READ,
    },
}

# Which configuration types a field of type Any may hold: those of the extension modules in a folder of
# ``extensions/``, or types listed in SUPPORTED. A field that is not here takes any type (data for others).
EXTENSION_POINTS: Final[Mapping[str, str | tuple[str, ...]]] = {
    "envoy.config.listener.v3.Filter.typed_config": (f"{_HCM}.HttpConnectionManager",),
    f"{_HCM}.HttpFilter.typed_config": "http_filters",
    "envoy.config.accesslog.v3.AccessLog.typed_config": "access_loggers",
    "envoy.config.cluster.v3.Cluster.typed_extension_protocol_options": (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    ),
}

# Runtime keys that something reads, with {} for a name in the middle. All are whole numbers.
RUNTIME_KEYS: Final[Mapping[str, str]] = {
    CONNECTION_LIMIT: "how many connections the listener of this name may have, over all workers",
    GLOBAL_CONNECTION_LIMIT: "how many connections all listeners may have together, over all workers",
}

# Runtime keys that only choose between an old and a new behaviour of Envoy's own code: accepted with a warning.
RUNTIME_PREFIXES_WITHOUT_EFFECT: Final = ("envoy.reloadable_features.", "envoy.restart_features.", "re2.")

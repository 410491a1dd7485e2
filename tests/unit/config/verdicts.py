"""Small configurations and what Envoy 1.40 says of each; ``test_verdicts`` holds the table against both programs."""

from __future__ import annotations

from typing import Final

from tests.unit.config.documents import (
    ADDRESS,
    ROUTER,
    ROUTER_TYPE,
    ROUTES,
    cluster,
    document,
    hcm,
    listener,
    with_cluster,
    with_hcm,
    with_listener,
    with_routes,
)


def _duration(text: str) -> str:
    return with_hcm(f", stream_idle_timeout: {text}")


def _integer(text: str) -> str:
    return with_cluster(f", per_connection_buffer_limit_bytes: {text}")


def _endpoint(address: str, cluster_type: str = "STATIC") -> str:
    endpoint = f"{{endpoint: {{address: {address}}}}}"
    return with_cluster(f", type: {cluster_type}", endpoints=f"[{{lb_endpoints: [{endpoint}]}}]")


def _socket(host: str, port: str = "port_value: 1") -> str:
    return f'{{socket_address: {{address: "{host}", {port}}}}}'


def _added(header: str, value: str = "x") -> str:
    options = f'[{{header: {{key: "{header}", value: "{value}"}}}}]'
    return with_routes(f"[{{match: {{prefix: /}}, route: {{cluster: c}}, request_headers_to_add: {options}}}]")


def _hosts(first: str, second: str) -> str:
    hosts = f'{{name: a, domains: ["{first}"], routes: {ROUTES}}}, {{name: b, domains: ["{second}"], routes: {ROUTES}}}'
    return with_hcm(virtual_hosts=f"[{hosts}]")


def _runtime(layer: str) -> str:
    return document(more=f"layered_runtime: {{layers: [{layer}]}}\n")


_MATCH: Final = "match: {prefix: /}"
_LOCAL: Final = f"{{endpoint: {{address: {_socket('127.0.0.1')}}}}}"
_LOCALHOST: Final = f"{{endpoint: {{address: {_socket('localhost')}}}}}"
_CHAIN: Final = f"{{filters: [{hcm()}]}}"

ACCEPTED: Final[dict[str, str | bytes]] = {
    "connection limits in the runtime": _runtime(
        "{name: a, static_layer: {envoy.resource_limits: {listener: {l: {connection_limit: 3}}}, "
        'overload.global_downstream_max_connections: "50000"}}'
    ),
    "a breaker that tells what remains": with_cluster(
        ", circuit_breakers: {thresholds: [{track_remaining: true, max_connections: 7}]}"
    ),
    "options of the listening socket": with_listener(
        ", enable_reuse_port: false, freebind: true, tcp_fast_open_queue_length: 16, "
        "socket_options: [{description: keep alive, level: 1, name: 9, int_value: 1, state: STATE_LISTENING}]"
    ),
    "admin paths": document(
        more=f"admin: {{address: {ADDRESS}, allow_paths: [{{exact: /ready}}, {{prefix: /stats}}]}}\n"
    ),
    "limits of a priority no route has": with_cluster(
        ", circuit_breakers: {thresholds: [{priority: DEFAULT, max_requests: 5}, {priority: HIGH, max_requests: 9}]}"
    ),
    "zones without a local cluster": with_cluster(
        ", common_lb_config: {update_merge_window: 1s, ignore_new_hosts_until_first_hc: true, "
        "zone_aware_lb_config: {routing_enabled: {value: 50}, min_cluster_size: 3, fail_traffic_on_panic: true}}"
    ),
    "weights of localities that nothing reads": with_cluster(
        endpoints=f"[{{load_balancing_weight: 3, locality: {{zone: a}}, lb_endpoints: [{_LOCAL}]}}]"
    ),
    "Unix sockets are internal": with_hcm(", internal_address_config: {unix_sockets: true}"),
    "the scheme of the upstream": with_hcm(", scheme_header_transformation: {match_upstream: true}"),
    "the base of all others": document(),
    "nothing set": "{}\n",
    "only the first of several documents": document() + "---\nnode: [1]\n",
    "duration with a fraction": _duration("0.25s"),
    "duration as a message": _duration("{seconds: 5}"),
    "null is unset": _duration("null"),
    "integer in quotes": _integer('"5"'),
    "integer written as a float": _integer("5.0"),
    "integer with an exponent": _integer("1e1"),
    "hexadecimal integer": _integer("0x10"),
    "octal integer": _integer("010"),
    "wrapper as a message": _integer("{value: 5}"),
    "enum in lower case": with_cluster(", type: strict_dns"),
    "enum by number": with_cluster(", type: 1"),
    "enum by number in quotes": with_cluster(', type: "1"'),
    "boolean in quotes": with_hcm(', merge_slashes: "true"'),
    "boolean as yes": with_hcm(", merge_slashes: yes"),
    "boolean as on": with_hcm(", merge_slashes: On"),
    "field name in camel case": with_cluster(", perConnectionBufferLimitBytes: 5"),
    "one value for a list": with_cluster(", circuit_breakers: {thresholds: {max_connections: 5}}"),
    "lists in lists": with_cluster(", circuit_breakers: {thresholds: [[{max_connections: 5}]]}"),
    "null in a list": with_cluster(", circuit_breakers: {thresholds: [null]}"),
    "an ignored key": document(more="!ignore x: 1\n"),
    "anchors and aliases": document(more="!ignore x: &id abc\nnode: {id: *id}\n"),
    "a key twice": document(more="node: {id: a, id: b}\n"),
    "route to an unknown cluster, not validated": with_hcm(
        route_config=(
            "{validate_clusters: false, "
            'virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: nope}}]}]}'
        )
    ),
    "a wildcard in the middle of a domain": _hosts("a*b", "c"),
    "an empty route table": with_hcm(route_config="{}"),
    "default filter chain alone": document(
        listeners=f"{{name: l, address: {ADDRESS}, default_filter_chain: {_CHAIN}}}"
    ),
    "abstract pipe": with_listener(address='{pipe: {path: "@x"}}'),
    "IPv6 address": with_listener(address=_socket("::1", "port_value: 0")),
    "host name in a DNS cluster": _endpoint(_socket("localhost"), "STRICT_DNS"),
    "one endpoint in a logical DNS cluster": _endpoint(_socket("localhost"), "LOGICAL_DNS"),
    "a cluster without endpoints": with_cluster(endpoints="[]"),
    "a cluster without assignment": document(clusters="{name: c, connect_timeout: 1s}"),
    "TypedStruct instead of the type": with_hcm(
        filters=(
            '[{name: r, typed_config: {"@type": type.googleapis.com/xds.type.v3.TypedStruct, '
            f"type_url: {ROUTER_TYPE}, value: {{suppress_envoy_headers: true}}}}}}]"
        )
    ),
    "a host of the type URL's own": with_hcm(
        filters='[{name: r, typed_config: {"@type": x/envoy.extensions.filters.http.router.v3.Router}}]'
    ),
    "cluster options in the old form": with_cluster(", http_protocol_options: {}, max_requests_per_connection: 5"),
    "runtime with nested and dotted keys": _runtime(
        "{name: a, static_layer: {envoy: {reloadable_features: {x: true}}, envoy.reloadable_features.y: false}}"
    ),
}

REFUSED: Final[dict[str, str | bytes]] = {
    "an empty file": "",
    "a comment alone": "# nothing\n",
    "a list": "[]\n",
    "a word": "abc\n",
    "tabs": "node:\n\tid: x\n",
    "an alias without anchor": "node: {id: *x}\n",
    "a list as a key": "node: {[a]: 1}\n",
    "unknown field": document(more="nope: 1\n"),
    "merge key": with_cluster(", <<: {alt_stat_name: x}"),
    "field name in capitals": with_cluster(", ALT_STAT_NAME: x"),
    "number for a string": document(clusters=cluster(name="5")),
    "boolean for a string": document(clusters=cluster(name="yes")),
    "duration in milliseconds": _duration("5ms"),
    "duration without unit": _duration("5"),
    "negative duration": _duration("-1s"),
    "duration with ten decimals": _duration("1.0000000001s"),
    "duration beyond 64-bit nanoseconds": _duration("9999999999s"),
    "duration at its open bound": document(clusters=cluster().replace("connect_timeout: 1s", "connect_timeout: 0s")),
    "fraction for an integer": _integer("1.5"),
    "negative for an unsigned": _integer("-1"),
    "too large for 32 bits": _integer("4294967296"),
    "blank before a quoted integer": _integer('" 5"'),
    "boolean for an integer": _integer("yes"),
    "number for a boolean": with_hcm(", merge_slashes: 1"),
    "unknown enum value": with_cluster(", type: STATICC"),
    "undefined enum number": with_cluster(", type: 99"),
    "two fields of a oneof": with_cluster(", type: STATIC, cluster_type: {name: x}"),
    "a value for a message": document(clusters="5"),
    "@type without a host": with_hcm(
        filters='[{name: r, typed_config: {"@type": envoy.extensions.filters.http.router.v3.Router}}]'
    ),
    "@type unknown": with_hcm(filters=f'[{{name: r, typed_config: {{"@type": {ROUTER_TYPE}r}}}}]'),
    "@type of API v2": with_hcm(
        filters='[{name: r, typed_config: {"@type": type.googleapis.com/envoy.config.filter.http.router.v2.Router}}]'
    ),
    "no @type": with_hcm(filters="[{name: r, typed_config: {dynamic_stats: true}}]"),
    "no typed_config": with_hcm(filters="[{name: envoy.filters.http.router}]"),
    "filter without name": with_hcm(filters=f'[{{typed_config: {{"@type": {ROUTER_TYPE}}}}}]'),
    "string too short": document(clusters=cluster(name='""')),
    "number out of range": with_hcm(", max_request_headers_kb: 8193"),
    "port out of range": with_listener(address=_socket("127.0.0.1", "port_value: 65536")),
    "header value with a line break": with_hcm(', server_name: "a\\nb"'),
    "header name with a line break": _added("a\\nb"),
    "too few items": with_hcm(virtual_hosts=f"[{{name: v, domains: [], routes: {ROUTES}}}]"),
    "required oneof": with_routes("[{match: {}, route: {cluster: c}}]"),
    "required message": with_routes("[{route: {cluster: c}}]"),
    "required action": with_routes(f"[{{{_MATCH}}}]"),
    "pattern": with_routes("[{match: {path_separated_prefix: /a/}, route: {cluster: c}}]"),
    "status out of range": with_routes(f"[{{{_MATCH}, direct_response: {{status: 600}}}}]"),
    "cluster twice": document(clusters=f"{cluster()}, {cluster()}"),
    "address twice": document(
        listeners=f"{listener(address=_socket('127.0.0.1', 'port_value: 1234'))}, "
        f"{listener(name='m', address=_socket('127.0.0.1', 'port_value: 1234'))}"
    ),
    "unknown cluster": with_routes(f"[{{{_MATCH}, route: {{cluster: nope}}}}]"),
    "domain twice": _hosts("a.b", "a.b"),
    "domain twice in other case": _hosts("a.b", "A.b"),
    "wildcard twice": _hosts("*", "*"),
    "invalid regular expression": with_routes('[{match: {safe_regex: {regex: "(a"}}, route: {cluster: c}}]'),
    "look-ahead": with_routes('[{match: {safe_regex: {regex: "(?=a)"}}, route: {cluster: c}}]'),
    "too large regular expression": with_routes('[{match: {safe_regex: {regex: "a{500}"}}, route: {cluster: c}}]'),
    "unknown format operator": _added("x", "%FOO%"),
    "unfinished format operator": _added("x", "%REQ(a"),
    "set :path": _added(":path"),
    "set host": _added("host"),
    "remove host": with_routes(f"[{{{_MATCH}, route: {{cluster: c}}, request_headers_to_remove: [host]}}]"),
    "router not last": with_hcm(filters=f"[{ROUTER}, {ROUTER}]"),
    "router disabled": with_hcm(filters=f'[{{name: r, disabled: true, typed_config: {{"@type": {ROUTER_TYPE}}}}}]'),
    "host name to listen on": with_listener(address=_socket("localhost", "port_value: 0")),
    "no port": with_listener(address="{socket_address: {address: 127.0.0.1}}"),
    "named port": with_listener(address=_socket("127.0.0.1", "named_port: http")),
    "no address": document(listeners=f"{{name: l, filter_chains: [{_CHAIN}]}}"),
    "pipe too long": with_listener(address=f"{{pipe: {{path: {'/x' * 60}}}}}"),
    "mode of an abstract pipe": with_listener(address='{pipe: {path: "@x", mode: 0600}}'),
    "no filter chain": document(listeners=f"{{name: l, address: {ADDRESS}}}"),
    "two equal filter chains": document(
        listeners=f"{{name: l, address: {ADDRESS}, filter_chains: [{_CHAIN}, {_CHAIN}]}}"
    ),
    "two connection managers": document(
        listeners=f"{{name: l, address: {ADDRESS}, filter_chains: [{{filters: [{hcm()}, {hcm()}]}}]}}"
    ),
    "host name in a static cluster": _endpoint(_socket("localhost")),
    "endpoint without address": with_cluster(endpoints="[{lb_endpoints: [{endpoint: {}}]}]"),
    "admin on a host name": document(more=f"admin: {{address: {_socket('localhost')}}}\n"),
    "both ways to strip the port": with_hcm(", strip_any_host_port: true, strip_matching_host_port: true"),
    "invalid CIDR range": with_hcm(", internal_address_config: {cidr_ranges: [{address_prefix: x, prefix_len: 8}]}"),
    "unknown protocol options": with_cluster(
        ', typed_extension_protocol_options: {foo: {"@type": '
        "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, "
        "explicit_http_config: {http_protocol_options: {}}}}"
    ),
    "two endpoints in a logical DNS cluster": with_cluster(
        ", type: LOGICAL_DNS", endpoints=f"[{{lb_endpoints: [{_LOCALHOST}, {_LOCALHOST}]}}]"
    ),
    "two localities in a logical DNS cluster": with_cluster(
        ", type: LOGICAL_DNS", endpoints=f"[{{lb_endpoints: [{_LOCALHOST}]}}, {{lb_endpoints: []}}]"
    ),
    "runtime layer twice": _runtime("{name: a, static_layer: {}}, {name: a, static_layer: {}}"),
    "list in a runtime layer": _runtime("{name: a, static_layer: {x: [1]}}"),
    "direct response too large": with_routes(
        f"[{{{_MATCH}, direct_response: {{status: 200, body: {{inline_string: {'x' * 4097}}}}}}}]"
    ),
    "body from a missing file": with_routes(
        f"[{{{_MATCH}, direct_response: {{status: 200, body: {{filename: /nonexistent}}}}}}]"
    ),
    "weights of zero": with_routes(
        f"[{{{_MATCH}, route: {{weighted_clusters: {{clusters: [{{name: c, weight: 0}}]}}}}}}]"
    ),
}

# Envoy takes these and we do not, on purpose.
STRICTER: Final[dict[str, str | bytes]] = {
    "a connection limit that is no number": _runtime(
        "{name: a, static_layer: {envoy.resource_limits.listener.l.connection_limit: some}}"
    ),
    "listener twice (Envoy keeps the last one)": document(listeners=f"{listener()}, {listener()}"),
    "no HTTP filters (Envoy answers nothing)": with_hcm(filters="[]"),
    "a chain without filters (Envoy closes every connection)": document(
        listeners=f"{{name: l, address: {ADDRESS}, filter_chains: [{{filters: []}}]}}"
    ),
    "the same field in both spellings (Envoy takes one of them)": with_cluster(", altStatName: a, alt_stat_name: b"),
    "a file that is not UTF-8": b"node: {id: \xff}\n",
}

# Valid in Envoy, and not read here yet: refused, or a warning with --allow-unsupported.
UNSUPPORTED: Final[dict[str, str | bytes]] = {
    "UDP is no field, but a value": document(
        more="admin: {address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 0}}}\n"
    ),
    "a field of the bootstrap": document(more="stats_config: {}\n"),
    "a cluster type": document(
        clusters="{name: c, connect_timeout: 1s, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}"
    ),
    "an HTTP filter": with_hcm(
        filters='[{name: b, typed_config: {"@type": '
        f"type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 5}}}}, {ROUTER}]"
    ),
    "a codec": with_hcm(", codec_type: HTTP2"),
    "an internal listener": document(
        listeners=f"{listener()}, {{name: i, internal_listener: {{}}, filter_chains: [{_CHAIN}]}}",
        more="bootstrap_extensions: [{name: i, typed_config: {"
        '"@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener}}]\n',
    ),
    "another network filter": document(
        listeners=f"{{name: l, address: {ADDRESS}, filter_chains: [{{filters: [{{name: t, typed_config: "
        '{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, '
        "cluster: c}}]}]}"
    ),
    "an option of the connection manager": with_hcm(", upgrade_configs: [{upgrade_type: websocket}]"),
}

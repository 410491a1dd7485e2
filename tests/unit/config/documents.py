"""Small whole configurations for tests: one listener, one route table, one cluster, with one part replaced."""

from __future__ import annotations

from typing import Final

HCM_TYPE: Final = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"

ROUTER: Final = f'{{name: router, typed_config: {{"@type": {ROUTER_TYPE}}}}}'
ROUTES: Final = "[{match: {prefix: /}, route: {cluster: c}}]"
VIRTUAL_HOSTS: Final = f'[{{name: v, domains: ["*"], routes: {ROUTES}}}]'
ADDRESS: Final = "{socket_address: {address: 127.0.0.1, port_value: 0}}"
ENDPOINTS: Final = "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]"


def hcm(
    options: str = "", *, filters: str = f"[{ROUTER}]", virtual_hosts: str = VIRTUAL_HOSTS, route_config: str = ""
) -> str:
    """A network filter: the HTTP connection manager. All arguments are flow YAML; ``options`` begins with a comma."""
    routes = route_config or f"{{name: r, virtual_hosts: {virtual_hosts}}}"
    return (
        f'{{name: hcm, typed_config: {{"@type": {HCM_TYPE}, stat_prefix: s, route_config: {routes}, '
        f"http_filters: {filters}{options}}}}}"
    )


def listener(options: str = "", *, address: str = ADDRESS, filter_: str = "", name: str = "l") -> str:
    return f"{{name: {name}, address: {address}, filter_chains: [{{filters: [{filter_ or hcm()}]}}]{options}}}"


def cluster(options: str = "", *, name: str = "c", endpoints: str = ENDPOINTS) -> str:
    assignment = f"{{cluster_name: {name}, endpoints: {endpoints}}}"
    return f"{{name: {name}, connect_timeout: 1s, load_assignment: {assignment}{options}}}"


def document(*, listeners: str = "", clusters: str = "", more: str = "") -> str:
    """The whole file. ``listeners`` and ``clusters`` are comma-separated flow YAML; ``more`` is whole lines."""
    return f"static_resources:\n  listeners: [{listeners or listener()}]\n  clusters: [{clusters or cluster()}]\n{more}"


def with_hcm(options: str = "", **parts: str) -> str:
    return document(listeners=listener(filter_=hcm(options, **parts)))


def with_routes(routes: str) -> str:
    return with_hcm(virtual_hosts=f'[{{name: v, domains: ["*"], routes: {routes}}}]')


def with_cluster(options: str = "", **parts: str) -> str:
    return document(clusters=cluster(options, **parts))


def with_listener(options: str = "", **parts: str) -> str:
    return document(listeners=listener(options, **parts))

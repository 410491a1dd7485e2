"""From a ``Route`` message and the levels above it to the ``Route`` objects the router filter reads.

One message gives one object, or with weighted clusters one for each of them, so that nothing is put together per
request. Envoy's names: ``RouteEntryImplBase``, ``WeightedClusterEntry``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from workerproxy.http.joined import JOINED_IN_REQUESTS, JOINED_IN_RESPONSES
from workerproxy.http.substitution_format import struct_value
from workerproxy.worker.router.direct_response import DEFAULT_MAX_BODY_BYTES, direct_response, redirect
from workerproxy.worker.router.errors import RouteConfigError, at
from workerproxy.worker.router.header_mutation import Level, Mutation, compile_mutations, in_order
from workerproxy.worker.router.route import DIRECT_RESPONSE, REDIRECT, Route, RouteKey
from workerproxy.worker.router.route_action import (
    Choose,
    Finalize,
    apply_action,
    finalize,
    host_rewrite,
    path_rewrite,
    set_host,
    weighted_choice,
)

if TYPE_CHECKING:
    from envoy.config.route.v3.route_components_pb2 import Route as RouteConfig
    from envoy.config.route.v3.route_components_pb2 import RouteAction, RouteMatch, VirtualHost, WeightedCluster
    from envoy.config.route.v3.route_pb2 import RouteConfiguration

    from workerproxy.http.headers import ResponseHeaders
    from workerproxy.http.stream_info import StreamInfo

FinalizeResponse = Callable[["ResponseHeaders", "StreamInfo"], "bytes | None"]


class Scope(NamedTuple):
    """What a route needs to know of what is around it.

    ``known_clusters``: the names routes may refer to; None when that is not checked. ``keep_original``: leave
    ``x-envoy-original-path`` and ``-host`` behind (not with the router's ``suppress_envoy_headers``).
    """

    table: RouteConfiguration
    known_clusters: frozenset[str] | None
    keep_original: bool


class RouteBuilder:
    """Builds the routes of one virtual host. ``path`` is where that stands."""

    def __init__(self, scope: Scope, virtual_host: VirtualHost, path: str) -> None:
        self._scope = scope
        self._virtual_host = virtual_host
        self._path = path

    def build(self, config: RouteConfig, matched: bytes | None, path: str) -> tuple[tuple[Route, ...], Choose | None]:
        """The routes of a message and how to choose among them (None: there is one). Raises ``RouteConfigError``.

        ``matched`` is what a prefix rewrite replaces, None for all before the query.
        """
        action = config.WhichOneof("action")
        if action == "route":
            return self._forwarding(config, matched, path)
        route = self._new(config, path)
        if action == "direct_response":
            route.action_kind = DIRECT_RESPONSE
            route.direct_response = direct_response(
                config.direct_response, _max_body_bytes(self._scope.table), at(path, "direct_response")
            )
        elif action == "redirect":
            route.action_kind = REDIRECT
            route.direct_response = redirect(config.redirect, matched, at(path, "redirect"))
        elif action is None:
            raise RouteConfigError(path, "one of route, redirect, direct_response is needed")
        else:
            raise RouteConfigError(at(path, action), "is not supported")
        return (route,), None

    def _new(self, config: RouteConfig, path: str) -> Route:
        route = Route()
        route.name = config.name
        route.keys = self._keys(config)
        route.label = config.name or _match_text(config.match)
        route.virtual_host_name = self._virtual_host.name
        route.stat_prefix = config.stat_prefix
        if config.metadata.filter_metadata:
            route.metadata = {name: struct_value(value) for name, value in config.metadata.filter_metadata.items()}
        route.finalize_response_headers = _response(self._mutation(config, path, "response"))
        return route

    def _keys(self, config: RouteConfig) -> tuple[RouteKey, ...]:
        """See ``Route.keys``. How much of the traffic it gets does not make a route another one."""
        match = type(config.match)()
        match.CopyFrom(config.match)
        match.ClearField("runtime_fraction")
        host = self._virtual_host.name
        by_match = (host, match.SerializeToString(deterministic=True))
        return ((host, config.name), by_match) if config.name else (by_match,)

    def _mutation(self, config: RouteConfig, path: str, prefix: str) -> Mutation | None:
        """The mutations of route, virtual host and table, from most to least specific, or the other way round."""
        levels = [
            _level(config, path, prefix),
            _level(self._virtual_host, self._path, prefix),
            _level(self._scope.table, "", prefix),
        ]
        if self._scope.table.most_specific_header_mutations_wins:
            levels.reverse()  # who comes last wins
        return compile_mutations(levels, _joined(prefix))

    def _forwarding(
        self, config: RouteConfig, matched: bytes | None, path: str
    ) -> tuple[tuple[Route, ...], Choose | None]:
        action = config.route
        action_path = at(path, "route")
        request = finalize(
            self._mutation(config, path, "request"),
            host_rewrite(action, action_path),
            path_rewrite(action, matched, action_path),
            append_forwarded_host=action.append_x_forwarded_host,
            keep_original=self._scope.keep_original,
        )
        kind = action.WhichOneof("cluster_specifier")
        if kind != "weighted_clusters":
            route = self._forward(config, path, request)
            if kind == "cluster":
                route.cluster = self._known(action.cluster, at(action_path, "cluster"))
            elif kind == "cluster_header" and action.cluster_header:
                route.cluster_header = action.cluster_header.lower().encode()
            else:
                raise RouteConfigError(action_path, "one of cluster, cluster_header, weighted_clusters is needed")
            return (route,), None
        weighted_path = at(action_path, "weighted_clusters")
        choose = weighted_choice(action.weighted_clusters, weighted_path)
        routes = [
            self._weighted(self._forward(config, path, request), cluster, at(weighted_path, "clusters", index))
            for index, cluster in enumerate(action.weighted_clusters.clusters)
        ]
        return tuple(routes), choose

    def _forward(self, config: RouteConfig, path: str, request: Finalize | None) -> Route:
        route = self._new(config, path)
        action: RouteAction = config.route
        apply_action(route, action)
        route.include_request_attempt_count = self._virtual_host.include_request_attempt_count
        route.include_attempt_count_in_response = self._virtual_host.include_attempt_count_in_response
        route.finalize_request_headers = request
        return route

    def _weighted(self, route: Route, cluster: WeightedCluster.ClusterWeight, path: str) -> Route:
        """The route for one weighted cluster, whose own mutations come before all others."""
        if cluster.name:
            route.cluster = self._known(cluster.name, at(path, "name"))
        else:
            route.cluster_header = cluster.cluster_header.lower().encode()
        own = compile_mutations([_level(cluster, path, "request")], JOINED_IN_REQUESTS)
        host = set_host(cluster.host_rewrite_literal.encode()) if cluster.host_rewrite_literal else None
        request = [step for step in (own, host, route.finalize_request_headers) if step is not None]
        route.finalize_request_headers = in_order(request)
        answer = _response(compile_mutations([_level(cluster, path, "response")], JOINED_IN_RESPONSES))
        response = [step for step in (answer, route.finalize_response_headers) if step is not None]
        route.finalize_response_headers = in_order(response)
        return route

    def _known(self, name: str, path: str) -> str:
        if self._scope.known_clusters is not None and name not in self._scope.known_clusters:
            raise RouteConfigError(path, f"unknown cluster {name!r}")
        return name


def _level(
    config: RouteConfiguration | VirtualHost | RouteConfig | WeightedCluster.ClusterWeight, path: str, prefix: str
) -> Level:
    to_add = getattr(config, f"{prefix}_headers_to_add")
    return Level(to_add, getattr(config, f"{prefix}_headers_to_remove"), path, prefix)


def _match_text(match: RouteMatch) -> str:
    kind = match.WhichOneof("path_specifier")
    if kind is None:
        return ""
    value = getattr(match, kind)
    return f"{kind} {value if isinstance(value, str) else value.regex}"


def _joined(prefix: str) -> frozenset[bytes]:
    return JOINED_IN_REQUESTS if prefix == "request" else JOINED_IN_RESPONSES


def _response(mutation: Mutation | None) -> FinalizeResponse | None:
    """The mutation of a response, whose own headers its formats read (``%RESP(X)%``)."""
    if mutation is None:
        return None

    def mutate(headers: ResponseHeaders, info: StreamInfo) -> bytes | None:
        info.response_headers = headers
        return mutation(headers, info)

    return mutate


def _max_body_bytes(table: RouteConfiguration) -> int:
    if table.HasField("max_direct_response_body_size_bytes"):
        return int(table.max_direct_response_body_size_bytes.value)
    return DEFAULT_MAX_BODY_BYTES

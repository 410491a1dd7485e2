"""A virtual host: its routes in order, and the first that matches a request.

Built from a ``VirtualHost`` message; per request only ``find`` runs. Envoy's names: ``VirtualHostImpl``,
``RouteEntryImplBase::matchRoute``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from workerproxy.http.matchers import MatcherError, fraction_test, header_test, query_parameter_test
from workerproxy.http.query import first_values
from workerproxy.worker.router.direct_response import TlsRedirect
from workerproxy.worker.router.errors import RouteConfigError, at
from workerproxy.worker.router.path_match import path_match
from workerproxy.worker.router.rewrite import path_length
from workerproxy.worker.router.route import REDIRECT, Route
from workerproxy.worker.router.route_builder import RouteBuilder, Scope

if TYPE_CHECKING:
    from envoy.config.route.v3.route_components_pb2 import Route as RouteConfig
    from envoy.config.route.v3.route_components_pb2 import RouteMatch, VirtualHost

    from workerproxy.http.headers import RequestHeaders
    from workerproxy.worker.router.route_action import Choose

Condition = Callable[["RequestHeaders", int], bool]  # the headers and the request's random number

# VirtualHost.TlsRequirementType
TLS_NONE: Final = 0
TLS_EXTERNAL_ONLY: Final = 1
TLS_ALL: Final = 2


class Entry(NamedTuple):
    """One of the routes. ``choose`` picks among ``routes`` (weighted clusters); None: there is only one."""

    path_test: Callable[[bytes], Any]
    conditions: tuple[Condition, ...]
    routes: tuple[Route, ...]
    choose: Choose | None
    matches_any: bool  # every path that begins with "/" matches, unconditionally


class VirtualHostRoutes:
    """The routes of one virtual host. Immutable."""

    __slots__ = ("_entries", "_ignore_path_parameters", "_require_tls", "_tls_redirect", "name", "uses_random")

    def __init__(self, config: VirtualHost, scope: Scope, path: str) -> None:
        self.name = config.name
        self._require_tls = config.require_tls
        self._ignore_path_parameters = scope.table.ignore_path_parameters_in_path_matching
        self._tls_redirect = _tls_redirect(config.name)
        builder = RouteBuilder(scope, config, path)
        self._entries = tuple(
            _entry(route, builder, at(path, "routes", index)) for index, route in enumerate(config.routes)
        )
        self.uses_random = any(entry.choose is not None for entry in self._entries) or any(
            route.match.HasField("runtime_fraction") for route in config.routes
        )

    @property
    def routes(self) -> tuple[Route, ...]:
        """All of them, in order."""
        return tuple(route for entry in self._entries for route in entry.routes)

    @property
    def only_route(self) -> Route | None:
        """The route of every request whose path begins with ``/``; None when it depends on the request."""
        first = self._entries[0] if self._entries else None
        if first is None or not first.matches_any or first.choose is not None or self._require_tls != TLS_NONE:
            return None
        return first.routes[0]

    def find(self, headers: RequestHeaders, random_value: int) -> Route | None:
        """The first route that matches, or the redirect to https where TLS is required."""
        if self._require_tls != TLS_NONE and self._wants_tls(headers):
            return self._tls_redirect
        target = headers.path
        path = target[: path_length(target)] if b"?" in target or b"#" in target else target
        if self._ignore_path_parameters:
            path = path.partition(b";")[0]
        for path_test, conditions, routes, choose, _ in self._entries:
            if not path_test(path):
                continue
            for condition in conditions:
                if not condition(headers, random_value):
                    break
            else:
                return routes[0] if choose is None else routes[choose(headers, random_value)]
        return None

    def _wants_tls(self, headers: RequestHeaders) -> bool:
        if headers.get(b"x-forwarded-proto") == b"https":
            return False
        return self._require_tls == TLS_ALL or headers.get(b"x-envoy-internal") != b"true"


def _tls_redirect(virtual_host_name: str) -> Route:
    route = Route()
    route.action_kind = REDIRECT
    route.virtual_host_name = virtual_host_name
    route.direct_response = TlsRedirect()
    return route


def _entry(config: RouteConfig, builder: RouteBuilder, path: str) -> Entry:
    match = path_match(config.match, at(path, "match"))
    conditions = _conditions(config.match, at(path, "match"))
    routes, choose = builder.build(config, match.matched, path)
    return Entry(match.test, conditions, routes, choose, match.matches_any and not conditions)


def _conditions(config: RouteMatch, path: str) -> tuple[Condition, ...]:
    conditions: list[Condition] = []
    if config.HasField("runtime_fraction"):
        within = fraction_test(config.runtime_fraction.default_value)
        conditions.append(lambda headers, random_value: within(random_value))
    try:
        conditions += [_header(header_test(item, at("headers", i))) for i, item in enumerate(config.headers)]
        queries = [
            query_parameter_test(item, at("query_parameters", i)) for i, item in enumerate(config.query_parameters)
        ]
    except MatcherError as error:
        raise RouteConfigError(at(path, error.path), error.problem) from None
    if queries:
        conditions.append(_query(queries))
    return tuple(conditions)


def _header(test: Callable[[RequestHeaders], bool]) -> Condition:
    return lambda headers, random_value: test(headers)


def _query(tests: Sequence[Callable[[dict[bytes, bytes]], bool]]) -> Condition:
    def matches(headers: RequestHeaders, random_value: int) -> bool:
        parameters = first_values(headers.path.partition(b"?")[2])
        return all(test(parameters) for test in tests)

    return matches

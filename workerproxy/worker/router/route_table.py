"""The route table: which virtual host a request belongs to, and which of its routes.

Built from a ``RouteConfiguration`` and never changed; a stream keeps the table it began with. Called by the connection
manager (step 2). Envoy's names: ``ConfigImpl``, ``RouteMatcher``.

Domains are looked up exactly, then by the longest suffix (``*.foo.com``), then by the longest prefix (``foo.*``), then
``*``; upper and lower case are the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workerproxy.worker.router.errors import RouteConfigError, at
from workerproxy.worker.router.route_builder import Scope
from workerproxy.worker.router.virtual_host import VirtualHostRoutes

if TYPE_CHECKING:
    from envoy.config.route.v3.route_pb2 import RouteConfiguration

    from workerproxy.http.headers import RequestHeaders
    from workerproxy.http.stream_info import StreamInfo
    from workerproxy.worker.router.route import Route

Wildcards = tuple[tuple[int, Mapping[bytes, VirtualHostRoutes]], ...]  # longest first


@dataclass(frozen=True, slots=True)
class RouteTableSettings:
    """``known_clusters``: names that routes may refer to, None to check nothing (``validate_clusters`` false).

    ``suppress_envoy_headers``: the router's option; no ``x-envoy-original-*`` is left on requests. ``random_value``:
    gives 64 random bits per request, for runtime fractions and weighted clusters.
    """

    known_clusters: frozenset[str] | None = None
    suppress_envoy_headers: bool = False
    random_value: Callable[[], int] = lambda: random.getrandbits(64)


class RouteTable:
    """``route(headers, info)`` gives the ``Route`` of a request, or None. Raises ``RouteConfigError`` when built.

    ``only_route`` is the route of every request whose path begins with ``/``, when nothing else decides; else None.
    ``keys`` are those of all its routes (``Route.keys``).
    """

    __slots__ = (
        "_default",
        "_exact",
        "_ignore_port",
        "_prefixes",
        "_random_value",
        "_suffixes",
        "keys",
        "name",
        "only_route",
        "route",
        "virtual_hosts",
    )

    route: Callable[[RequestHeaders, StreamInfo], Route | None]
    only_route: Route | None

    def __init__(self, config: RouteConfiguration, settings: RouteTableSettings | None = None) -> None:
        settings = settings or RouteTableSettings()
        self.name = config.name
        self._ignore_port = config.ignore_port_in_host_matching
        check_clusters = config.validate_clusters.value if config.HasField("validate_clusters") else True
        scope = Scope(
            config,
            settings.known_clusters if check_clusters else None,
            not settings.suppress_envoy_headers,
        )
        self.virtual_hosts = tuple(
            VirtualHostRoutes(virtual_host, scope, at("virtual_hosts", index))
            for index, virtual_host in enumerate(config.virtual_hosts)
        )
        self.keys = frozenset(
            key for virtual_host in self.virtual_hosts for route in virtual_host.routes for key in route.keys
        )
        self._exact: dict[bytes, VirtualHostRoutes] = {}
        self._default: VirtualHostRoutes | None = None
        suffixes: dict[int, dict[bytes, VirtualHostRoutes]] = {}
        prefixes: dict[int, dict[bytes, VirtualHostRoutes]] = {}
        for index, virtual_host in enumerate(config.virtual_hosts):
            if not virtual_host.domains:
                raise RouteConfigError(at("virtual_hosts", index, "domains"), "at least one domain is needed")
            for number, domain in enumerate(virtual_host.domains):
                path = at("virtual_hosts", index, "domains", number)
                self._add(domain, self.virtual_hosts[index], suffixes, prefixes, path)
        self._suffixes = _longest_first(suffixes)
        self._prefixes = _longest_first(prefixes)
        self._random_value = settings.random_value
        self._choose_way()

    def has(self, route: Route) -> bool:
        """Whether a route, of an earlier table perhaps, is in this one too, changed or not."""
        return not route.keys or not self.keys.isdisjoint(route.keys)

    def _add(
        self,
        domain: str,
        virtual_host: VirtualHostRoutes,
        suffixes: dict[int, dict[bytes, VirtualHostRoutes]],
        prefixes: dict[int, dict[bytes, VirtualHostRoutes]],
        path: str,
    ) -> None:
        name = domain.lower().encode()
        if not name:
            raise RouteConfigError(path, "a domain is empty")
        if name == b"*":
            if self._default is not None:
                raise RouteConfigError(path, "only a single wildcard domain is permitted in a route table")
            self._default = virtual_host
            return
        if name.startswith(b"*"):
            key, known = name[1:], suffixes.setdefault(len(name) - 1, {})
        elif name.endswith(b"*"):
            key, known = name[:-1], prefixes.setdefault(len(name) - 1, {})
        else:
            key, known = name, self._exact
        if key in known:
            raise RouteConfigError(path, f"the domain {domain!r} is in the route table already")
        known[key] = virtual_host

    def _choose_way(self) -> None:
        """Decide once how much has to be looked at per request."""
        default = self._default
        self.only_route = None
        self.route = self._general
        if self._exact or self._suffixes or self._prefixes:
            return
        if default is None:
            self.route = lambda headers, info: None
            return
        only = self.only_route = default.only_route
        find = default.find
        random_value = self._random_value
        if only is not None:
            self.route = lambda headers, info: only if headers.path[:1] == b"/" else find(headers, 0)
        elif default.uses_random:
            self.route = lambda headers, info: find(headers, random_value())
        else:
            self.route = lambda headers, info: find(headers, 0)

    def _general(self, headers: RequestHeaders, info: StreamInfo) -> Route | None:
        virtual_host = self.find_virtual_host(headers.authority)
        if virtual_host is None:
            return None
        return virtual_host.find(headers, self._random_value() if virtual_host.uses_random else 0)

    def find_virtual_host(self, authority: bytes) -> VirtualHostRoutes | None:
        """The virtual host of a ``Host`` header or ``:authority``."""
        host = authority.lower()
        if self._ignore_port:
            colon = host.rfind(b":")
            if colon > host.rfind(b"]"):
                host = host[:colon]
        found = self._exact.get(host)
        if found is not None:
            return found
        size = len(host)
        for length, names in self._suffixes:
            # Strictly shorter: *.foo.com is not .foo.com.
            if length < size and (found := names.get(host[size - length :])) is not None:
                return found
        for length, names in self._prefixes:
            if length < size and (found := names.get(host[:length])) is not None:
                return found
        return self._default


def _longest_first(wildcards: dict[int, dict[bytes, VirtualHostRoutes]]) -> Wildcards:
    return tuple(sorted(wildcards.items(), reverse=True, key=lambda item: item[0]))

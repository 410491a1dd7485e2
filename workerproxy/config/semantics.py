"""What Envoy checks when it builds its objects: parts that are valid alone and wrong together.

One method per message type, found by the type's full name. Routes have a file of their own, ``semantics_routes``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from workerproxy.config import addresses
from workerproxy.config.errors import SEMANTIC, UNSUPPORTED_FIELD, UNSUPPORTED_VALUE, ConfigError
from workerproxy.config.report import Place
from workerproxy.config.runtime import flatten_runtime, whole_number
from workerproxy.config.schema import type_name_of
from workerproxy.config.semantics_routes import RouteChecks
from workerproxy.config.suggest import did_you_mean
from workerproxy.config.supported import EXTENSION_POINTS, RUNTIME_KEYS, RUNTIME_PREFIXES_WITHOUT_EFFECT
from workerproxy.config.walk import Visit
from workerproxy.extensions.registry import Registry
from workerproxy.http.matchers import MatcherError, string_test

_HCM: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_STATIC: Final = 0  # Cluster.DiscoveryType
_LOGICAL_DNS: Final = 2
_HOLDERS: Final = frozenset(
    field.rpartition(".")[0] for field in EXTENSION_POINTS if field.endswith(".typed_config")
)  # messages that name an extension


class Semantics:
    """Checks one bootstrap; ``check`` takes the visits of its walk. ``warnings`` collects what is only odd."""

    def __init__(self, bootstrap: Any, registry: Registry) -> None:
        self.warnings: list[ConfigError] = []
        self._registry = registry
        clusters = [cluster.name for cluster in bootstrap.static_resources.clusters]
        self._checks: Mapping[str, Callable[[Visit], Iterable[ConfigError]]] = {
            "envoy.config.bootstrap.v3.Bootstrap.StaticResources": self._static_resources,
            "envoy.config.bootstrap.v3.Admin": self._admin,
            "envoy.config.bootstrap.v3.Watchdogs": self._watchdogs,
            "envoy.config.bootstrap.v3.LayeredRuntime": self._layered_runtime,
            "envoy.config.bootstrap.v3.RuntimeLayer": self._runtime_layer,
            "envoy.config.listener.v3.Listener": self._listener,
            "envoy.config.listener.v3.FilterChain": self._filter_chain,
            _HCM: self._connection_manager,
            "envoy.config.core.v3.CidrRange": self._cidr_range,
            "envoy.config.cluster.v3.Cluster": self._cluster,
            **RouteChecks(clusters).checks,
        }

    def check(self, visit: Visit) -> Iterator[ConfigError]:
        """What is wrong with the message of ``visit`` beyond its fields' own rules."""
        if visit.quiet or visit.mark.failed:
            return
        if visit.kind.full_name in _HOLDERS and not visit.message.typed_config.type_url:
            config = Place.of(visit).field("typed_config")
            if not config.mark.failed:
                yield config.error("missing: its '@type' says which extension is meant, not the name")
        check = self._checks.get(visit.kind.full_name)
        if check is not None:
            yield from check(visit)

    def _static_resources(self, visit: Visit) -> Iterator[ConfigError]:
        place = Place.of(visit)
        for kind in ("clusters", "listeners"):
            names = [(item.name, place.item(kind, i)) for i, item in enumerate(getattr(visit.message, kind))]
            yield from _unique(names, "name", f"the name of a {kind[:-1]}")
        bound = [
            (addresses.canonical(listener.address), place.item("listeners", i))
            for i, listener in enumerate(visit.message.listeners)
        ]
        yield from _unique(bound, "address", "the address of a listener")

    def _admin(self, visit: Visit) -> Iterator[ConfigError]:
        place = Place.of(visit)
        if visit.message.HasField("address"):
            yield from _address(place.field("address"), addresses.listen_problem(visit.message.address))
        for index, matcher in enumerate(visit.message.allow_paths):
            try:
                string_test(matcher)
            except MatcherError as error:
                yield place.item("allow_paths", index).error(str(error))

    def _watchdogs(self, visit: Visit) -> Iterator[ConfigError]:
        if visit.message.main_thread_watchdog.kill_timeout.ToNanoseconds():
            place = Place.of(visit).field("main_thread_watchdog")
            message = "'kill_timeout' of the main process is not supported: its service manager is what replaces it"
            yield place.error(message, "systemd's WatchdogSec= (docs/systemd.md)", kind=UNSUPPORTED_VALUE)

    def _layered_runtime(self, visit: Visit) -> Iterator[ConfigError]:
        place = Place.of(visit)
        layers = visit.message.layers
        yield from _unique([(layer.name, place.item("layers", i)) for i, layer in enumerate(layers)], "name", "a layer")
        admin = [i for i, layer in enumerate(layers) if layer.HasField("admin_layer")]
        for index in admin[1:]:
            yield place.item("layers", index).error("there can be only one admin layer")

    def _runtime_layer(self, visit: Visit) -> Iterator[ConfigError]:
        if not visit.message.HasField("static_layer"):
            return
        place = Place.of(visit).field("static_layer")
        for key, value in flatten_runtime(visit.message.static_layer):
            if value.HasField("list_value") or value.HasField("null_value"):
                yield place.error(f"the runtime key '{key}' has no usable value", "a number, a boolean or a string")
            elif key.startswith(RUNTIME_PREFIXES_WITHOUT_EFFECT):
                message = f"the runtime key '{key}' concerns Envoy's own code; it has no effect here"
                self.warnings.append(place.error(message))
            elif not any(_key_matches(key, pattern) for pattern in RUNTIME_KEYS):
                hint = did_you_mean(key, RUNTIME_KEYS) if RUNTIME_KEYS else ""
                message = f"the runtime key '{key}' may mean something to Envoy but workerproxy does not read it yet"
                yield place.error(message, hint=hint, kind=UNSUPPORTED_FIELD)
            elif whole_number(value) is None:  # Envoy would go on without the limit
                yield place.error(f"the runtime key '{key}' has no usable value", "a whole number of at least 0")

    def _listener(self, visit: Visit) -> Iterator[ConfigError]:
        place, listener = Place.of(visit), visit.message
        if _is_special(listener):
            return  # other rules hold for it, and it is refused as unsupported
        if not listener.HasField("address"):
            if not visit.mark.has("address"):
                yield place.error("'address' is missing")
        else:
            yield from _address(place.field("address"), addresses.listen_problem(listener.address))
        chains = len(listener.filter_chains)
        if not chains and not listener.HasField("default_filter_chain"):
            yield place.error("no filter chain", "one entry in 'filter_chains'")
        elif chains > 1 or (chains and listener.HasField("default_filter_chain")):
            extra = place.item("filter_chains", 1) if chains > 1 else place.field("default_filter_chain")
            yield extra.error(
                "several filter chains are valid in Envoy but workerproxy does not match filter chains yet",
                "one filter chain",
                kind=UNSUPPORTED_VALUE,
            )

    def _filter_chain(self, visit: Visit) -> Iterator[ConfigError]:
        place, filters = Place.of(visit), visit.message.filters
        if not filters:
            message = "no filters: connections would be closed at once"
            yield place.error(message, "the HTTP connection manager", kind=UNSUPPORTED_VALUE)
        managers = [i for i, one in enumerate(filters) if type_name_of(one.typed_config.type_url) == _HCM]
        if managers and managers[0] != len(filters) - 1:
            yield place.item("filters", managers[0] + 1).error("the HTTP connection manager must be the last filter")

    def _connection_manager(self, visit: Visit) -> Iterator[ConfigError]:
        place, manager = Place.of(visit), visit.message
        if manager.strip_any_host_port and manager.strip_matching_host_port:
            yield place.field("strip_any_host_port").error("cannot be set together with 'strip_matching_host_port'")
        filters = manager.http_filters
        if not filters:
            message = "'http_filters' is empty: nothing would route a request"
            yield place.error(message, "the router as last filter", kind=UNSUPPORTED_VALUE)
        last = len(filters) - 1
        for index, http_filter in enumerate(filters):
            extension = self._registry.find("http_filters", type_name_of(http_filter.typed_config.type_url))
            if extension is None:
                continue  # said elsewhere
            here = place.item("http_filters", index)
            if extension.is_terminal and index != last:
                yield here.error("this filter ends the chain: no filter may come after it")
            elif extension.is_terminal and http_filter.disabled:
                yield here.field("disabled").error("the last filter of the chain cannot be disabled")
            elif not extension.is_terminal and index == last:
                yield here.error("the last HTTP filter must end the chain", "the router")

    def _cidr_range(self, visit: Visit) -> Iterator[ConfigError]:
        if not visit.message.address_prefix:
            return  # a constraint says so
        try:
            ipaddress.ip_address(visit.message.address_prefix)
        except ValueError:
            place = Place.of(visit).field("address_prefix")
            yield place.error("not an IP address", found=repr(visit.message.address_prefix))

    def _cluster(self, visit: Visit) -> Iterator[ConfigError]:
        place, cluster = Place.of(visit), visit.message
        resolved = cluster.WhichOneof("cluster_discovery_type") == "type" and cluster.type != _STATIC
        assignment = place.field("load_assignment")
        if resolved and cluster.type == _LOGICAL_DNS:
            counts = [len(locality.lb_endpoints) for locality in cluster.load_assignment.endpoints]
            if counts != [1] and not assignment.mark.failed:
                yield assignment.error(
                    "a LOGICAL_DNS cluster is one host",
                    "one entry in 'endpoints', one in 'lb_endpoints'",
                    f"{sum(counts)} endpoints in {len(counts)} localities",
                )
        for i, locality in enumerate(cluster.load_assignment.endpoints):
            group = assignment.item("endpoints", i)
            for j, endpoint in enumerate(locality.lb_endpoints):
                here = group.item("lb_endpoints", j).field("endpoint").field("address")
                if not here.mark.failed:
                    yield from _address(here, addresses.endpoint_problem(endpoint.endpoint.address, resolved=resolved))
        for key, packed in cluster.typed_extension_protocol_options.items():
            if key != _HTTP_OPTIONS and type_name_of(packed.type_url) == _HTTP_OPTIONS:
                here = place.entry("typed_extension_protocol_options", key)
                yield here.error("not a name of protocol options", repr(_HTTP_OPTIONS), repr(key))


def _is_special(listener: Any) -> bool:
    """Whether the listener is none that accepts TCP or Unix connections at an address of its own."""
    fields = ("internal_listener", "api_listener", "udp_listener_config")
    address = listener.address.socket_address
    return any(listener.HasField(field) for field in fields) or bool(address.protocol or address.resolver_name)


def _key_matches(key: str, pattern: str) -> bool:
    before, _, after = pattern.partition("{}")
    if "{}" not in pattern:
        return key == pattern
    return key.startswith(before) and key.endswith(after) and len(key) > len(before) + len(after)


def _unique(values: Iterable[tuple[str, Place]], field: str, what: str) -> Iterator[ConfigError]:
    first: dict[str, Place] = {}
    for value, place in values:
        if value and value in first:
            yield place.field(field).error(f"{what} must be unique: {value!r} is already used {first[value].where}")
        else:
            first[value] = place


def _address(place: Place, problem: addresses.AddressProblem | None) -> Iterator[ConfigError]:
    if problem is None:
        return
    for name in problem.field:
        place = place.field(name)
    yield place.error(problem.message, problem.expected, problem.found, problem.hint, SEMANTIC)

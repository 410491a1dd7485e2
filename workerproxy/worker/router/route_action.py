"""Routes that forward to a cluster: from ``RouteAction`` to one ``Route`` per cluster it may choose.

Envoy's names: ``RouteEntryImplBase``, ``WeightedClusterSpecifierPlugin``, ``HeaderClusterSpecifierPlugin``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from workerproxy.http.formatter import FormatError, compile_format
from workerproxy.http.matchers import MatcherError, regex_rewrite
from workerproxy.worker.router.errors import RouteConfigError, at
from workerproxy.worker.router.rewrite import (
    HostRewrite,
    PathRewrite,
    format_path,
    path_length,
    replace_path,
    replace_prefix,
    set_authority,
    set_path,
)

if TYPE_CHECKING:
    from envoy.config.route.v3.route_components_pb2 import RouteAction, WeightedCluster
    from google.protobuf.duration_pb2 import Duration

    from workerproxy.http.headers import RequestHeaders
    from workerproxy.http.regex import Rewrite
    from workerproxy.http.stream_info import StreamInfo
    from workerproxy.worker.router.header_mutation import Mutation
    from workerproxy.worker.router.route import Route

Finalize = Callable[["RequestHeaders", "StreamInfo"], "bytes | None"]
Choose = Callable[["RequestHeaders", int], int]  # headers and a random number -> index of the weighted cluster

NOT_FOUND_STATUS: Final = (503, 404, 500)  # RouteAction.ClusterNotFoundResponseCode
MAX_TOTAL_WEIGHT: Final = 2**32 - 1


def seconds(duration: Duration) -> float:
    """A duration as Envoy takes it: whole milliseconds."""
    return (duration.seconds * 1000 + duration.nanos // 1_000_000) / 1000


def apply_action(route: Route, config: RouteAction) -> None:
    """Set what a ``RouteAction`` says to ``route``, but for clusters and headers."""
    if config.HasField("timeout"):
        route.timeout_s = seconds(config.timeout)
    if config.HasField("idle_timeout"):
        route.idle_timeout_s = seconds(config.idle_timeout)
    if config.max_stream_duration.HasField("max_stream_duration"):
        route.max_stream_duration_s = seconds(config.max_stream_duration.max_stream_duration)
        route.timeout_s = 0.0  # the newer option replaces the older one (Envoy: usingNewTimeouts)
    route.priority = config.priority
    route.cluster_not_found_status = NOT_FOUND_STATUS[config.cluster_not_found_response_code]
    route.auto_host_rewrite = config.auto_host_rewrite.value
    route.append_forwarded_host = config.append_x_forwarded_host


def host_rewrite(config: RouteAction, path: str) -> HostRewrite | None:
    """The route's host rewrite (``auto_host_rewrite`` is the router filter's). Raises ``RouteConfigError``."""
    kind = config.WhichOneof("host_rewrite_specifier")
    if kind == "host_rewrite_literal":
        literal = config.host_rewrite_literal.encode()
        return (lambda headers, info: literal) if literal else None
    if kind == "host_rewrite_header":
        name = config.host_rewrite_header.lower().encode()
        if name.startswith(b":") or name == b"host":
            return lambda headers, info: headers.lookup(name) or b""
        return lambda headers, info: headers.get(name, b"")
    if kind == "host_rewrite_path_regex":
        return _host_of_path(_regex(config.host_rewrite_path_regex, at(path, "host_rewrite_path_regex")))
    if kind == "host_rewrite" and config.host_rewrite:
        format_bytes = _format(config.host_rewrite, at(path, "host_rewrite"))
        return lambda headers, info: format_bytes(info)
    return None


def _host_of_path(rewrite: Rewrite) -> HostRewrite:
    return lambda headers, info: rewrite(headers.path[: path_length(headers.path)])


def path_rewrite(config: RouteAction, matched: bytes | None, path: str) -> PathRewrite | None:
    """The route's path rewrite. Raises ``RouteConfigError``, also for more than one of them."""
    given = [name for name in ("prefix_rewrite", "path_rewrite") if getattr(config, name)]
    given += ["regex_rewrite"] if config.HasField("regex_rewrite") else []
    if not given:
        return None
    if len(given) > 1:
        raise RouteConfigError(path, f"only one of {' and '.join(given)} can be used")
    if given[0] == "prefix_rewrite":
        return replace_prefix(matched, config.prefix_rewrite.encode())
    if given[0] == "path_rewrite":
        return format_path(_format(config.path_rewrite, at(path, "path_rewrite")))
    return replace_path(_regex(config.regex_rewrite, at(path, "regex_rewrite")))


def _regex(config: object, path: str) -> Rewrite:
    try:
        return regex_rewrite(config)
    except MatcherError as error:
        raise RouteConfigError(path, str(error)) from None


def _format(text: str, path: str) -> Callable[[StreamInfo], bytes]:
    try:
        formatter = compile_format(text, omit_empty_values=True)
    except FormatError as error:
        raise RouteConfigError(path, str(error)) from None
    if formatter.unsafe:
        raise RouteConfigError(path, "operators whose value a client can fill with any byte cannot be used here")
    return formatter.format_bytes


def finalize(
    mutation: Mutation | None,
    host: HostRewrite | None,
    path: PathRewrite | None,
    *,
    append_forwarded_host: bool,
    keep_original: bool,
) -> Finalize | None:
    """Headers, then the host, then the path, as one callable; None when there is nothing to do."""
    if host is None and path is None:
        return mutation

    def all_of_them(headers: RequestHeaders, info: StreamInfo) -> bytes | None:
        invalid = mutation(headers, info) if mutation is not None else None
        if host is not None:
            name = host(headers, info)
            if name:
                set_authority(headers, name, append_forwarded_host=append_forwarded_host, keep_original=keep_original)
        if path is not None:
            set_path(headers, path(headers, info), keep_original=keep_original)
        return invalid

    return all_of_them


def set_host(host: bytes) -> Finalize:
    """A weighted cluster's ``host_rewrite_literal``: it leaves no trace in other headers."""

    def rewrite(headers: RequestHeaders, info: StreamInfo) -> None:
        headers.authority = host

    return rewrite


def weighted_choice(config: WeightedCluster, path: str) -> Choose:
    """Which of the weighted clusters a request goes to. Raises ``RouteConfigError``.

    The random number comes from the header ``header_name`` when that has one value which is a number.
    """
    bounds: list[int] = []
    total = 0
    for index, cluster in enumerate(config.clusters):
        if bool(cluster.name) == bool(cluster.cluster_header):
            raise RouteConfigError(at(path, "clusters", index), "exactly one of name and cluster_header is needed")
        total += cluster.weight.value
        bounds.append(total)
    if not 0 < total <= MAX_TOTAL_WEIGHT:
        raise RouteConfigError(path, f"the sum of the weights is {total}; it must be from 1 to {MAX_TOTAL_WEIGHT}")
    header = config.header_name.lower().encode()
    limits = tuple(bounds)

    def choose(headers: RequestHeaders, random_value: int) -> int:
        if header:
            values = headers.get_all(header)
            if len(values) == 1 and values[0].isdigit():
                random_value = int(values[0][:20])
        value = random_value % total
        for index, bound in enumerate(limits):
            if value < bound:
                return index
        raise AssertionError("a value below the total is below the last bound")

    return choose

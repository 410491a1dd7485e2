"""A route: what is to be done with the requests it matches.

Made once by ``virtual_host``; the router filter only reads it. One class for the three kinds of action, with class
attributes as defaults, so that the filter needs no type tests. Envoy's names: ``Router::RouteEntry``,
``DirectResponseEntry``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from workerproxy.worker.router.rewrite import set_authority

if TYPE_CHECKING:
    from workerproxy.http.headers import RequestHeaders, ResponseHeaders
    from workerproxy.http.stream_info import StreamInfo
    from workerproxy.worker.router.direct_response import DirectResponse

ROUTE: Final = 0  # forward to a cluster
DIRECT_RESPONSE: Final = 1
REDIRECT: Final = 2

DEFAULT_TIMEOUT_S: Final = 15.0  # RouteAction.timeout
PRIORITY_DEFAULT: Final = 0
PRIORITY_HIGH: Final = 1


RouteKey: TypeAlias = tuple[str, str | bytes]  # virtual host; name, or match as serialized protobuf


class Route:
    """What the router filter reads. Everything is fixed when the configuration is built."""

    name: str = ""  # %ROUTE_NAME%
    # What it is recognized by in another version of the configuration: by its name, if it has one, and by its match.
    # It is gone when none of them is in the new table. Empty for what no configuration names.
    keys: tuple[RouteKey, ...] = ()
    label: str = ""  # what the log calls it: its name, or its match
    action_kind: int = ROUTE
    virtual_host_name: str = ""
    stat_prefix: str = ""  # vhost.<virtual host>.route.<stat_prefix>.
    metadata: Mapping[str, Mapping[str, Any]] | None = None  # filter_metadata: namespace -> values

    direct_response: DirectResponse | None = None  # of DIRECT_RESPONSE and REDIRECT

    # ROUTE
    cluster: str = ""  # "" when a header names it
    cluster_header: bytes = b""
    timeout_s: float = DEFAULT_TIMEOUT_S  # of the whole response; 0 for none
    idle_timeout_s: float | None = None  # 0 for none, None for the connection manager's
    max_stream_duration_s: float | None = None  # 0 for none, None for the connection manager's
    priority: int = PRIORITY_DEFAULT
    cluster_not_found_status: int = 503
    auto_host_rewrite: bool = False  # call rewrite_to_host once an endpoint is chosen
    append_forwarded_host: bool = False
    include_request_attempt_count: bool = False
    include_attempt_count_in_response: bool = False
    # To be called once per request before it is forwarded, when not None: headers, host and path. Gives the name of a
    # header whose value would have been invalid, which Envoy answers with 503, else None.
    finalize_request_headers: Callable[[RequestHeaders, StreamInfo], bytes | None] | None = None

    # All kinds. To be called with an upstream's response or a direct response, when not None. A header whose value
    # would have been invalid is left out.
    finalize_response_headers: Callable[[ResponseHeaders, StreamInfo], bytes | None] | None = None

    def select_cluster(self, headers: RequestHeaders, info: StreamInfo) -> str:
        """The cluster's name, "" when the header that names it is missing. Ask before the headers are finalized."""
        return self.cluster or (headers.get(self.cluster_header) or b"").decode("utf-8", "surrogateescape")

    def rewrite_to_host(self, headers: RequestHeaders, host: str, keep_original: bool) -> None:
        """``auto_host_rewrite``: make the endpoint's name the host; nothing happens when it has none."""
        if host:
            set_authority(
                headers, host.encode(), append_forwarded_host=self.append_forwarded_host, keep_original=keep_original
            )

    def __repr__(self) -> str:
        kind = ("route", "direct_response", "redirect")[self.action_kind]
        target = f" -> {self.cluster or self.cluster_header.decode()}" if self.action_kind == ROUTE else ""
        return f"<Route {self.name or '-'} {kind}{target}>"

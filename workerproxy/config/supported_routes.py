"""What the route table and the formats read of Envoy's configuration: the route part of ``supported``, as plain data.

The builders are in ``worker/router``, which this package does not import; to support one more field there, add its line
here. What ``workerproxy.http`` reads it says itself (``READS``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from workerproxy.config.supported import READ, Fields, note
from workerproxy.http import data_source, matchers, substitution_format

_ROUTE: Final = "envoy.config.route.v3"

_HEADER_LISTS: Final[Fields] = {
    "request_headers_to_add": READ,
    "request_headers_to_remove": READ,
    "response_headers_to_add": READ,
    "response_headers_to_remove": READ,
}
_NO_RUNTIME: Final = note("the runtime key is not looked up: the default value counts")

SUPPORTED_ROUTES: Final[Mapping[str, Fields]] = {
    f"{_ROUTE}.RouteConfiguration": {
        "name": READ,
        "virtual_hosts": READ,
        "internal_only_headers": READ,
        "most_specific_header_mutations_wins": READ,
        "validate_clusters": READ,
        "max_direct_response_body_size_bytes": READ,
        "ignore_port_in_host_matching": READ,
        "ignore_path_parameters_in_path_matching": READ,
        "metadata": note("data for others"),
        **_HEADER_LISTS,
    },
    f"{_ROUTE}.VirtualHost": {
        "name": READ,
        "domains": READ,
        "routes": READ,
        "require_tls": READ,
        "include_request_attempt_count": READ,
        "include_attempt_count_in_response": READ,
        "metadata": note("data for others"),
        **_HEADER_LISTS,
    },
    f"{_ROUTE}.Route": {
        "name": READ,
        "match": READ,
        "route": READ,
        "redirect": READ,
        "direct_response": READ,
        "metadata": READ,
        **_HEADER_LISTS,
    },
    f"{_ROUTE}.RouteMatch": {
        "prefix": READ,
        "path": READ,
        "safe_regex": READ,
        "path_separated_prefix": READ,
        "case_sensitive": READ,
        "runtime_fraction": READ,
        "headers": READ,
        "query_parameters": READ,
    },
    f"{_ROUTE}.RouteAction": {
        "cluster": READ,
        "cluster_header": READ,
        "weighted_clusters": READ,
        "cluster_not_found_response_code": READ,
        "prefix_rewrite": READ,
        "regex_rewrite": READ,
        "path_rewrite": READ,
        "host_rewrite_literal": READ,
        "auto_host_rewrite": READ,
        "host_rewrite_header": READ,
        "host_rewrite_path_regex": READ,
        "host_rewrite": READ,
        "append_x_forwarded_host": READ,
        "timeout": READ,
        "idle_timeout": READ,
        "max_stream_duration": READ,
    },
    f"{_ROUTE}.RouteAction.MaxStreamDuration": {"max_stream_duration": READ},
    f"{_ROUTE}.WeightedCluster": {
        "clusters": READ,
        "header_name": READ,
        "total_weight": note("Envoy does not use it either: the weights' sum counts"),
    },
    f"{_ROUTE}.WeightedCluster.ClusterWeight": {
        "name": READ,
        "cluster_header": READ,
        "weight": READ,
        "host_rewrite_literal": READ,
        **_HEADER_LISTS,
    },
    f"{_ROUTE}.RedirectAction": {
        "https_redirect": READ,
        "scheme_redirect": READ,
        "host_redirect": READ,
        "port_redirect": READ,
        "path_redirect": READ,
        "prefix_rewrite": READ,
        "regex_rewrite": READ,
        "response_code": READ,
        "strip_query": READ,
    },
    f"{_ROUTE}.DirectResponseAction": {"status": READ, "body": READ},
    "envoy.config.core.v3.HeaderValueOption": {
        "header": READ,
        "append": READ,
        "append_action": READ,
        "keep_empty_value": READ,
    },
    "envoy.config.core.v3.HeaderValue": {"key": READ, "value": READ},
    "envoy.config.core.v3.RuntimeFractionalPercent": {"default_value": READ, "runtime_key": _NO_RUNTIME},
    "envoy.config.core.v3.RuntimeUInt32": {"default_value": READ, "runtime_key": _NO_RUNTIME},
    "envoy.config.accesslog.v3.AccessLog": {"filter": READ},
    **{
        message: dict.fromkeys(sorted(fields), READ)
        for module in (matchers, data_source, substitution_format)
        for message, fields in module.READS.items()
    },
}

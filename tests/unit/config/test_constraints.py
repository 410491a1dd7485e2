"""Each kind of rule of ``validate.rules``: one configuration that breaks it, with the exact report."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf.message import Message

from workerproxy.config.builder import Builder
from workerproxy.config.constraints import Constraints
from workerproxy.config.schema import Schema
from workerproxy.config.walk import walk
from workerproxy.config.yaml_text import read_yaml


def broken(text: str, full_name: str = "envoy.config.bootstrap.v3.Bootstrap") -> list[str]:
    """What is wrong with a message of that type, written as ``text``."""
    document = read_yaml("f.yaml", text)
    assert document.root is not None, document.errors
    types = Schema()
    kind = types.find(full_name)
    assert kind is not None
    message: Any = kind.message_class()
    builder = Builder("f.yaml", types)
    mark = builder.build(document.root, message)
    assert builder.errors == []
    return [str(error) for error in _check(message, mark, types)]


def _check(message: Message, mark: Any, types: Schema) -> list[Any]:
    constraints = Constraints()
    return [error for visit in walk(message, mark, types) for error in constraints.check(visit)]


CLUSTER = "envoy.config.cluster.v3.Cluster"
ROUTE = "envoy.config.route.v3"
HCM = "envoy.extensions.filters.network.http_connection_manager.v3"


@pytest.mark.parametrize(
    ("kind", "full_name", "text", "error"),
    [
        ("min_len of a missing string", CLUSTER, "{}", "f.yaml:1:1: name: missing; expected a text that is not empty"),
        (
            "min_len",
            CLUSTER,
            'name: ""',
            "f.yaml:1:7: name: value not allowed; expected a text that is not empty, found ''",
        ),
        (
            "max_bytes",
            "envoy.config.core.v3.HeaderValue",
            f"key: {'k' * 16385}",
            "f.yaml:1:6: key: value not allowed; expected at most 16384 bytes, found '" + "k" * 59 + "…'",
        ),
        (
            "pattern",
            f"{ROUTE}.RouteMatch",
            "path_separated_prefix: /a/",
            "f.yaml:1:24: path_separated_prefix: value not allowed; expected a text that matches ^[^?#]+[^?#/]$, "
            "found '/a/'",
        ),
        (
            "string in",
            "envoy.config.core.v3.SchemeHeaderTransformation",
            "scheme_to_overwrite: ftp",
            "f.yaml:1:22: scheme_to_overwrite: value not allowed; expected one of 'http', 'https', found 'ftp'",
        ),
        (
            "header name",
            f"{ROUTE}.HeaderMatcher",
            'name: "a\\nb"\npresent_match: true',
            "f.yaml:1:7: name: value not allowed; expected a valid header name, found 'a\\nb'",
        ),
        (
            "loose header value",
            "envoy.config.core.v3.HeaderValue",
            'key: a\nvalue: "a\\nb"',
            "f.yaml:2:8: value: value not allowed; expected a valid header value, without control characters, "
            "found 'a\\nb'",
        ),
        (
            "number range",
            f"{HCM}.HttpConnectionManager",
            "stat_prefix: s\nroute_config: {}\nmax_request_headers_kb: 8193",
            "f.yaml:3:25: max_request_headers_kb: value not allowed; "
            "expected greater than 0 and at most 8192, found 8193",
        ),
        (
            "number lte",
            "envoy.config.core.v3.SocketAddress",
            "address: a\nport_value: 65536",
            "f.yaml:2:13: port_value: value not allowed; expected at most 65535, found 65536",
        ),
        (
            "number gte and lt",
            f"{ROUTE}.DirectResponseAction",
            "status: 100",
            "f.yaml:1:9: status: value not allowed; expected at least 200 and less than 600, found 100",
        ),
        (
            "double range",
            "envoy.type.v3.Percent",
            "value: 100.5",
            "f.yaml:1:8: value: value not allowed; expected at least 0.0 and at most 100.0, found 100.5",
        ),
        (
            "wrapped number",
            "envoy.config.endpoint.v3.LbEndpoint",
            "load_balancing_weight: 0",
            "f.yaml:1:24: load_balancing_weight: value not allowed; expected at least 1, found 0",
        ),
        (
            "duration gt",
            CLUSTER,
            "name: c\nconnect_timeout: 0s",
            "f.yaml:2:18: connect_timeout: value not allowed; expected greater than 0s, found 0s",
        ),
        (
            "duration gt with nanoseconds",
            CLUSTER,
            "name: c\ndns_refresh_rate: 0.0005s",
            "f.yaml:2:19: dns_refresh_rate: value not allowed; expected greater than 0.001s, found 0.0005s",
        ),
        (
            "duration required",
            f"{CLUSTER}.RefreshRate",
            "{}",
            "f.yaml:1:1: base_interval: missing; expected a duration such as 5s",
        ),
        (
            "enum defined_only",
            CLUSTER,
            "name: c\ntype: 99",
            "f.yaml:2:7: type: value not allowed; expected one of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST, "
            "found 99",
        ),
        (
            "enum not_in",
            "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
            "san_type: SAN_TYPE_UNSPECIFIED\nmatcher: {exact: a}",
            "f.yaml:1:11: san_type: value not allowed; expected none of SAN_TYPE_UNSPECIFIED, "
            "found SAN_TYPE_UNSPECIFIED",
        ),
        (
            "bool const",
            "envoy.extensions.filters.http.lua.v3.LuaPerRoute",
            "disabled: false",
            "f.yaml:1:11: disabled: value not allowed; expected true, found false",
        ),
        (
            "repeated min_items",
            f"{ROUTE}.VirtualHost",
            "name: v\ndomains: []",
            "f.yaml:1:1: domains: missing; expected at least 1",
        ),
        (
            "repeated max_items",
            "envoy.extensions.http.custom_response.redirect_policy.v3.RedirectPolicy",
            "uri: a\nstatus_code: 200\nresponse_headers_to_add: [" + "{header: {key: a, value: b}}, " * 1001 + "]",
            "f.yaml:3:27: response_headers_to_add: too many entries; expected at most 1000, found 1001",
        ),
        (
            "repeated items",
            f"{ROUTE}.Route",
            'match: {prefix: /}\nroute: {cluster: c}\nrequest_headers_to_remove: [ok, "a\\nb"]',
            "f.yaml:3:33: request_headers_to_remove[1]: value not allowed; expected a valid header name, found 'a\\nb'",
        ),
        (
            "repeated unique",
            "envoy.extensions.filters.http.compressor.v3.Compressor.ResponseDirectionConfig",
            "uncompressible_response_codes: [206, 206]",
            "f.yaml:1:38: uncompressible_response_codes[1]: comes twice; expected no value twice, found 206",
        ),
        (
            "message required",
            f"{ROUTE}.Route",
            "route: {cluster: c}",
            "f.yaml:1:1: match: missing; expected a value of type RouteMatch",
        ),
        (
            "any required",
            "envoy.config.core.v3.TypedExtensionConfig",
            "name: a",
            "f.yaml:1:1: typed_config: missing; expected a value of type Any",
        ),
        (
            "oneof required",
            f"{ROUTE}.RouteMatch",
            "{}",
            "f.yaml:1:1: 'path_specifier' is not set; expected one of prefix, path, safe_regex, connect_matcher, "
            "path_separated_prefix, path_match_policy",
        ),
        (
            "map key",
            "envoy.config.core.v3.Metadata",
            '{filter_metadata: {"": {}}}',
            "f.yaml:1:24: filter_metadata[]: value not allowed; expected a text that is not empty, found ''",
        ),
        (
            "map min_pairs",
            "envoy.config.common.matcher.v3.Matcher.MatcherTree.MatchMap",
            "{}",
            "f.yaml:1:1: map: missing; expected at least 1",
        ),
        ("required inside an unset oneof is no rule", f"{ROUTE}.RouteMatch", "prefix: /", ""),
        ("ignore_empty", "envoy.config.accesslog.v3.ExtensionFilter", "name: a", ""),
    ],
)
def test_rule(kind: str, full_name: str, text: str, error: str) -> None:
    assert broken(text, full_name) == ([error] if error else [])


def test_rules_hold_inside_any_with_their_place() -> None:
    text = """
admin:
  access_log:
  - name: x
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
      path: ""
"""
    assert broken(text) == [
        "f.yaml:7:13: admin.access_log[0].typed_config.path: value not allowed; "
        "expected a text that is not empty, found ''"
    ]


def test_a_value_that_could_not_be_read_is_not_reported_again() -> None:
    document = read_yaml("f.yaml", "static_resources: {clusters: [{name: 5, connect_timeout: x, load_assignment: 7}]}")
    assert document.root is not None
    types, bootstrap = Schema(), bootstrap_pb2.Bootstrap()
    builder = Builder("f.yaml", types)
    mark = builder.build(document.root, bootstrap)
    assert len(builder.errors) == 3
    assert _check(bootstrap, mark, types) == []


def test_a_message_without_text_is_checked_too() -> None:
    from workerproxy.config.marks import Mark

    bootstrap = bootstrap_pb2.Bootstrap()
    bootstrap.static_resources.clusters.add().connect_timeout.SetInParent()
    found = [str(error) for error in _check(bootstrap, Mark("b.pb"), Schema())]
    assert found == [
        "b.pb: static_resources.clusters[0].name: missing; expected a text that is not empty",
        "b.pb: static_resources.clusters[0].connect_timeout: value not allowed; expected greater than 0s, found 0s",
    ]


def test_key_value_append_entries_are_exempt() -> None:
    assert broken("entry: {}", "envoy.config.core.v3.KeyValueAppend") == []

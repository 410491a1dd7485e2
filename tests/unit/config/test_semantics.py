"""Parts that are valid alone and wrong together: the words of each report. (``verdicts`` has the table of cases.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.documents import cluster, document, listener
from tests.unit.config.loading import assert_loads, errors_of, warnings_of
from workerproxy.config.options import Options
from workerproxy.config.runtime import flatten_runtime
from workerproxy.config.semantics_routes import MAX_REGEX_PROGRAM

HEAD = """\
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          http_filters:
          - name: r
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
"""
TAIL = "  clusters:\n  - name: service\n"
ROUTE = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]"


def with_route(*rows: str) -> str:
    return HEAD + "".join(f"              {row}\n" for row in rows) + TAIL


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (
            ["- match: {prefix: /}", "  route: {cluster: servce}"],
            "20:34: {at}.route.cluster: there is no cluster 'servce' in static_resources.clusters; "
            "did you mean 'service'?",
        ),
        (
            ["- match: {prefix: /}", "  route: {weighted_clusters: {clusters: [{name: x, weight: 1}]}}"],
            "20:63: {at}.route.weighted_clusters.clusters[0].name: "
            "there is no cluster 'x' in static_resources.clusters",
        ),
        (
            ["- match: {safe_regex: {regex: '(a'}}", "  route: {cluster: service}"],
            "19:45: {at}.match.safe_regex.regex: not a valid RE2 regular expression: missing ): (a",
        ),
        (
            ["- match: {safe_regex: {regex: 'a(?!b)'}}", "  route: {cluster: service}"],
            "19:45: {at}.match.safe_regex.regex: not a valid RE2 regular expression: invalid perl operator: (?!; "
            "RE2 has no look-ahead or look-behind",
        ),
        (
            [
                "- match: {prefix: /}",
                "  route: {cluster: service}",
                "  request_headers_to_add:",
                "  - header: {key: a, value: '%REQS(a)%'}",
            ],
            "22:43: {at}.request_headers_to_add[0].header.value: unknown operator REQS (character 1 of '%REQS(a)%'); "
            "did you mean REQ?",
        ),
        (
            ["- match: {prefix: /}", "  route: {cluster: service}", "  response_headers_to_remove: [':status']"],
            "21:46: {at}.response_headers_to_remove[0]: the header ':status' cannot be removed",
        ),
        (
            [
                "- match: {prefix: /}",
                "  direct_response: {status: 200, body: {environment_variable: NOT_SET_ANYWHERE}}",
            ],
            "20:77: {at}.direct_response.body.environment_variable: "
            "the environment variable 'NOT_SET_ANYWHERE' is not set",
        ),
    ],
)
def test_routes(tmp_path: Path, rows: list[str], error: str) -> None:
    assert errors_of(tmp_path, with_route(*rows)) == ["f.yaml:" + error.format(at=ROUTE)]


def test_an_unknown_cluster_when_there_is_none_at_all(tmp_path: Path) -> None:
    text = with_route("- match: {prefix: /}", "  route: {cluster: a}").replace(TAIL, "")
    assert errors_of(tmp_path, text)[0].endswith("; no clusters are configured")


def test_a_regular_expression_may_be_as_large_as_in_envoy(tmp_path: Path) -> None:
    small = "a" * (MAX_REGEX_PROGRAM - 20)
    assert_loads(tmp_path, with_route(f"- match: {{safe_regex: {{regex: {small}}}}}", "  route: {cluster: service}"))
    large = with_route("- match: {safe_regex: {regex: 'a{200}'}}", "  route: {cluster: service}")
    (error,) = errors_of(tmp_path, large)
    assert "the regular expression is too large; expected a program size of at most 100, found " in error


def test_a_listener_address_in_brackets_gets_a_hint(tmp_path: Path) -> None:
    address = '{socket_address: {address: "[::1]", port_value: 0}}'
    (error,) = errors_of(tmp_path, document(listeners=listener(address=address)))
    assert error.endswith(
        "not an IP address; expected an IP address such as 127.0.0.1 or 0.0.0.0, found '[::1]'; "
        "write it without brackets"
    )


def test_a_host_name_in_a_static_cluster_gets_a_hint(tmp_path: Path) -> None:
    endpoints = "[{lb_endpoints: [{endpoint: {address: {socket_address: {address: a.b, port_value: 1}}}}]}]"
    (error,) = errors_of(tmp_path, document(clusters=cluster(endpoints=endpoints)))
    assert error.endswith(
        "expected an IP address, as the cluster is STATIC, found 'a.b'; "
        "for a host name, set the cluster's type to STRICT_DNS"
    )


@pytest.mark.parametrize("host", ["a b", "a..b", "-" * 64, "", "http://a"])
def test_what_is_no_host_name_in_a_dns_cluster(tmp_path: Path, host: str) -> None:
    endpoints = (
        f'[{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: "{host}", port_value: 1}}}}}}}}]}}]'
    )
    assert errors_of(tmp_path, document(clusters=cluster(", type: STRICT_DNS", endpoints=endpoints)))


def test_the_same_name_says_where_the_first_is(tmp_path: Path) -> None:
    text = "static_resources:\n  clusters:\n  - name: a\n  - name: b\n  - name: a\n"
    assert errors_of(tmp_path, text) == [
        "f.yaml:5:11: static_resources.clusters[2].name: "
        "the name of a cluster must be unique: 'a' is already used on line 3"
    ]


def test_runtime_keys_of_envoys_code_are_warned_of(tmp_path: Path) -> None:
    text = (
        "layered_runtime:\n  layers:\n  - name: a\n    static_layer:\n      envoy: {reloadable_features: {x: true}}\n"
    )
    assert warnings_of(tmp_path, text) == [
        "f.yaml:5:7: layered_runtime.layers[0].static_layer: "
        "the runtime key 'envoy.reloadable_features.x' concerns Envoy's own code; it has no effect here"
    ]


def test_other_runtime_keys_are_refused_or_tolerated(tmp_path: Path) -> None:
    text = "layered_runtime: {layers: [{name: a, static_layer: {upstream.healthy_panic_threshold: 1}}]}\n"
    (error,) = errors_of(tmp_path, text)
    assert "the runtime key 'upstream.healthy_panic_threshold' may mean something to Envoy" in error
    assert len(warnings_of(tmp_path, text, Options(allow_unsupported=True))) == 1


def test_runtime_layers_are_flattened_but_fractions_are_values() -> None:
    from google.protobuf import struct_pb2

    struct = struct_pb2.Struct()
    struct.update({"a": {"b": 1, "c.d": {"numerator": 5, "denominator": "HUNDRED"}}, "e.f": "x"})
    assert sorted(key for key, _ in flatten_runtime(struct)) == ["a.b", "a.c.d", "e.f"]


def test_a_main_process_is_not_killed_by_itself(tmp_path: Path) -> None:
    text = document(more="watchdogs:\n  main_thread_watchdog: {kill_timeout: 5s}\n", clusters=cluster())
    (error,) = errors_of(tmp_path, text)
    assert "watchdogs.main_thread_watchdog: 'kill_timeout' of the main process is not supported" in error
    assert_loads(tmp_path, text.replace("main_thread_watchdog", "worker_watchdog"))

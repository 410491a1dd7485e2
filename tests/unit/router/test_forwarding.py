"""What a route makes of a request on its way up, and of the response. ``UP`` and ``DOWN`` are what Envoy 1.40 did."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tests.unit.router.build import find, found, info_of, request, table, table_of
from workerproxy.http.headers import HeaderMap, ResponseHeaders
from workerproxy.worker.router.errors import RouteConfigError
from workerproxy.worker.router.route_table import RouteTableSettings

Headers = list[tuple[str, str]]


def add(name: str, value: str, action: str = "", **fields: Any) -> dict[str, Any]:
    option: dict[str, Any] = {"header": {"key": name, "value": value}, **fields}
    return {**option, "append_action": action} if action else option


OVERWRITE, IF_ABSENT, IF_EXISTS = "OVERWRITE_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS"


class Up(NamedTuple):
    """A route (its action and mutations), what a client sends, and what the upstream gets."""

    action: dict[str, Any]
    target: str = "/a/b?q"
    host: str = "h:1"
    sent: Headers = []  # noqa: RUF012 - never changed
    path: str = "/a/b?q"
    authority: str = "h:1"
    got: dict[str, list[str]] = {}  # noqa: RUF012 - header -> its values; none when it is not there
    match: dict[str, Any] = {"prefix": "/a"}  # noqa: RUF012
    route: dict[str, Any] = {}  # noqa: RUF012 - further fields of the route
    virtual_host: dict[str, Any] = {}  # noqa: RUF012
    table: dict[str, Any] = {}  # noqa: RUF012


ORIGINAL_PATH, ORIGINAL_HOST = "x-envoy-original-path", "x-envoy-original-host"
UP: dict[str, Up] = {
    "nothing": Up({}, got={ORIGINAL_PATH: [], ORIGINAL_HOST: []}),
    "prefix_rewrite": Up({"prefix_rewrite": "/n"}, path="/n/b?q", got={ORIGINAL_PATH: ["/a/b?q"]}),
    "prefix_rewrite_to_slash": Up({"prefix_rewrite": "/"}, path="//b?q", got={ORIGINAL_PATH: ["/a/b?q"]}),
    "prefix_rewrite_same": Up({"prefix_rewrite": "/a"}, path="/a/b?q", got={ORIGINAL_PATH: ["/a/b?q"]}),
    "prefix_rewrite_of_path": Up({"prefix_rewrite": "/n"}, match={"path": "/a/b"}, path="/n?q"),
    "prefix_rewrite_of_regex": Up({"prefix_rewrite": "/n"}, match={"safe_regex": {"regex": ".*"}}, path="/n?q"),
    "prefix_rewrite_of_separated_prefix": Up(
        {"prefix_rewrite": "/n"}, match={"path_separated_prefix": "/a"}, path="/n/b?q"
    ),
    "prefix_rewrite_ignoring_case": Up(
        {"prefix_rewrite": "/n"}, match={"prefix": "/A", "case_sensitive": False}, path="/n/b?q"
    ),
    "regex_rewrite": Up(
        {"regex_rewrite": {"pattern": {"regex": "/([a-z])"}, "substitution": "<\\1>"}},
        path="<a><b>?q",
        got={ORIGINAL_PATH: ["/a/b?q"]},
    ),
    "regex_rewrite_without_match": Up(
        {"regex_rewrite": {"pattern": {"regex": "x"}, "substitution": "y"}}, got={ORIGINAL_PATH: ["/a/b?q"]}
    ),
    "path_rewrite_by_format": Up(
        {"path_rewrite": "/n/%REQ(x-a)%%PATH(NQ)%"}, sent=[("x-a", "A")], path="/n/A/a/b?q",
        got={ORIGINAL_PATH: ["/a/b?q"]},
    ),
    "host_rewrite": Up({"host_rewrite_literal": "n"}, authority="n", got={ORIGINAL_HOST: ["h:1"]}),
    "host_rewrite_header": Up(
        {"host_rewrite_header": "X-H"}, sent=[("x-h", "n"), ("x-h", "m")], authority="n", got={ORIGINAL_HOST: ["h:1"]}
    ),
    "host_rewrite_header_missing": Up({"host_rewrite_header": "x-h"}, got={ORIGINAL_HOST: []}),
    "host_rewrite_path_regex": Up(
        {"host_rewrite_path_regex": {"pattern": {"regex": "^/(.+)/(.+)$"}, "substitution": "\\1-\\2.x"}},
        authority="a-b.x",
    ),
    "host_rewrite_by_format": Up({"host_rewrite": "%REQ(x-a)%.x"}, sent=[("x-a", "A")], authority="A.x"),
    "host_and_path": Up(
        {"host_rewrite_literal": "n", "prefix_rewrite": "/n"},
        path="/n/b?q", authority="n", got={ORIGINAL_PATH: ["/a/b?q"], ORIGINAL_HOST: ["h:1"]},
    ),
    "forwarded_host": Up(
        {"host_rewrite_literal": "n", "append_x_forwarded_host": True},
        authority="n", got={"x-forwarded-host": ["h:1"]},
    ),
    "forwarded_host_appended": Up(
        {"host_rewrite_literal": "n", "append_x_forwarded_host": True},
        sent=[("x-forwarded-host", "o, p")], authority="n", got={"x-forwarded-host": ["o, p,h:1"]},
    ),
    "forwarded_host_once": Up(
        {"host_rewrite_literal": "n", "append_x_forwarded_host": True},
        sent=[("x-forwarded-host", "o,h:1")], authority="n", got={"x-forwarded-host": ["o,h:1"]},
    ),
    "mutations_see_the_request_before_it_is_rewritten": Up(
        {"prefix_rewrite": "/n", "host_rewrite_literal": "n"}, path="/n/b?q", authority="n",
        route={"request_headers_to_add": [add("x-seen", "%REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(HOST)%")]},
        got={"x-seen": ["/a/b?q h:1 h:1"]},
    ),
    "appended": Up(
        {}, sent=[("x-a", "1")], route={"request_headers_to_add": [add("X-A", "2"), add("x-b", "3")]},
        got={"x-a": ["1", "2"], "x-b": ["3"]},
    ),
    "appended_to_a_header_with_one_value": Up(
        {}, sent=[("user-agent", "1")], route={"request_headers_to_add": [add("User-Agent", "2")]},
        got={"user-agent": ["1,2"]},
    ),
    "overwritten": Up(
        {}, sent=[("x-a", "1"), ("x-a", "2")],
        route={"request_headers_to_add": [add("x-a", "3", OVERWRITE), add("x-b", "4", OVERWRITE)]},
        got={"x-a": ["3"], "x-b": ["4"]},
    ),
    "overwritten_if_there": Up(
        {}, sent=[("x-a", "1")],
        route={"request_headers_to_add": [add("x-a", "3", IF_EXISTS), add("x-b", "4", IF_EXISTS)]},
        got={"x-a": ["3"], "x-b": []},
    ),
    "added_if_not_there": Up(
        {}, sent=[("x-a", "1")],
        route={"request_headers_to_add": [add("x-a", "3", IF_ABSENT), add("x-b", "4", IF_ABSENT)]},
        got={"x-a": ["1"], "x-b": ["4"]},
    ),
    "all_values_are_evaluated_before_any_is_set": Up(
        {}, route={"request_headers_to_add": [
            add("x-a", "1", OVERWRITE), add("x-a", "2", IF_ABSENT), add("x-b", "%REQ(x-a)%!")]},
        got={"x-a": ["1", "2"], "x-b": ["!"]},
    ),
    "append_false_is_overwriting": Up(
        {}, sent=[("x-a", "1")], route={"request_headers_to_add": [add("x-a", "2", append=False)]},
        got={"x-a": ["2"]},
    ),
    "removed_before_added": Up(
        {}, sent=[("x-a", "1"), ("x-b", "1")],
        route={"request_headers_to_remove": ["X-A", "x-b"], "request_headers_to_add": [add("x-a", "%REQ(x-a)%new")]},
        got={"x-a": ["new"], "x-b": []},
    ),
    "empty_values_are_left_out": Up(
        {}, route={"request_headers_to_add": [
            add("x-a", "%REQ(nope)%"), add("x-b", "%REQ(nope)%", keep_empty_value=True), add("x-c", "")]},
        got={"x-a": [], "x-b": [""], "x-c": []},
    ),
    "least_specific_wins": Up(
        {}, route={"request_headers_to_add": [add("x-a", "route", OVERWRITE), add("x-l", "route")]},
        virtual_host={"request_headers_to_add": [add("x-a", "host", OVERWRITE), add("x-l", "host")]},
        table={"request_headers_to_add": [add("x-a", "table", OVERWRITE), add("x-l", "table")]},
        got={"x-a": ["table"], "x-l": ["route", "host", "table"]},
    ),
    "most_specific_wins": Up(
        {}, route={"request_headers_to_add": [add("x-a", "route", OVERWRITE), add("x-l", "route")]},
        virtual_host={"request_headers_to_add": [add("x-a", "host", OVERWRITE), add("x-l", "host")]},
        table={"request_headers_to_add": [add("x-a", "table", OVERWRITE), add("x-l", "table")],
               "most_specific_header_mutations_wins": True},
        got={"x-a": ["route"], "x-l": ["table", "host", "route"]},
    ),
    "a_weighted_cluster_comes_first": Up(
        {"cluster": None, "weighted_clusters": {"clusters": [
            {"name": "c", "weight": 1, "host_rewrite_literal": "w",
             "request_headers_to_add": [add("x-l", "cluster"), add("x-a", "cluster")]}]}},
        authority="w",
        route={"request_headers_to_add": [add("x-l", "%REQ(:authority)%")], "request_headers_to_remove": ["x-a"]},
        table={"request_headers_to_add": [add("x-l", "table")], "most_specific_header_mutations_wins": True},
        got={"x-l": ["cluster", "table", "w"], "x-a": [], ORIGINAL_HOST: []},
    ),
    "formats": Up(
        {}, route={"name": "r"},
        virtual_host={"request_headers_to_add": [
            add("x-a", "%ROUTE_NAME%|%PROTOCOL%|%RESPONSE_CODE%|%BYTES_SENT%|%RESPONSE_FLAGS%|100%%|%RESP(x)%"),
            add("x-b", "%QUERY_PARAM(a)%|%PATH(NQ)%|%ACCESS_LOG_TYPE%|%UPSTREAM_HOST%")]},
        target="/a?a=%C3%A9+b", path="/a?a=%C3%A9+b",
        got={"x-a": ["r|HTTP/1.1|0|0|-|100%|"], "x-b": ["\xc3\xa9+b|/a|NotSet|"]},
    ),
}  # fmt: skip


def up_config(case: Up) -> dict[str, Any]:
    """The route table of a case, as a configuration."""
    action = {name: value for name, value in {"cluster": "c", **case.action}.items() if value is not None}
    route = {"match": case.match, "route": action, **case.route}
    host = {"name": "vh", "domains": ["*"], "routes": [route], **case.virtual_host}
    return {"name": "rc", "virtual_hosts": [host], **case.table}


def values(headers: HeaderMap, name: str) -> list[str]:
    return [value.decode("latin-1") for value in headers.get_all(name.encode())]


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in UP.items()])
def test_the_upstream_gets_what_it_gets_from_envoy(case: Up) -> None:
    config = up_config(case)
    headers = request(case.target, case.host, case.sent)
    route = found(table_of(config.pop("virtual_hosts"), **config), headers)
    info = info_of(headers)
    info.route_name = route.name
    assert route.select_cluster(headers, info) == "c"
    if route.finalize_request_headers is not None:
        assert route.finalize_request_headers(headers, info) is None
    assert (headers.path.decode(), headers.authority.decode()) == (case.path, case.authority)
    assert {name: values(headers, name) for name in case.got} == case.got


# Further fields of the route, of what an upstream answers with "x-a: 1", and what the client gets.
DOWN: dict[str, tuple[dict[str, Any], dict[str, list[str]]]] = {
    "appended": ({"response_headers_to_add": [add("x-a", "2")]}, {"x-a": ["1", "2"]}),
    "removed": ({"response_headers_to_remove": ["X-A"]}, {"x-a": []}),
    "reads_both_messages": (
        {"response_headers_to_add": [add("x-b", "%RESP(x-a)% %REQ(:path)% %RESP(:STATUS)% %RESP(nope)%")]},
        {"x-b": ["1 / 200 "]},
    ),
    "content_type_is_one_value": (
        {"response_headers_to_add": [add("content-type", "a"), add("Content-Type", "b")]},
        {"content-type": ["a,b"]},
    ),
    "only_if_there": (
        {"response_headers_to_add": [add("x-a", "2", IF_EXISTS), add("x-b", "2", IF_EXISTS)]},
        {"x-a": ["2"], "x-b": []},
    ),
}


@pytest.mark.parametrize(("fields", "got"), DOWN.values(), ids=DOWN)
def test_the_client_gets_what_it_gets_from_envoy(fields: dict[str, Any], got: dict[str, list[str]]) -> None:
    headers = request()
    route = found(table([{"match": {"prefix": "/"}, "route": {"cluster": "c"}, **fields}]), headers)
    response = ResponseHeaders.from_pairs([(b"x-a", b"1")])
    assert isinstance(response, ResponseHeaders)
    response.status = 200
    assert route.finalize_response_headers is not None
    assert route.finalize_response_headers(response, info_of(headers)) is None
    assert {name: values(response, name) for name in got} == got


def test_a_plain_route_has_nothing_to_finalize() -> None:
    route = found(table([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]), request())
    assert route.finalize_request_headers is None
    assert route.finalize_response_headers is None
    assert (route.timeout_s, route.idle_timeout_s, route.max_stream_duration_s) == (15.0, None, None)
    assert (route.cluster_not_found_status, route.auto_host_rewrite, route.metadata) == (503, False, None)


def test_a_client_cannot_break_a_header_line_through_a_format() -> None:
    """Envoy answers such a request with 503, and lets such a response header through; here both are left out."""
    option = [add("x-q", "%QUERY_PARAM(q)%"), add("x-r", "1")]
    made = table(
        [
            {
                "match": {"prefix": "/"},
                "route": {"cluster": "c"},
                "request_headers_to_add": option,
                "response_headers_to_add": option,
            }
        ]
    )
    for broken in ("%0d", "%0A", "%00"):
        headers = request(f"/?q=a{broken}b:c")
        route = found(made, headers)
        assert route.finalize_request_headers is not None
        assert route.finalize_request_headers(headers, info_of(headers)) == b"x-q"
        assert (values(headers, "x-q"), values(headers, "x-r")) == ([], ["1"])
        response = ResponseHeaders()
        response.status = 200
        assert route.finalize_response_headers is not None
        route.finalize_response_headers(response, info_of(headers))
        assert response == {b"x-r": b"1"}


def test_timeouts_and_flags_are_read_from_the_route() -> None:
    action = {
        "cluster": "c",
        "timeout": "0s",
        "idle_timeout": "1.5s",
        "max_stream_duration": {"max_stream_duration": "2.0005s"},
        "priority": "HIGH",
        "cluster_not_found_response_code": "NOT_FOUND",
        "auto_host_rewrite": True,
        "append_x_forwarded_host": True,
    }
    route_config = {
        "name": "r",
        "stat_prefix": "s",
        "match": {"prefix": "/"},
        "route": action,
        "metadata": {"filter_metadata": {"ns": {"key": ["v", 1]}}},
    }
    host = {
        "name": "vh",
        "domains": ["*"],
        "routes": [route_config],
        "include_request_attempt_count": True,
        "include_attempt_count_in_response": True,
    }
    headers = request("/", "old")
    route = found(table_of([host]), headers)
    assert (route.name, route.virtual_host_name, route.stat_prefix) == ("r", "vh", "s")
    assert (route.timeout_s, route.idle_timeout_s, route.max_stream_duration_s) == (0.0, 1.5, 2.0)
    assert (route.priority, route.cluster_not_found_status) == (1, 404)
    assert (route.include_request_attempt_count, route.include_attempt_count_in_response) == (True, True)
    assert route.metadata == {"ns": {"key": ["v", 1.0]}}
    assert route.auto_host_rewrite
    route.rewrite_to_host(headers, "", True)
    assert headers.authority == b"old"
    route.rewrite_to_host(headers, "endpoint", True)
    assert headers.authority == b"endpoint"
    assert (headers[b"x-envoy-original-host"], headers[b"x-forwarded-host"]) == (b"old", b"old")


def test_a_header_may_name_the_cluster() -> None:
    made = table([{"match": {"prefix": "/"}, "route": {"cluster_header": "X-Cluster"}}])
    headers = request(headers=[("x-cluster", "one"), ("x-cluster", "two")])
    route = found(made, headers)
    assert route.cluster == ""
    assert route.select_cluster(headers, info_of(headers)) == "one"
    assert route.select_cluster(request(), info_of(headers)) == ""


def weighted(clusters: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    return [{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": clusters, **fields}}}]


def test_weights_share_out_the_random_numbers() -> None:
    numbers = iter([0, 1, 2, 3, 4, 5, 8])
    made = table(
        weighted([{"name": "a", "weight": 1}, {"name": "none", "weight": 0}, {"name": "b", "weight": 3}]),
        RouteTableSettings(random_value=lambda: next(numbers)),
    )
    assert [found(made, request()).cluster for _ in range(7)] == ["a", "b", "b", "b", "a", "b", "a"]


def test_a_header_may_hold_the_random_number_of_the_weights() -> None:
    made = table(
        weighted([{"name": "a", "weight": 1}, {"name": "b", "weight": 1}], header_name="X-N"),
        RouteTableSettings(random_value=lambda: 1),
    )
    given = {"0": "a", "2": "a", "3": "b", "x": "b", "": "b", "-2": "b"}
    assert {n: found(made, request(headers=[("x-n", n)])).cluster for n in given} == given
    assert found(made, request(headers=[("x-n", "0"), ("x-n", "0")])).cluster == "b"


def test_a_weighted_cluster_may_be_named_by_a_header() -> None:
    headers = request(headers=[("x-c", "named")])
    route = found(table(weighted([{"cluster_header": "X-C", "weight": 1}])), headers)
    assert route.select_cluster(headers, info_of(headers)) == "named"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"request_headers_to_add": [add(":path", "/")]}, "request_headers_to_add[0].header.key"),
        ({"request_headers_to_add": [add("x", "y"), add("Host", "h")]}, "request_headers_to_add[1].header.key"),
        ({"request_headers_to_add": [add("a b", "y")]}, "request_headers_to_add[0].header.key"),
        ({"response_headers_to_add": [add(":status", "1")]}, "response_headers_to_add[0].header.key"),
        ({"request_headers_to_remove": ["a", "HOST"]}, "request_headers_to_remove[1]"),
        ({"response_headers_to_remove": [":status"]}, "response_headers_to_remove[0]"),
        ({"request_headers_to_add": [add("a", "%NOPE%")]}, "request_headers_to_add[0].header.value"),
        ({"request_headers_to_add": [add("a", "b\r\nc")]}, "request_headers_to_add[0].header.value"),
        ({"request_headers_to_add": [add("a", "b", IF_ABSENT, append=True)]}, "request_headers_to_add[0]"),
        ({"route": {"cluster": "nope"}}, "route.cluster"),
        ({"route": {}}, "route"),
        ({"route": {"cluster": "c", "prefix_rewrite": "/", "path_rewrite": "/"}}, "route"),
        ({"route": {"cluster": "c", "path_rewrite": "/%QUERY_PARAM(a)%"}}, "route.path_rewrite"),
        ({"route": {"cluster": "c", "host_rewrite": "%REQ%"}}, "route.host_rewrite"),
        (
            {"route": {"cluster": "c", "regex_rewrite": {"pattern": {"regex": "("}, "substitution": ""}}},
            "route.regex_rewrite",
        ),
        ({"route": {"weighted_clusters": {"clusters": [{"name": "c", "weight": 0}]}}}, "route.weighted_clusters"),
        (
            {"route": {"weighted_clusters": {"clusters": [{"name": "c", "weight": 1}, {"weight": 1}]}}},
            "route.weighted_clusters.clusters[1]",
        ),
        (
            {"route": {"weighted_clusters": {"clusters": [{"name": "nope", "weight": 1}]}}},
            "route.weighted_clusters.clusters[0].name",
        ),
    ],
)
def test_a_route_that_cannot_be_built_says_where(fields: dict[str, Any], path: str) -> None:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "c"}, **fields}
    with pytest.raises(RouteConfigError) as caught:
        table([route], RouteTableSettings(known_clusters=frozenset({"c"})))
    assert caught.value.path == f"virtual_hosts[0].routes[0].{path}"


def test_clusters_are_not_checked_when_the_table_says_so() -> None:
    made = table(
        [{"match": {"prefix": "/"}, "route": {"cluster": "nope"}}],
        RouteTableSettings(known_clusters=frozenset()),
        validate_clusters=False,
    )
    assert find(made, request()) is not None

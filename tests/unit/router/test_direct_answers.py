"""Redirects and direct responses. The expectations of ``REDIRECTS`` are what Envoy 1.40 answered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.router.build import found, info_of, request, table
from workerproxy.http.headers import RequestHeaders
from workerproxy.worker.router.errors import RouteConfigError
from workerproxy.worker.router.route import DIRECT_RESPONSE, REDIRECT, Route
from workerproxy.worker.router.route_table import RouteTableSettings

# Match and redirect, then for (host, target) the location.
REDIRECTS: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str, str]]]] = {
    "https": (
        {"prefix": "/"},
        {"https_redirect": True},
        [
            ("h", "/a?b", "https://h/a?b"),
            ("h:80", "/", "https://h/"),
            ("h:8080", "/", "https://h:8080/"),
            ("[::1]:80", "/", "https://[::1]/"),
            ("[::1]", "/", "https://[::1]/"),
        ],
    ),
    "scheme": ({"prefix": "/"}, {"scheme_redirect": "ftp"}, [("h:80", "/a", "ftp://h/a")]),
    "host": ({"prefix": "/"}, {"host_redirect": "n.com"}, [("h:80", "/a?b", "http://n.com/a?b")]),
    "port": (
        {"prefix": "/"},
        {"port_redirect": 81},
        [("h:80", "/a", "http://h:81/a"), ("h", "/", "http://h:81/"), ("[::1]:9", "/", "http://[::1]:81/")],
    ),
    "host_and_port": ({"prefix": "/"}, {"host_redirect": "n", "port_redirect": 1}, [("h", "/", "http://n:1/")]),
    "same_scheme_keeps_the_port": ({"prefix": "/"}, {"path_redirect": "/n"}, [("h:80", "/a", "http://h:80/n")]),
    "path": (
        {"prefix": "/"},
        {"path_redirect": "/n"},
        [("h", "/a", "http://h/n"), ("h", "/a?b=c", "http://h/n?b=c")],
    ),
    "path_without_slash": ({"prefix": "/"}, {"path_redirect": "n"}, [("h", "/a", "http://h/n")]),
    "path_with_its_own_query": ({"prefix": "/"}, {"path_redirect": "/n?x"}, [("h", "/a?b", "http://h/n?x")]),
    "strip_query": (
        {"prefix": "/"},
        {"path_redirect": "/n", "strip_query": True},
        [("h", "/a?b", "http://h/n")],
    ),
    "strip_query_keeps_its_own_query": (
        {"prefix": "/"},
        {"path_redirect": "/n?x", "strip_query": True},
        [("h", "/a?b", "http://h/n?x")],
    ),
    "prefix": (
        {"prefix": "/a"},
        {"prefix_rewrite": "/n"},
        [("h", "/a", "http://h/n"), ("h", "/ab/c?q", "http://h/nb/c?q")],
    ),
    "prefix_of_a_path_match": (
        {"path": "/a/b"},
        {"prefix_rewrite": "/n"},
        [("h", "/a/b?q", "http://h/n?q")],
    ),
    "prefix_of_a_regex_match": (
        {"safe_regex": {"regex": "/a.*"}},
        {"prefix_rewrite": "/n"},
        [("h", "/abc?q", "http://h/n?q")],
    ),
    "prefix_strip_query": (
        {"prefix": "/a"},
        {"prefix_rewrite": "/n", "strip_query": True},
        [("h", "/a/x?q", "http://h/n/x")],
    ),
    "regex": (
        {"prefix": "/"},
        {"regex_rewrite": {"pattern": {"regex": "^/([a-z]+)/([0-9]+)"}, "substitution": "/\\2/\\1\\\\"}},
        [("h", "/ab/12/c?q", "http://h/12/ab\\/c?q"), ("h", "/AB", "http://h/AB")],
    ),
    "regex_every_match": (
        {"prefix": "/"},
        {"regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "<\\0>"}},
        [("h", "/aba?a", "http://h/<a>b<a>?a")],
    ),
    "regex_to_nothing_changes_nothing": (
        {"prefix": "/"},
        {"regex_rewrite": {"pattern": {"regex": ".*"}, "substitution": ""}},
        [("h", "/a", "http://h/a")],
    ),
}
CASES = [
    pytest.param(match, redirect, host, target, location, id=f"{name}-{number}")
    for name, (match, redirect, requests) in REDIRECTS.items()
    for number, (host, target, location) in enumerate(requests)
]


def answer(route: Route, headers: RequestHeaders) -> tuple[int, bytes, dict[bytes, bytes]]:
    direct = route.direct_response
    assert direct is not None
    direct.rewrite_path_header(headers, True)
    return direct.status, direct.body, dict(direct.response_headers(headers, info_of(headers)))


@pytest.mark.parametrize(("match", "redirect", "host", "target", "location"), CASES)
def test_a_redirect_sends_where_envoy_sends(
    match: dict[str, Any], redirect: dict[str, Any], host: str, target: str, location: str
) -> None:
    headers = request(target, host)
    route = found(table([{"match": match, "redirect": redirect}]), headers)
    assert route.action_kind == REDIRECT
    assert answer(route, headers) == (301, b"", {b"location": location.encode()})


@pytest.mark.parametrize(
    ("code", "status"),
    [("FOUND", 302), ("SEE_OTHER", 303), ("TEMPORARY_REDIRECT", 307), ("PERMANENT_REDIRECT", 308)],
)
def test_a_redirect_has_the_status_that_was_chosen(code: str, status: int) -> None:
    made = table([{"match": {"prefix": "/"}, "redirect": {"https_redirect": True, "response_code": code}}])
    assert answer(found(made, request()), request())[0] == status


def test_a_redirect_that_rewrites_the_path_leaves_the_original() -> None:
    headers = request("/a/b")
    answer(found(table([{"match": {"prefix": "/a"}, "redirect": {"prefix_rewrite": "/n"}}]), headers), headers)
    assert (headers.path, headers[b"x-envoy-original-path"]) == (b"/n/b", b"/a/b")


@pytest.mark.parametrize(("status", "location"), [(200, None), (201, b"http://h/x"), (304, b"http://h/x"), (404, None)])
def test_a_direct_response_has_a_location_where_envoy_sets_one(status: int, location: bytes | None) -> None:
    made = table([{"match": {"prefix": "/"}, "direct_response": {"status": status, "body": {"inline_string": "hé"}}}])
    headers = request("/x")
    route = found(made, headers)
    assert route.action_kind == DIRECT_RESPONSE
    assert answer(route, headers) == (status, "hé".encode(), {b"location": location} if location else {})


def test_a_body_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "body").write_bytes(b"of a file\xff")
    monkeypatch.setitem(os.environ, "WORKERPROXY_TEST_BODY", "of the environment")
    sources = [{"filename": str(tmp_path / "body")}, {"environment_variable": "WORKERPROXY_TEST_BODY"}]
    bodies = []
    for source in sources:
        made = table([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": source}}])
        bodies.append(answer(found(made, request()), request())[1])
    assert bodies == [b"of a file\xff", b"of the environment"]


def body_table(size: int, **fields: Any) -> None:
    body = {"inline_string": "x" * size}
    table([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": body}}], None, **fields)


def test_a_body_has_at_most_4096_bytes_unless_more_are_allowed() -> None:
    body_table(4096)
    body_table(4097, max_direct_response_body_size_bytes=4097)
    with pytest.raises(RouteConfigError) as caught:
        body_table(4097)
    assert caught.value.path == "virtual_hosts[0].routes[0].direct_response.body"
    with pytest.raises(RouteConfigError):
        body_table(11, max_direct_response_body_size_bytes=10)


@pytest.mark.parametrize(
    ("action", "path"),
    [
        ({"direct_response": {"status": 100}}, "direct_response.status"),
        ({"direct_response": {"status": 200, "body": {"filename": "/nonexistent"}}}, "direct_response.body"),
        ({"redirect": {"regex_rewrite": {"pattern": {"regex": "("}, "substitution": ""}}}, "redirect.regex_rewrite"),
        ({"redirect": {"regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "\\1"}}}, "redirect.regex_rewrite"),
        ({"redirect": {"regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "\\x"}}}, "redirect.regex_rewrite"),
        ({"filter_action": {}}, "filter_action"),
        ({}, ""),
    ],
)
def test_an_answer_that_cannot_be_built_says_where(action: dict[str, Any], path: str) -> None:
    with pytest.raises(RouteConfigError) as caught:
        table([{"match": {"prefix": "/"}, **action}])
    assert caught.value.path == ("virtual_hosts[0].routes[0]." + path).rstrip(".")


def test_without_envoy_headers_no_original_path_is_left() -> None:
    headers = request("/a")
    made = table(
        [{"match": {"prefix": "/"}, "route": {"cluster": "c", "prefix_rewrite": "/n/", "host_rewrite_literal": "n"}}],
        RouteTableSettings(suppress_envoy_headers=True),
    )
    finalize = found(made, headers).finalize_request_headers
    assert finalize is not None
    assert finalize(headers, info_of(headers)) is None
    assert (headers.path, headers.authority) == (b"/n/a", b"n")
    assert set(headers) == {b"x-forwarded-proto"}

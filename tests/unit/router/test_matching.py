"""Which requests a route matches. The expectations of ``MATCHES`` are what Envoy 1.40 did with the same routes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.router.build import find, found, request, table
from workerproxy.worker.router.errors import RouteConfigError
from workerproxy.worker.router.route_table import RouteTableSettings

Headers = list[tuple[str, str]]
# A route's match, and for requests (target, headers) whether it matches.
MATCHES: dict[str, tuple[dict[str, Any], list[tuple[str, Headers, bool]]]] = {
    "prefix": ({"prefix": "/a"}, [("/a", [], True), ("/ab/c", [], True), ("/A", [], False), ("/b?x=/a", [], False)]),
    "prefix_ignores_case": (
        {"prefix": "/a", "case_sensitive": False},
        [("/A", [], True), ("/aB", [], True), ("/b", [], False)],
    ),
    "prefix_with_a_query_in_it_never_matches": ({"prefix": "/a?b"}, [("/a?b", [], False)]),
    "path": ({"path": "/a"}, [("/a", [], True), ("/a?q=1", [], True), ("/a/", [], False), ("/A", [], False)]),
    "path_ignores_case": ({"path": "/aB", "case_sensitive": False}, [("/Ab", [], True), ("/Abc", [], False)]),
    "separated_prefix": (
        {"path_separated_prefix": "/a/b"},
        [("/a/b", [], True), ("/a/b/", [], True), ("/a/b/c?x", [], True), ("/a/b?x", [], True), ("/a/bc", [], False)],
    ),
    "separated_prefix_ignores_case": (
        {"path_separated_prefix": "/a", "case_sensitive": False},
        [("/A/x", [], True), ("/A", [], True), ("/Ab", [], False)],
    ),
    "regex_matches_all_of_the_path": (
        {"safe_regex": {"regex": "/a[0-9]+"}},
        [("/a12", [], True), ("/a12?q", [], True), ("/a12/", [], False), ("/xa12", [], False), ("/a", [], False)],
    ),
    "regex_keeps_case": (
        {"safe_regex": {"regex": "/a"}, "case_sensitive": False},
        [("/a", [], True), ("/A", [], False)],
    ),
    "header_present": (
        {"prefix": "/", "headers": [{"name": "X-A"}]},
        [("/", [("x-a", "")], True), ("/", [("x-a", "1")], True), ("/", [], False)],
    ),
    "header_not_present": (
        {"prefix": "/", "headers": [{"name": "x-a", "present_match": False}]},
        [("/", [("x-a", "1")], False), ("/", [], True)],
    ),
    "header_present_inverted": (
        {"prefix": "/", "headers": [{"name": "x-a", "present_match": True, "invert_match": True}]},
        [("/", [("x-a", "1")], False), ("/", [], True)],
    ),
    "header_present_missing_as_empty": (
        {"prefix": "/", "headers": [{"name": "x-a", "present_match": True, "treat_missing_header_as_empty": True}]},
        [("/", [("x-a", "1")], True), ("/", [], True)],
    ),
    "header_exact": (
        {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"exact": "v"}}]},
        [("/", [("x-a", "v")], True), ("/", [("x-a", "V")], False), ("/", [], False)],
    ),
    "header_exact_of_any_value": (
        {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"exact": "w"}}]},
        [("/", [("x-a", "v"), ("x-a", "w")], True), ("/", [("x-a", "v,w")], False), ("/", [("x-a", "v")], False)],
    ),
    "header_exact_of_no_value": (
        {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"exact": "w"}, "invert_match": True}]},
        [("/", [("x-a", "v"), ("x-a", "w")], False), ("/", [("x-a", "v"), ("x-a", "x")], True)],
    ),
    "header_missing_beside_a_repeated_one": (
        {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"exact": ""}, "invert_match": True}]},
        [("/", [("x-b", "v"), ("x-b", "w")], False)],
    ),
    "header_with_one_value_by_definition": (
        {"prefix": "/", "headers": [{"name": "user-agent", "string_match": {"exact": "v,w"}}]},
        [("/", [("user-agent", "v"), ("user-agent", "w")], True)],
    ),
    "method_beside_a_repeated_header": (
        {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
        [("/", [("x-b", "v"), ("x-b", "w")], True)],
    ),
    "header_exact_ignores_case": (
        {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"exact": "Vw", "ignore_case": True}}]},
        [("/", [("x-a", "vW")], True), ("/", [("x-a", "vx")], False)],
    ),
    "header_prefix_suffix_contains": (
        {
            "prefix": "/",
            "headers": [
                {"name": "x-a", "string_match": {"prefix": "p"}},
                {"name": "x-a", "string_match": {"suffix": "S", "ignore_case": True}},
                {"name": "x-a", "string_match": {"contains": "C", "ignore_case": True}},
            ],
        },
        [("/", [("x-a", "p-c-s")], True), ("/", [("x-a", "p-s")], False), ("/", [("x-a", "P-c-s")], False)],
    ),
    "header_regex": (
        {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"safe_regex": {"regex": "a.c"}}}]},
        [("/", [("x-a", "abc")], True), ("/", [("x-a", "abcd")], False), ("/", [("x-a", "ac")], False)],
    ),
    "header_exact_inverted": (
        {"prefix": "/", "headers": [{"name": "x-a", "string_match": {"exact": "v"}, "invert_match": True}]},
        [("/", [("x-a", "v")], False), ("/", [("x-a", "w")], True), ("/", [], False)],
    ),
    "header_exact_inverted_missing_as_empty": (
        {
            "prefix": "/",
            "headers": [
                {
                    "name": "x-a",
                    "string_match": {"exact": "v"},
                    "invert_match": True,
                    "treat_missing_header_as_empty": True,
                }
            ],
        },
        [("/", [("x-a", "v")], False), ("/", [], True)],
    ),
    "header_range_is_half_open": (
        {"prefix": "/", "headers": [{"name": "x-a", "range_match": {"start": -10, "end": 5}}]},
        [
            ("/", [("x-a", "-10")], True),
            ("/", [("x-a", "4")], True),
            ("/", [("x-a", "+4")], True),
            ("/", [("x-a", "5")], False),
            ("/", [("x-a", "4.0")], False),
            ("/", [("x-a", "1_0")], False),
            ("/", [("x-a", "")], False),
        ],
    ),
    "header_method_and_authority": (
        {
            "prefix": "/",
            "headers": [
                {"name": ":method", "string_match": {"exact": "POST"}},
                {"name": ":path", "string_match": {"suffix": "?q"}},
            ],
        },
        [("/?q", [(":method", "POST")], True), ("/?q", [], False), ("/", [(":method", "POST")], False)],
    ),
    "query_present": (
        {"prefix": "/", "query_parameters": [{"name": "q", "present_match": True}]},
        [("/?q", [], True), ("/?q=", [], True), ("/?a&q=1", [], True), ("/?qq=1", [], False), ("/", [], False)],
    ),
    "query_without_condition_is_present": (
        {"prefix": "/", "query_parameters": [{"name": "q"}]},
        [("/?q", [], True), ("/", [], False)],
    ),
    "query_absent": (
        {"prefix": "/", "query_parameters": [{"name": "q", "present_match": False}]},
        [("/?q", [], False), ("/", [], True)],
    ),
    "query_exact_first_value_not_decoded": (
        {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "a%20b"}}]},
        [("/?q=a%20b", [], True), ("/?q=a%20b&q=x", [], True), ("/?q=x&q=a%20b", [], False), ("/?q=a+b", [], False)],
    ),
    "query_regex": (
        {"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"safe_regex": {"regex": "[0-9]+"}}}]},
        [("/?q=12", [], True), ("/?q=12x", [], False), ("/?q=", [], False), ("/?q=1=2", [], False)],
    ),
    "runtime_fraction_none": (
        {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 0, "denominator": "HUNDRED"}}},
        [("/", [], False)],
    ),
    "runtime_fraction_all": (
        {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 10_000, "denominator": "TEN_THOUSAND"}}},
        [("/", [], True)],
    ),
    "all_conditions_together": (
        {
            "prefix": "/a",
            "headers": [{"name": "x-a", "present_match": True}, {"name": "x-b", "present_match": True}],
            "query_parameters": [{"name": "q"}, {"name": "r"}],
        },
        [
            ("/a?q&r", [("x-a", "1"), ("x-b", "1")], True),
            ("/a?q", [("x-a", "1"), ("x-b", "1")], False),
            ("/a?q&r", [("x-a", "1")], False),
            ("/b?q&r", [("x-a", "1"), ("x-b", "1")], False),
        ],
    ),
    "deprecated_header_matches": (
        {
            "prefix": "/",
            "headers": [
                {"name": "x-a", "prefix_match": "a"},
                {"name": "x-a", "suffix_match": "z"},
                {"name": "x-a", "contains_match": "m"},
                {"name": "x-a", "safe_regex_match": {"regex": "[a-z]+"}},
                {"name": "x-b", "exact_match": "v"},
            ],
        },
        [("/", [("x-a", "amz"), ("x-b", "v")], True), ("/", [("x-a", "am1z"), ("x-b", "v")], False)],
    ),
}
CASES = [
    pytest.param(match, target, headers, expected, id=f"{name}-{number}")
    for name, (match, requests) in MATCHES.items()
    for number, (target, headers, expected) in enumerate(requests)
]


@pytest.mark.parametrize(("match", "target", "headers", "expected"), CASES)
def test_a_route_matches_what_envoy_matches(
    match: dict[str, Any], target: str, headers: Headers, expected: bool
) -> None:
    made = table([{"match": match, "route": {"cluster": "c"}}])
    assert (find(made, request(target, headers=headers)) is not None) is expected


def test_the_first_route_that_matches_wins() -> None:
    routes = [
        {"name": "short", "match": {"prefix": "/a"}, "route": {"cluster": "c"}},
        {"name": "long", "match": {"prefix": "/a/b"}, "route": {"cluster": "c"}},
        {"name": "rest", "match": {"prefix": "/"}, "route": {"cluster": "c"}},
    ]
    made = table(routes)
    assert found(made, request("/a/b")).name == "short"
    assert found(made, request("/b")).name == "rest"


def test_a_target_that_is_no_path_matches_no_prefix_of_slash() -> None:
    made = table([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])
    assert made.only_route is not None
    assert find(made, request("*")) is None


def test_path_parameters_are_left_out_when_asked_for() -> None:
    made = table([{"match": {"path": "/a"}, "route": {"cluster": "c"}}], ignore_path_parameters_in_path_matching=True)
    assert find(made, request("/a;v=1?q")) is not None
    assert find(made, request("/b;/a")) is None


def test_a_fraction_takes_its_share_of_the_random_numbers() -> None:
    values = iter([0, 29, 30, 99, 129])
    made = table(
        [
            {
                "match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 30}}},
                "route": {"cluster": "c"},
            }
        ],
        RouteTableSettings(random_value=lambda: next(values)),
    )
    assert [find(made, request()) is not None for _ in range(5)] == [True, True, False, False, True]


def test_one_unconditional_route_is_known_without_a_search() -> None:
    plain = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}
    conditional = {"match": {"prefix": "/", "headers": [{"name": "a"}]}, "route": {"cluster": "c"}}
    longer = {"match": {"prefix": "/a"}, "route": {"cluster": "c"}}
    assert table([plain, longer]).only_route is not None
    assert table([longer, plain]).only_route is None
    assert table([conditional, plain]).only_route is None
    assert table([]).only_route is None


@pytest.mark.parametrize(
    ("match", "path"),
    [
        ({"safe_regex": {"regex": "(a"}}, "virtual_hosts[0].routes[0].match.safe_regex.regex"),
        ({"prefix": "/", "headers": [{"name": "a"}, {"name": ""}]}, "virtual_hosts[0].routes[0].match.headers[1].name"),
        (
            {"prefix": "/", "headers": [{"name": "a", "string_match": {"safe_regex": {"regex": "["}}}]},
            "virtual_hosts[0].routes[0].match.headers[0].string_match.safe_regex.regex",
        ),
        (
            {"prefix": "/", "headers": [{"name": "a", "string_match": {}}]},
            "virtual_hosts[0].routes[0].match.headers[0].string_match",
        ),
        ({"path_separated_prefix": "/a/"}, "virtual_hosts[0].routes[0].match.path_separated_prefix"),
        ({}, "virtual_hosts[0].routes[0].match"),
        ({"connect_matcher": {}}, "virtual_hosts[0].routes[0].match.connect_matcher"),
    ],
)
def test_a_match_that_cannot_be_built_says_where(match: dict[str, Any], path: str) -> None:
    with pytest.raises(RouteConfigError) as caught:
        table([{"match": match, "route": {"cluster": "c"}}])
    assert caught.value.path == path

"""Matchers. What they match in routes is in ``tests/unit/router/test_matching.py``; here what that does not reach."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.json_format import ParseDict

from workerproxy.http import matchers
from workerproxy.http.headers import ResponseHeaders
from workerproxy.http.matchers import (
    MatcherError,
    fraction_test,
    header_test,
    regex_rewrite,
    regex_test,
    string_test,
)


@pytest.mark.parametrize(
    ("config", "matching", "other"),
    [
        ({"exact": "é"}, "é", "e"),
        ({"exact": ""}, "", "x"),
        ({"exact": "aB", "ignore_case": True}, "Ab", "abc"),
        ({"prefix": "a"}, "ab", "ba"),
        ({"prefix": "A", "ignore_case": True}, "ab", "ba"),
        ({"suffix": "b"}, "ab", "ba"),
        ({"suffix": "B", "ignore_case": True}, "ab", "ba"),
        ({"contains": "b"}, "abc", "ac"),
        ({"contains": "B", "ignore_case": True}, "abc", "ac"),
        ({"safe_regex": {"regex": "(?i)A.*"}}, "abc", "bca"),
        ({"exact": "É", "ignore_case": True}, "É", "é"),  # only ASCII letters have two cases
    ],
)
def test_texts_match(config: dict[str, Any], matching: str, other: str) -> None:
    test = string_test(ParseDict(config, StringMatcher()))
    assert test(matching.encode())
    assert not test(other.encode())


def test_a_response_can_be_matched_by_its_status() -> None:
    test = header_test(ParseDict({"name": ":status", "range_match": {"start": 400, "end": 500}}, HeaderMatcher()))
    response = ResponseHeaders()
    response.status = 404
    assert test(response)
    response.status = 500
    assert not test(response)


@pytest.mark.parametrize(
    ("fraction", "passing"),
    [
        ({"numerator": 0}, 0),
        ({"numerator": 25}, 250_000),
        ({"numerator": 25, "denominator": "TEN_THOUSAND"}, 2_500),
        ({"numerator": 25, "denominator": "MILLION"}, 25),
        ({"numerator": 200}, 1_000_000),
    ],
)
def test_a_fraction_passes_its_share(fraction: dict[str, Any], passing: int) -> None:
    test = fraction_test(ParseDict(fraction, FractionalPercent()))
    assert sum(test(number) for number in range(1_000_000)) == passing


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "m"),
        ({"safe_regex": {"regex": "("}}, "m.safe_regex.regex"),
        ({"safe_regex": {"regex": "a"}, "ignore_case": True}, "m.ignore_case"),
        ({"custom": {"name": "x"}}, "m.custom"),
        ({"safe_regex": {"regex": "a{50}", "google_re2": {"max_program_size": 10}}}, "m.safe_regex.regex"),
    ],
)
def test_a_text_matcher_that_cannot_be_built_says_where(config: dict[str, Any], path: str) -> None:
    with pytest.raises(MatcherError) as caught:
        string_test(ParseDict(config, StringMatcher()), "m")
    assert caught.value.path == path


def test_errors_of_regular_expressions_name_them() -> None:
    with pytest.raises(MatcherError, match=r"'\(a' is no valid regular expression"):
        regex_test(RegexMatcher(regex="(a"))
    with pytest.raises(MatcherError, match="group 1"):
        regex_rewrite(RegexMatchAndSubstitute(pattern=RegexMatcher(regex="a"), substitution="\\1"))


def test_what_is_declared_as_read_is_in_the_messages() -> None:
    for message in (StringMatcher, HeaderMatcher, RegexMatcher, RegexMatchAndSubstitute, FractionalPercent):
        descriptor = message.DESCRIPTOR
        assert matchers.READS[descriptor.full_name] <= set(descriptor.fields_by_name)

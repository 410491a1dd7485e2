"""Matchers of routes, access log filters and virtual clusters: protobuf messages turned into plain callables.

Everything is decided when the configuration is built; per request a matcher is one call with bytes or a header map.
Envoy's names: ``StringMatcherImpl``, ``HeaderUtility::HeaderData…``, ``ConfigUtility::QueryParameterMatcher``.
Errors are ``MatcherError``, whose ``path`` names the field inside the message that was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from workerproxy.http.joined import JOINED_IN_REQUESTS
from workerproxy.http.regex import Match, RegexError, Rewrite, full_match, rewrite

if TYPE_CHECKING:
    from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, QueryParameterMatcher
    from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher
    from envoy.type.matcher.v3.string_pb2 import StringMatcher
    from envoy.type.v3.percent_pb2 import FractionalPercent

    from workerproxy.http.headers import HeaderMap

TextTest = Callable[[bytes], Any]  # truthy when the text matches
HeaderTest = Callable[["HeaderMap"], bool]
QueryTest = Callable[[Mapping[bytes, bytes]], bool]

# Which fields are read here; the rest is refused by the configuration.
READS: Final[dict[str, frozenset[str]]] = {
    "envoy.type.matcher.v3.StringMatcher": frozenset(
        {"exact", "prefix", "suffix", "contains", "safe_regex", "ignore_case"}
    ),
    "envoy.type.matcher.v3.RegexMatcher": frozenset({"regex", "google_re2"}),
    "envoy.type.matcher.v3.RegexMatcher.GoogleRE2": frozenset({"max_program_size"}),
    "envoy.type.matcher.v3.RegexMatchAndSubstitute": frozenset({"pattern", "substitution"}),
    "envoy.config.route.v3.HeaderMatcher": frozenset(
        {
            "name",
            "exact_match",
            "safe_regex_match",
            "range_match",
            "present_match",
            "prefix_match",
            "suffix_match",
            "contains_match",
            "string_match",
            "invert_match",
            "treat_missing_header_as_empty",
        }
    ),
    "envoy.config.route.v3.QueryParameterMatcher": frozenset({"name", "string_match", "present_match"}),
    "envoy.type.v3.Int64Range": frozenset({"start", "end"}),
    "envoy.type.v3.FractionalPercent": frozenset({"numerator", "denominator"}),
}

DENOMINATORS: Final = (100, 10_000, 1_000_000)  # FractionalPercent.DenominatorType
_INT64: Final = re.compile(rb"[ \t]*([+-]?[0-9]+)[ \t]*")


class MatcherError(ValueError):
    """A matcher that cannot be built. ``path``: the field, from the given message on."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}" if path else problem)


def regex_test(config: RegexMatcher, path: str = "") -> Match:
    """A test for ``safe_regex``: the whole text must match."""
    try:
        return full_match(config.regex, _max_program_size(config))
    except RegexError as error:
        raise MatcherError(f"{path}.regex".lstrip("."), str(error)) from None


def regex_rewrite(config: RegexMatchAndSubstitute, path: str = "") -> Rewrite:
    try:
        return rewrite(config.pattern.regex, config.substitution, _max_program_size(config.pattern))
    except RegexError as error:
        raise MatcherError(path, str(error)) from None


def _max_program_size(config: RegexMatcher) -> int | None:
    if config.HasField("google_re2") and config.google_re2.HasField("max_program_size"):
        return int(config.google_re2.max_program_size.value)
    return None


def string_test(config: StringMatcher, path: str = "") -> TextTest:
    """A test for a ``StringMatcher``. Case is folded for ASCII letters only, as Envoy does."""
    kind = config.WhichOneof("match_pattern")
    if kind == "safe_regex":
        if config.ignore_case:
            raise MatcherError(f"{path}.ignore_case".lstrip("."), "has no effect with safe_regex; write (?i)")
        return regex_test(config.safe_regex, f"{path}.safe_regex".lstrip("."))
    if kind == "custom":
        raise MatcherError(f"{path}.custom".lstrip("."), "custom string matchers are not supported")
    if kind is None:
        raise MatcherError(path, "one of exact, prefix, suffix, contains, safe_regex is needed")
    return text_test(kind, getattr(config, kind), ignore_case=config.ignore_case)


def text_test(kind: str, pattern: str, *, ignore_case: bool = False) -> TextTest:
    """A test for ``exact``, ``prefix``, ``suffix`` or ``contains``."""
    wanted = pattern.encode("utf-8", "surrogateescape")
    if not ignore_case:
        if kind == "exact":
            return wanted.__eq__
        if kind == "prefix":
            return lambda value: value.startswith(wanted)
        if kind == "suffix":
            return lambda value: value.endswith(wanted)
        return lambda value: wanted in value
    folded = wanted.lower()
    if kind == "exact":
        return lambda value: value.lower() == folded
    if kind == "prefix":
        return lambda value: value.lower().startswith(folded)
    if kind == "suffix":
        return lambda value: value.lower().endswith(folded)
    return lambda value: folded in value.lower()


def header_test(config: HeaderMatcher, path: str = "") -> HeaderTest:
    """A test for a ``HeaderMatcher``: one of the header's values must match (none, with ``invert_match``).

    A missing header matches nothing but (in)presence, also under ``invert_match``, unless
    ``treat_missing_header_as_empty``. Values of headers that have only one are taken together (``joined``).
    """
    name = config.name.lower().encode()
    if not name:
        raise MatcherError(f"{path}.name".lstrip("."), "the header's name is empty")
    kind = config.WhichOneof("header_match_specifier") or "present_match"
    invert = config.invert_match
    missing = b"" if config.treat_missing_header_as_empty else None
    if kind == "present_match":
        wanted = config.present_match or config.WhichOneof("header_match_specifier") is None
        return _presence(name, wanted != invert, always=missing is not None)
    test = _value_test(config, kind, path)
    single = name in JOINED_IN_REQUESTS

    def matches(headers: HeaderMap) -> bool:
        if headers.more is None or single:
            value = headers.lookup(name)
            if value is None:
                value = missing
                if value is None:
                    return False
            return (not test(value)) if invert else bool(test(value))
        return _any_value(headers, name, test, missing) is (not invert)

    return matches


def _any_value(headers: HeaderMap, name: bytes, test: TextTest, missing: bytes | None) -> bool | None:
    """Whether a value passes; None when there is none and nothing stands in for it."""
    values = headers.get_all(name)
    if not values:
        value = headers.lookup(name)  # a pseudo header, which has one value
        if value is None:
            value = missing
        if value is None:
            return None
        values = [value]
    return any(test(value) for value in values)


def _presence(name: bytes, wanted: bool, *, always: bool) -> HeaderTest:
    if always:
        return lambda headers: wanted
    if wanted:
        return lambda headers: headers.lookup(name) is not None
    return lambda headers: headers.lookup(name) is None


def _value_test(config: HeaderMatcher, kind: str, path: str) -> TextTest:
    if kind == "string_match":
        return string_test(config.string_match, f"{path}.string_match".lstrip("."))
    if kind == "safe_regex_match":
        return regex_test(config.safe_regex_match, f"{path}.safe_regex_match".lstrip("."))
    if kind == "range_match":
        return _range_test(config.range_match.start, config.range_match.end)
    text = getattr(config, kind)
    if kind == "exact_match" and not text:
        return lambda value: True  # Envoy: an empty exact_match is met by any value
    return text_test(kind.removesuffix("_match"), text)


def _range_test(start: int, end: int) -> TextTest:
    def within(value: bytes) -> bool:
        match = _INT64.fullmatch(value)
        return match is not None and len(match[1]) < 21 and start <= int(match[1]) < end

    return within


def query_parameter_test(config: QueryParameterMatcher, path: str = "") -> QueryTest:
    """A test for a ``QueryParameterMatcher`` on the first values of the parameters (``query.first_values``)."""
    name = config.name.encode()
    kind = config.WhichOneof("query_parameter_match_specifier")
    if kind == "string_match":
        test = string_test(config.string_match, f"{path}.string_match".lstrip("."))
        return lambda parameters: (value := parameters.get(name)) is not None and bool(test(value))
    if kind == "present_match" and not config.present_match:
        return lambda parameters: name not in parameters
    return lambda parameters: name in parameters


def fraction_test(config: FractionalPercent) -> Callable[[int], bool]:
    """A test whether a random number falls into the fraction."""
    numerator, denominator = config.numerator, DENOMINATORS[config.denominator]
    if numerator >= denominator:
        return lambda value: True
    return lambda value: value % denominator < numerator

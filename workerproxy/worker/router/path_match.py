"""A route's path condition: ``prefix``, ``path``, ``path_separated_prefix`` or ``safe_regex``.

Tests get the path without query and fragment. Envoy's names: ``PrefixRouteEntryImpl``, ``PathRouteEntryImpl``,
``PathSeparatedPrefixRouteEntryImpl``, ``RegexRouteEntryImpl``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from workerproxy.http.matchers import MatcherError, regex_test, text_test
from workerproxy.worker.router.errors import RouteConfigError, at

if TYPE_CHECKING:
    from envoy.config.route.v3.route_components_pb2 import RouteMatch


class PathMatch(NamedTuple):
    """``test``: truthy when the path matches. ``matched``: what a prefix rewrite replaces; None for the whole path."""

    test: Callable[[bytes], Any]
    matched: bytes | None
    matches_any: bool  # every path that begins with "/" matches


def path_match(config: RouteMatch, path: str) -> PathMatch:
    """Build the condition. Raises ``RouteConfigError``; ``path`` is where the match stands."""
    kind = config.WhichOneof("path_specifier")
    ignore_case = config.HasField("case_sensitive") and not config.case_sensitive.value
    if kind == "safe_regex":
        try:
            return PathMatch(regex_test(config.safe_regex, "safe_regex"), None, False)
        except MatcherError as error:
            raise RouteConfigError(at(path, error.path), error.problem) from None
    if kind == "prefix":
        test = text_test("prefix", config.prefix, ignore_case=ignore_case)
        return PathMatch(test, config.prefix.encode(), config.prefix in ("", "/"))
    if kind == "path":
        return PathMatch(text_test("exact", config.path, ignore_case=ignore_case), config.path.encode(), False)
    if kind == "path_separated_prefix":
        return _separated_prefix(config.path_separated_prefix, ignore_case, at(path, "path_separated_prefix"))
    if kind is None:
        raise RouteConfigError(path, "one of prefix, path, path_separated_prefix, safe_regex is needed")
    raise RouteConfigError(at(path, kind), "is not supported")


def _separated_prefix(prefix: str, ignore_case: bool, path: str) -> PathMatch:
    if not prefix.startswith("/") or prefix.endswith("/") or "?" in prefix or "#" in prefix:
        raise RouteConfigError(path, f"{prefix!r} must begin and may not end with /, and has no ? or #")
    wanted = prefix.encode()
    longer = wanted + b"/"
    if ignore_case:
        folded, folded_longer = wanted.lower(), longer.lower()
        return PathMatch(lambda p: (low := p.lower()) == folded or low.startswith(folded_longer), wanted, False)
    return PathMatch(lambda p: p == wanted or p.startswith(longer), wanted, False)

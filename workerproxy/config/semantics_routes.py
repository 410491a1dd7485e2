"""The semantic checks of route tables, header mutations, regular expressions, format strings and data sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import re2

from workerproxy.config.errors import ConfigError
from workerproxy.config.report import Place
from workerproxy.config.suggest import did_you_mean
from workerproxy.config.walk import Visit
from workerproxy.http.formatter import FormatError, compile_format
from workerproxy.http.json_format import compile_json_format

# Envoy refuses larger programs unless runtime key re2.max_program_size.error_level says otherwise.
MAX_REGEX_PROGRAM: Final = 100
_DEFAULT_DIRECT_BODY: Final = 4096  # RouteConfiguration.max_direct_response_body_size_bytes
_PREFIX: Final = "envoy.config.route.v3."


class RouteChecks:
    """``checks``: message type -> check. ``clusters``: the names that routes may use."""

    def __init__(self, clusters: Sequence[str]) -> None:
        self._clusters = frozenset(clusters)
        self.checks: Mapping[str, Callable[[Visit], Iterable[ConfigError]]] = {
            f"{_PREFIX}RouteConfiguration": self._route_configuration,
            f"{_PREFIX}RouteAction": self._route_action,
            f"{_PREFIX}WeightedCluster": self._weighted_cluster,
            "envoy.type.matcher.v3.RegexMatcher": self._regex,
            "envoy.config.core.v3.HeaderValueOption": self._header,
            "envoy.config.core.v3.SubstitutionFormatString": self._format,
            "envoy.extensions.access_loggers.file.v3.FileAccessLog": self._file_log,
            **dict.fromkeys(
                [f"{_PREFIX}{name}" for name in ("VirtualHost", "Route", "WeightedCluster.ClusterWeight")],
                self._removed_headers,
            ),
        }

    # --- route tables ------------------------------------------------------------------------------------------

    def _route_configuration(self, visit: Visit) -> Iterator[ConfigError]:
        place, table = Place.of(visit), visit.message
        seen: dict[str, Place] = {}
        for i, host in enumerate(table.virtual_hosts):
            here = place.item("virtual_hosts", i)
            for j, domain in enumerate(host.domains):
                at = here.item("domains", j)
                form = domain.lower()
                if form in seen:
                    yield at.error(f"the domain {domain!r} is already given {seen[form].where}", "each domain once")
                seen.setdefault(form, at)
            for j, route in enumerate(host.routes):
                yield from self._route(here.item("routes", j), route, table)
        yield from self._removed_headers(visit)

    def _route(self, place: Place, route: Any, table: Any) -> Iterator[ConfigError]:
        action = route.WhichOneof("action")
        if action == "direct_response":
            limit = table.max_direct_response_body_size_bytes
            yield from _data_source(
                place.field("direct_response").field("body"),
                route.direct_response.body,
                limit.value if table.HasField("max_direct_response_body_size_bytes") else _DEFAULT_DIRECT_BODY,
            )
        if action != "route" or (table.HasField("validate_clusters") and not table.validate_clusters.value):
            return
        here, target = place.field("route"), route.route
        if target.cluster:
            yield from self._known_cluster(here.field("cluster"), target.cluster)
        for i, weighted in enumerate(target.weighted_clusters.clusters):
            if weighted.name:
                at = here.field("weighted_clusters").item("clusters", i).field("name")
                yield from self._known_cluster(at, weighted.name)
        for i, policy in enumerate(target.request_mirror_policies):
            if policy.cluster:
                at = here.item("request_mirror_policies", i).field("cluster")
                yield from self._known_cluster(at, policy.cluster)

    def _known_cluster(self, place: Place, name: str) -> Iterator[ConfigError]:
        if name not in self._clusters:
            hint = did_you_mean(name, self._clusters) or ("" if self._clusters else "no clusters are configured")
            yield place.error(f"there is no cluster {name!r} in static_resources.clusters", hint=hint)

    def _route_action(self, visit: Visit) -> Iterator[ConfigError]:
        action, place = visit.message, Place.of(visit)
        rewrites = [name for name in ("prefix_rewrite", "path_rewrite") if getattr(action, name)]
        rewrites += [name for name in ("regex_rewrite", "path_rewrite_policy") if action.HasField(name)]
        if len(rewrites) > 1:
            yield place.field(rewrites[1]).error(f"cannot be set together with '{rewrites[0]}'", "one path rewrite")

    def _weighted_cluster(self, visit: Visit) -> Iterator[ConfigError]:
        clusters = visit.message.clusters
        if clusters and not sum(cluster.weight.value for cluster in clusters):
            yield Place.of(visit).field("clusters").error("the weights add up to nothing", "a sum above 0")

    # --- headers -----------------------------------------------------------------------------------------------

    def _removed_headers(self, visit: Visit) -> Iterator[ConfigError]:
        for field in ("request_headers_to_remove", "response_headers_to_remove"):
            for i, name in enumerate(getattr(visit.message, field)):
                if _is_untouchable(name):
                    yield Place.of(visit).item(field, i).error(f"the header {name!r} cannot be removed")

    def _header(self, visit: Visit) -> Iterator[ConfigError]:
        place, header = Place.of(visit).field("header"), visit.message.header
        if _is_untouchable(header.key):
            yield place.field("key").error(f"the header {header.key!r} cannot be set this way")
        yield from _format_text(place.field("value"), header.value)

    # --- texts with a grammar of their own ---------------------------------------------------------------------

    def _regex(self, visit: Visit) -> Iterator[ConfigError]:
        place, text = Place.of(visit).field("regex"), visit.message.regex
        options = re2.Options()
        options.log_errors = False
        try:
            size = re2.compile(text, options).programsize
        except re2.error as error:
            reason = error.args[0].decode("utf-8", "replace") if error.args else "cannot be compiled"
            yield place.error(f"not a valid RE2 regular expression: {reason}", hint=_regex_hint(text))
            return
        if size > MAX_REGEX_PROGRAM:
            expected = f"a program size of at most {MAX_REGEX_PROGRAM}"
            yield place.error("the regular expression is too large", expected, str(size))

    def _format(self, visit: Visit) -> Iterator[ConfigError]:
        place, text = Place.of(visit), visit.message
        yield from _format_text(place.field("text_format"), text.text_format)
        if text.HasField("text_format_source"):
            source = place.field("text_format_source")
            yield from _data_source(source, text.text_format_source, None)
            yield from _format_text(source.field("inline_string"), text.text_format_source.inline_string)
        if text.HasField("json_format"):
            yield from _json_format(place.field("json_format"), text.json_format)

    def _file_log(self, visit: Visit) -> Iterator[ConfigError]:
        place, log = Place.of(visit), visit.message
        yield from _format_text(place.field("format"), log.format)
        for name in ("json_format", "typed_json_format"):
            if log.HasField(name):
                yield from _json_format(place.field(name), getattr(log, name))


def _is_untouchable(name: str) -> bool:
    return name.startswith(":") or name.lower() == "host"


def _regex_hint(text: str) -> str:
    return "RE2 has no look-ahead or look-behind" if any(part in text for part in ("(?=", "(?!", "(?<")) else ""


def _format_text(place: Place, text: str) -> Iterator[ConfigError]:
    if "%" not in text:
        return
    try:
        compile_format(text)
    except FormatError as error:
        yield _format_error(place, error)


def _json_format(place: Place, struct: Any) -> Iterator[ConfigError]:
    try:
        compile_json_format(_plain(struct))
    except FormatError as error:
        yield _format_error(place, error)


def _format_error(place: Place, error: FormatError) -> ConfigError:
    hint = f"did you mean {error.suggestion}?" if error.suggestion else ""
    return place.error(f"{error.problem} (character {error.position + 1} of {error.text!r})", hint=hint)


def _plain(value: Any) -> Any:
    """A Struct, Value or ListValue as Python data."""
    kind = value.DESCRIPTOR.full_name
    if kind == "google.protobuf.Struct":
        return {key: _plain(value.fields[key]) for key in value.fields}
    if kind == "google.protobuf.ListValue":
        return [_plain(item) for item in value.values]
    chosen = value.WhichOneof("kind")
    inner = getattr(value, chosen) if chosen else None
    if chosen in ("struct_value", "list_value"):
        return _plain(inner)
    return None if chosen == "null_value" else inner


def _data_source(place: Place, source: Any, limit: int | None) -> Iterator[ConfigError]:
    kind = source.WhichOneof("specifier")
    if kind == "environment_variable":
        if source.environment_variable not in os.environ:
            yield place.field(kind).error(f"the environment variable {source.environment_variable!r} is not set")
        return
    if kind == "filename":
        try:
            size = os.stat(source.filename).st_size
        except OSError as error:
            yield place.field(kind).error(f"{source.filename!r} cannot be read: {error.strerror}")
            return
    else:
        size = len(getattr(source, kind)) if kind == "inline_bytes" else len(source.inline_string.encode())
    if limit is not None and size > limit:
        hint = "see max_direct_response_body_size_bytes"
        yield place.error("the body is too large", f"at most {limit} bytes", f"{size} bytes", hint)

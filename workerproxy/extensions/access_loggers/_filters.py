"""Access log filters: which requests are logged. From ``AccessLogFilter`` to one callable.

Shared by the access loggers of this folder. Envoy's names: ``AccessLog::FilterFactory``, ``StatusCodeFilter`` ….
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from workerproxy.extensions.access_loggers._errors import AccessLogError, at
from workerproxy.http.format_headers import response_grpc_status
from workerproxy.http.format_times import duration_ms
from workerproxy.http.matchers import DENOMINATORS, MatcherError, header_test
from workerproxy.http.outcome import FLAG_NAMES

if TYPE_CHECKING:
    from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter, ComparisonFilter, RuntimeFilter

    from workerproxy.http.stream_info import StreamInfo

Filter = Callable[["StreamInfo"], bool]

_ACCESS_LOG: Final = "envoy.config.accesslog.v3"
READS: Final[dict[str, frozenset[str]]] = {
    f"{_ACCESS_LOG}.AccessLogFilter": frozenset(
        {
            "status_code_filter",
            "duration_filter",
            "not_health_check_filter",
            "runtime_filter",
            "and_filter",
            "or_filter",
            "header_filter",
            "response_flag_filter",
            "grpc_status_filter",
            "log_type_filter",
        }
    ),
    f"{_ACCESS_LOG}.StatusCodeFilter": frozenset({"comparison"}),
    f"{_ACCESS_LOG}.DurationFilter": frozenset({"comparison"}),
    f"{_ACCESS_LOG}.ComparisonFilter": frozenset({"op", "value"}),
    f"{_ACCESS_LOG}.NotHealthCheckFilter": frozenset(),
    f"{_ACCESS_LOG}.RuntimeFilter": frozenset({"runtime_key", "percent_sampled", "use_independent_randomness"}),
    f"{_ACCESS_LOG}.AndFilter": frozenset({"filters"}),
    f"{_ACCESS_LOG}.OrFilter": frozenset({"filters"}),
    f"{_ACCESS_LOG}.HeaderFilter": frozenset({"header"}),
    f"{_ACCESS_LOG}.ResponseFlagFilter": frozenset({"flags"}),
    f"{_ACCESS_LOG}.GrpcStatusFilter": frozenset({"statuses", "exclude"}),
    f"{_ACCESS_LOG}.LogTypeFilter": frozenset({"types", "exclude"}),
}

# ComparisonFilter.Op
_COMPARISONS: Final[tuple[Callable[[int, int], bool], ...]] = (
    lambda value, limit: value == limit,
    lambda value, limit: value >= limit,
    lambda value, limit: value <= limit,
    lambda value, limit: value != limit,
)


def compile_filter(config: AccessLogFilter, path: str = "filter") -> Filter:
    """The filter as a callable. Raises ``AccessLogError``; ``path`` is where it stands."""
    kind = config.WhichOneof("filter_specifier")
    if kind in ("and_filter", "or_filter"):
        parts = [
            compile_filter(part, at(path, kind, "filters", index))
            for index, part in enumerate(getattr(config, kind).filters)
        ]
        if len(parts) < 2:
            raise AccessLogError(at(path, kind, "filters"), "at least two filters are needed")
        return _combined(parts, all_of_them=kind == "and_filter")
    build = _BUILDERS.get(kind or "")
    if build is None or kind is None:
        raise AccessLogError(at(path, kind) if kind else path, "is not supported" if kind else "no filter is set")
    return build(getattr(config, kind), at(path, kind))


def _combined(parts: list[Filter], *, all_of_them: bool) -> Filter:
    if all_of_them:
        return lambda info: all(part(info) for part in parts)
    return lambda info: any(part(info) for part in parts)


def _status_code(config: Any, path: str) -> Filter:
    compare, limit = _comparison(config.comparison)
    return lambda info: compare(info.response_code, limit)


def _duration(config: Any, path: str) -> Filter:
    compare, limit = _comparison(config.comparison)
    return lambda info: compare(duration_ms(info), limit)


def _comparison(config: ComparisonFilter) -> tuple[Callable[[int, int], bool], int]:
    return _COMPARISONS[config.op], config.value.default_value


def _not_health_check(config: Any, path: str) -> Filter:
    """Only the health check filter marks requests; without it there are none to leave out."""
    return lambda info: True


def _runtime(config: RuntimeFilter, path: str) -> Filter:
    """A share of the requests: by the request id, so that all proxies on its way choose the same, or at random."""
    numerator: int = config.percent_sampled.numerator
    denominator = DENOMINATORS[config.percent_sampled.denominator]
    independent = config.use_independent_randomness

    def sampled(info: StreamInfo) -> bool:
        number = None if independent else _id_number(info.stream_id)
        if number is None:
            number = random.getrandbits(64)
        return number % denominator < numerator

    return sampled


def _id_number(stream_id: str) -> int | None:
    """The first 32 bits of a UUID."""
    if len(stream_id) < 36:
        return None
    try:
        return int(stream_id[:8], 16)
    except ValueError:
        return None


def _header(config: Any, path: str) -> Filter:
    try:
        test = header_test(config.header, "header")
    except MatcherError as error:
        raise AccessLogError(at(path, error.path), error.problem) from None
    return lambda info: info.request_headers is not None and bool(test(info.request_headers))


def _response_flag(config: Any, path: str) -> Filter:
    known = {short: bit for bit, short, _ in FLAG_NAMES}
    mask = 0
    for index, name in enumerate(config.flags):
        if name not in known:
            raise AccessLogError(at(path, "flags", index), f"{name!r} is not a response flag")
        mask |= known[name]
    if not mask:
        return lambda info: info.response_flags != 0
    return lambda info: info.response_flags & mask != 0


def _grpc_status(config: Any, path: str) -> Filter:
    statuses, exclude = frozenset(config.statuses), config.exclude
    return lambda info: (response_grpc_status(info) in statuses) is not exclude


def _log_type(config: Any, path: str) -> Filter:
    names = config.DESCRIPTOR.fields_by_name["types"].enum_type.values_by_number
    types, exclude = frozenset(names[number].name for number in config.types), config.exclude
    return lambda info: (info.access_log_type in types) is not exclude


_BUILDERS: Final[dict[str, Callable[[Any, str], Filter]]] = {
    "status_code_filter": _status_code,
    "duration_filter": _duration,
    "not_health_check_filter": _not_health_check,
    "runtime_filter": _runtime,
    "header_filter": _header,
    "response_flag_filter": _response_flag,
    "grpc_status_filter": _grpc_status,
    "log_type_filter": _log_type,
}

"""The format operators that read header maps: ``%REQ(X?Y):Z%``, ``%PATH(…)%``, ``%QUERY_PARAM(…)%``, ``%GRPC_STATUS%``.

Called by ``format_operators`` when a format is compiled. The getters run once per line. Envoy's names:
``HeaderFormatter``, ``PathFormatter``, ``QueryParameterFormatter``, ``GrpcStatusFormatter``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from workerproxy.http.query import first_values

if TYPE_CHECKING:
    from workerproxy.http.headers import HeaderMap
    from workerproxy.http.stream_info import StreamInfo

TextGetter = Callable[["StreamInfo"], bytes | None]

_NAME: Final = re.compile(r":?[!#$%&'*+\-.^_`|~0-9A-Za-z]+|")  # RFC 9110 section 5.1, pseudo headers, or nothing

# The pseudo headers of a request, which its map holds as attributes.
_REQUEST_ATTRIBUTES: Final = {
    b":method": "method",
    b":path": "path",
    b":authority": "authority",
    b"host": "authority",
    b":scheme": "scheme",
}

# gRPC codes 0 to 16 (grpc/status.h), as %GRPC_STATUS% names them.
GRPC_CAMEL: Final = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
]
GRPC_SNAKE: Final = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
# What an HTTP status means when there is no grpc-status; anything else is Unknown (2).
GRPC_FROM_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
GRPC_UNKNOWN: Final = 2
GRPC_INVALID: Final = -1


class HeaderNameError(ValueError):
    """The argument names no header; the text says why."""


def header_getter(source: str, argument: str, length: int | None) -> TextGetter:
    """The first value of the header X of ``X?Y``, of Y when X is absent; at most ``length`` bytes of it.

    ``source`` is the attribute of ``StreamInfo``. Raises ``HeaderNameError``.
    """
    names = argument.lower().split("?")
    if len(names) > 2:
        raise HeaderNameError(f'"{argument}" has more than one alternative')
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise HeaderNameError(f'"{name}" is not a header name')
    main, other = (names[0].encode(), names[1].encode() if len(names) > 1 else b"")
    if source == "request_headers" and (main in _REQUEST_ATTRIBUTES or other in _REQUEST_ATTRIBUTES):
        get = _request_getter(main, other)
    elif source == "response_headers" and b":status" in (main, other):
        get = _response_getter(main, other)
    else:
        get = _field_getter(source, main, other)
    if length is None:
        return get
    return lambda info: value if (value := get(info)) is None else value[:length]


def _field_getter(source: str, main: bytes, other: bytes) -> TextGetter:
    if source == "request_headers" and not other:

        def request_field(info: StreamInfo) -> bytes | None:
            fields = info.request_headers
            return None if fields is None else fields.get(main)

        return request_field

    def field(info: StreamInfo) -> bytes | None:
        fields: HeaderMap | None = getattr(info, source)
        if fields is None:
            return None
        value = fields.get(main)
        return fields.get(other) if value is None and other else value

    return field


def _request_getter(main: bytes, other: bytes) -> TextGetter:
    if main in _REQUEST_ATTRIBUTES:  # always there in a request that was read
        attribute = _REQUEST_ATTRIBUTES[main]
        return lambda info: (
            None if (fields := info.request_headers) is None else getattr(fields, attribute, b"") or None
        )
    attribute = _REQUEST_ATTRIBUTES[other]

    def field(info: StreamInfo) -> bytes | None:
        fields = info.request_headers
        if fields is None:
            return None
        value = fields.get(main)
        return getattr(fields, attribute, b"") or None if value is None else value

    return field


def _response_getter(main: bytes, other: bytes) -> TextGetter:
    def field(info: StreamInfo) -> bytes | None:
        fields = info.response_headers
        if fields is None:
            return None
        value = b"%d" % fields.status if main == b":status" else fields.get(main)
        return fields.lookup(other) if value is None else value

    return field


def path_getter(with_query: bool, option: str, length: int | None) -> TextGetter:
    """``%PATH%``: the path as it is (``PATH``), as it was before rewriting (``ORIG``), or the one that is there."""

    def path(info: StreamInfo) -> bytes | None:
        fields = info.request_headers
        if fields is None:
            return None
        value = b"" if option == "PATH" else fields.get(b"x-envoy-original-path", b"")
        if not value and option != "ORIG":
            value = getattr(fields, "path", b"")
        if not value:
            return None
        if not with_query:
            value = value.partition(b"?")[0]
        return value[:length]

    return path


def query_parameter_getter(name: bytes, length: int | None) -> TextGetter:
    """``%QUERY_PARAM(X):Z%``: the first value of a query parameter, percent-decoded (``+`` stays)."""

    def parameter(info: StreamInfo) -> bytes | None:
        fields = info.request_headers
        if fields is None:
            return None
        query = getattr(fields, "path", b"").partition(b"?")[2]
        if not query:
            return None
        for key, value in first_values(query).items():
            if unquote_to_bytes(key) == name:
                return unquote_to_bytes(value)[:length]
        return None

    return parameter


def grpc_status(info: StreamInfo) -> int | None:
    """The gRPC status of a gRPC request's answer: from trailers, headers or the HTTP status."""
    fields = info.request_headers
    if fields is None:
        return None
    content_type = fields.get(b"content-type", b"")
    if content_type != b"application/grpc" and not content_type.startswith(b"application/grpc+"):
        return None
    return response_grpc_status(info) if info.response_code else None


def response_grpc_status(info: StreamInfo) -> int:
    """What a response says as a gRPC status, be the request gRPC or not: Unknown when it says nothing."""
    for source in (info.response_trailers, info.response_headers):
        text = source.get(b"grpc-status") if source is not None else None
        if text is not None:
            return int(text) if text.isdigit() else GRPC_INVALID
    return GRPC_FROM_HTTP.get(info.response_code, GRPC_UNKNOWN)


def grpc_status_name(*, snake: bool) -> TextGetter:
    """As ``grpc_status``, as Envoy's name of the code, or its number when it has none."""
    names = [name.encode() for name in (GRPC_SNAKE if snake else GRPC_CAMEL)]

    def status_name(info: StreamInfo) -> bytes | None:
        code = grpc_status(info)
        if code is None:
            return None
        return names[code] if 0 <= code < len(names) else b"%d" % code

    return status_name


def _fields_bytes(fields: HeaderMap | None) -> int:
    if fields is None:
        return 0
    return sum(len(name) + len(value) for name, value in fields.pairs())


def request_headers_bytes(info: StreamInfo) -> int:
    """``%REQUEST_HEADERS_BYTES%``: names and values as they are now, pseudo headers with them."""
    fields = info.request_headers
    if fields is None:
        return 0
    pseudo = [
        (name, getattr(fields, attribute, b"")) for name, attribute in _REQUEST_ATTRIBUTES.items() if name != b"host"
    ]
    return _fields_bytes(fields) + sum(len(name) + len(value) for name, value in pseudo if value)


def response_headers_bytes(info: StreamInfo) -> int:
    fields = info.response_headers
    return 0 if fields is None else _fields_bytes(fields) + len(":status") + 3


def response_trailers_bytes(info: StreamInfo) -> int:
    return _fields_bytes(info.response_trailers)

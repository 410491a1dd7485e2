"""The command operators of format strings: one table, name -> what it takes and how it is built.

``formatter`` looks names up here when it compiles a format. A builder gets the operator's argument and length and gives
a ``Compiled``: a constant, or a getter that reads ``StreamInfo``. The rows and their values are Envoy's
(``stream_info_formatter.cc``, ``http_specific_formatter.cc``); what needs TLS, tracing or filter state is accepted and
unset, as Envoy prints it on a plaintext connection.
"""

from __future__ import annotations

import enum
import os
import socket
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from workerproxy.http import format_headers as headers
from workerproxy.http import format_times as times
from workerproxy.http.format_times import TimeFormatError, WallClock
from workerproxy.http.outcome import flags_text

if TYPE_CHECKING:
    from workerproxy.http.stream_info import StreamInfo

Getter = Callable[["StreamInfo"], Any]

# What a getter gives.
CONSTANT: Final = 0  # there is no getter: ``text`` is the value
TEXT: Final = 1  # bytes, or None for unset
NUMBER: Final = 2  # int
OPTIONAL_NUMBER: Final = 3  # int, or None for unset
JSON_VALUE: Final = 4  # any JSON value, or None for unset


def _nothing(info: StreamInfo) -> None:
    return None


class Compiled(NamedTuple):
    """A literal or an operator with its argument. ``limit``: bytes kept of a JSON_VALUE's text; None for all."""

    kind: int
    get: Getter = _nothing
    text: bytes = b""
    limit: int | None = None
    unsafe: bool = False  # the value may hold control characters


class Argument(enum.Enum):
    NONE = "takes no argument"
    OPTIONAL = "may have an argument"
    REQUIRED = "needs an argument"


class ArgumentError(ValueError):
    """An operator's argument is wrong; the text says how."""


class Operator(NamedTuple):
    build: Callable[[str, int | None, WallClock], Compiled]
    argument: Argument = Argument.NONE
    takes_length: bool = False


def _text(get: Getter) -> Operator:
    part = Compiled(TEXT, get)
    return Operator(lambda argument, length, clock: part)


def _number(get: Getter) -> Operator:
    part = Compiled(NUMBER, get)
    return Operator(lambda argument, length, clock: part)


def _optional_number(get: Getter) -> Operator:
    part = Compiled(OPTIONAL_NUMBER, get)
    return Operator(lambda argument, length, clock: part)


def _unset(argument: Argument = Argument.NONE, *, takes_length: bool = False) -> Operator:
    part = Compiled(TEXT)
    return Operator(lambda text, length, clock: part, argument, takes_length)


def _header(source: str) -> Operator:
    def build(argument: str, length: int | None, clock: WallClock) -> Compiled:
        try:
            return Compiled(TEXT, headers.header_getter(source, argument, length))
        except headers.HeaderNameError as error:
            raise ArgumentError(str(error)) from None

    return Operator(build, Argument.REQUIRED, takes_length=True)


def _time(source: Callable[[WallClock], times.TimeSource], *, local: bool) -> Operator:
    def build(argument: str, length: int | None, clock: WallClock) -> Compiled:
        if not argument:
            return Compiled(TEXT, times.default_time(source(clock), local=local))
        try:
            return Compiled(TEXT, times.formatted_time(argument, source(clock), local=local))
        except TimeFormatError as error:
            raise ArgumentError(str(error)) from None

    return Operator(build, Argument.OPTIONAL)


def _common_duration(argument: str, length: int | None, clock: WallClock) -> Compiled:
    try:
        return Compiled(OPTIONAL_NUMBER, times.common_duration(argument))
    except TimeFormatError as error:
        raise ArgumentError(str(error)) from None


def _code_details(argument: str, length: int | None, clock: WallClock) -> Compiled:
    if argument == "ALLOW_WHITESPACES":
        return Compiled(TEXT, lambda info: info.response_code_details.encode() or None)
    return Compiled(TEXT, lambda info: info.response_code_details.encode().translate(_SPACES_TO_UNDERSCORES) or None)


def _path(argument: str, length: int | None, clock: WallClock) -> Compiled:
    query, _, option = argument.partition(":")
    if query not in ("", "WQ", "NQ"):
        raise ArgumentError(f'"{query}" is not WQ (with the query) or NQ (without)')
    if option not in ("", "ORIG", "PATH", "ORIG_OR_PATH"):
        raise ArgumentError(f'"{option}" is not ORIG, PATH or ORIG_OR_PATH')
    return Compiled(TEXT, headers.path_getter(query != "NQ", option or "ORIG_OR_PATH", length))


def _query_parameter(argument: str, length: int | None, clock: WallClock) -> Compiled:
    return Compiled(TEXT, headers.query_parameter_getter(argument.encode(), length), unsafe=True)


def _grpc_status(argument: str, length: int | None, clock: WallClock) -> Compiled:
    if argument == "NUMBER":
        return Compiled(OPTIONAL_NUMBER, headers.grpc_status)
    if argument not in ("", "CAMEL_STRING", "SNAKE_STRING"):
        raise ArgumentError(f'"{argument}" is not CAMEL_STRING, SNAKE_STRING or NUMBER')
    return Compiled(TEXT, headers.grpc_status_name(snake=argument == "SNAKE_STRING"))


def _dynamic_metadata(argument: str, length: int | None, clock: WallClock) -> Compiled:
    namespace, *path = argument.split(":")

    def value(info: StreamInfo) -> Any:
        if info.dynamic_metadata is None:
            return None
        found: Any = info.dynamic_metadata.get(namespace)
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return Compiled(JSON_VALUE, value, limit=length, unsafe=True)


def _filter_state(argument: str, length: int | None, clock: WallClock) -> Compiled:
    key, _, rest = argument.partition(":")
    kind, _, field = rest.partition(":")
    if not key:
        raise ArgumentError("the key is missing")
    if kind not in ("", "PLAIN", "TYPED", "FIELD") or (kind == "FIELD") != bool(field):
        raise ArgumentError(f'"{rest}" is not PLAIN, TYPED or FIELD:<name>')
    return Compiled(TEXT)


def _environment(argument: str, length: int | None, clock: WallClock) -> Compiled:
    value = os.environb.get(os.fsencode(argument))
    return Compiled(CONSTANT, text=b"-" if value is None else value[:length])


def _hostname(argument: str, length: int | None, clock: WallClock) -> Compiled:
    return Compiled(CONSTANT, text=socket.gethostname().encode())


def _response_flags(info: StreamInfo) -> bytes:
    flags = info.response_flags
    return flags_text(flags).encode() if flags else b"-"


def without_port(address: str) -> str:
    """``10.0.0.1`` of ``10.0.0.1:80``, ``::1`` of ``[::1]:80``; a pipe's path as it is."""
    if address.startswith(("/", "@")):
        return address
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _address_operators(name: str, get: Callable[[StreamInfo], str]) -> dict[str, Operator]:
    """The operators ``<name>_ADDRESS``, ``<name>_ADDRESS_WITHOUT_PORT`` and ``<name>_PORT``."""

    def port(info: StreamInfo) -> int | None:
        text = get(info).rpartition(":")[2]
        return int(text) if text.isdecimal() else None

    return {
        f"{name}_ADDRESS": _text(lambda info: get(info).encode() or None),
        f"{name}_ADDRESS_WITHOUT_PORT": _text(lambda info: without_port(get(info)).encode() or None),
        f"{name}_PORT": _optional_number(port),
    }


def _upstream_host_name(info: StreamInfo) -> str:
    return info.upstream_host_name or info.upstream_host


def _upstream_host_name_without_port(info: StreamInfo) -> bytes | None:
    name = _upstream_host_name(info)
    colon = name.rfind(":")
    return (name[:colon] if colon > name.rfind("]") else name).encode() or None


def _unique_id(info: StreamInfo) -> bytes:
    return str(uuid.uuid4()).encode()


_SPACES_TO_UNDERSCORES: Final = bytes(95 if byte in b" \t\n\v\f\r" else byte for byte in range(256))

# Unset on plaintext connections, without tracing and without filter state.
_UNSET: Final = [
    "ROUNDTRIP_DURATION",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "TRACE_ID",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_CERT",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
]

# Operators of Envoy's that are refused: ``StreamInfo`` does not hold what they print.
NOT_SUPPORTED: Final = frozenset(
    {
        "CEL",
        "CLUSTER_METADATA",
        "METADATA",
        "REQ_WITHOUT_QUERY",
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        "UPSTREAM_METADATA",
    }
)

OPERATORS: Final[dict[str, Operator]] = {
    # request and response
    "REQ": _header("request_headers"),
    "RESP": _header("response_headers"),
    "TRAILER": _header("response_trailers"),
    "STREAM_INFO_REQ": _header("request_headers"),
    "PATH": Operator(_path, Argument.OPTIONAL, takes_length=True),
    "QUERY_PARAM": Operator(_query_parameter, Argument.REQUIRED, takes_length=True),
    "PROTOCOL": _text(lambda info: info.protocol.encode() or None),
    "UPSTREAM_PROTOCOL": _text(lambda info: info.upstream_protocol.encode() or None),
    "RESPONSE_CODE": _number(lambda info: info.response_code),
    "RESPONSE_CODE_DETAILS": Operator(_code_details, Argument.OPTIONAL),
    "CONNECTION_TERMINATION_DETAILS": _text(lambda info: info.connection_termination_details.encode() or None),
    "RESPONSE_FLAGS": _text(_response_flags),
    "RESPONSE_FLAGS_LONG": _text(lambda info: flags_text(info.response_flags, long=True).encode()),
    "CUSTOM_FLAGS": _text(lambda info: b""),
    "LOCAL_REPLY_BODY": Operator(
        lambda argument, length, clock: Compiled(TEXT, lambda info: info.local_reply_body, unsafe=True)
    ),
    "GRPC_STATUS": Operator(_grpc_status, Argument.OPTIONAL),
    "GRPC_STATUS_NUMBER": _optional_number(headers.grpc_status),
    # sizes
    "BYTES_RECEIVED": _number(lambda info: info.bytes_received),
    "BYTES_SENT": _number(lambda info: info.bytes_sent),
    "BYTES_RETRANSMITTED": _number(lambda info: 0),
    "PACKETS_RETRANSMITTED": _number(lambda info: 0),
    "REQUEST_HEADERS_BYTES": _number(headers.request_headers_bytes),
    "RESPONSE_HEADERS_BYTES": _number(headers.response_headers_bytes),
    "RESPONSE_TRAILERS_BYTES": _number(headers.response_trailers_bytes),
    "UPSTREAM_WIRE_BYTES_SENT": _number(lambda info: info.upstream_wire_bytes_sent),
    "UPSTREAM_WIRE_BYTES_RECEIVED": _number(lambda info: info.upstream_wire_bytes_received),
    "UPSTREAM_HEADER_BYTES_SENT": _number(lambda info: info.upstream_header_bytes_sent),
    "UPSTREAM_HEADER_BYTES_RECEIVED": _number(lambda info: info.upstream_header_bytes_received),
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT": _number(lambda info: info.upstream_header_bytes_sent),
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED": _number(lambda info: info.upstream_header_bytes_received),
    "DOWNSTREAM_WIRE_BYTES_SENT": _number(lambda info: info.downstream_wire_bytes_sent),
    "DOWNSTREAM_WIRE_BYTES_RECEIVED": _number(lambda info: info.downstream_wire_bytes_received),
    "DOWNSTREAM_HEADER_BYTES_SENT": _number(lambda info: info.response_head_bytes),
    "DOWNSTREAM_HEADER_BYTES_RECEIVED": _number(lambda info: info.request_head_bytes),
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT": _number(lambda info: info.response_head_bytes),
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED": _number(lambda info: info.request_head_bytes),
    # times
    "START_TIME": _time(times.start_time, local=False),
    "START_TIME_LOCAL": _time(times.start_time, local=True),
    "EMIT_TIME": _time(times.emit_time, local=False),
    "EMIT_TIME_LOCAL": _time(times.emit_time, local=True),
    "DURATION": _number(times.duration_ms),
    "COMMON_DURATION": Operator(_common_duration, Argument.REQUIRED),
    "REQUEST_DURATION": _optional_number(times.duration_since_start("request_complete_time")),
    "REQUEST_TX_DURATION": _optional_number(times.duration_since_start("upstream_last_tx")),
    "RESPONSE_DURATION": _optional_number(times.duration_since_start("upstream_first_rx")),
    "RESPONSE_TX_DURATION": _optional_number(times.response_tx_duration),
    # routing and upstream
    "ROUTE_NAME": _text(lambda info: info.route_name.encode() or None),
    "VIRTUAL_CLUSTER_NAME": _text(lambda info: info.virtual_cluster_name.encode() or None),
    "UPSTREAM_CLUSTER": _text(lambda info: info.upstream_cluster.encode() or None),
    "UPSTREAM_CLUSTER_RAW": _text(lambda info: info.upstream_cluster_raw.encode() or None),
    "UPSTREAM_HOST": _text(lambda info: info.upstream_host.encode() or None),
    "UPSTREAM_HOST_NAME": _text(lambda info: _upstream_host_name(info).encode() or None),
    "UPSTREAM_HOST_NAME_WITHOUT_PORT": _text(_upstream_host_name_without_port),
    **_address_operators("UPSTREAM_LOCAL", lambda info: info.upstream_local_address),
    # An upstream connection that was never made has no remote address, though a host was chosen.
    **_address_operators("UPSTREAM_REMOTE", lambda info: info.upstream_host if info.upstream_local_address else ""),
    "UPSTREAM_TRANSPORT_FAILURE_REASON": _text(
        lambda info: info.upstream_transport_failure_reason.replace(" ", "_").encode() or None
    ),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": _number(lambda info: info.upstream_attempt_count),
    "UPSTREAM_CONNECTION_ID": _number(lambda info: info.upstream_connection_id),
    # downstream connection
    **_address_operators("DOWNSTREAM_REMOTE", lambda info: info.downstream_remote_address),
    **_address_operators("DOWNSTREAM_DIRECT_REMOTE", lambda info: info.downstream_direct_remote_address),
    **_address_operators("DOWNSTREAM_LOCAL", lambda info: info.downstream_local_address),
    **_address_operators("DOWNSTREAM_DIRECT_LOCAL", lambda info: info.downstream_local_address),
    "CONNECTION_ID": _number(lambda info: info.connection_id),
    "STREAM_ID": _text(lambda info: info.stream_id.encode() or None),
    "REQUESTED_SERVER_NAME": _text(lambda info: info.requested_server_name.encode() or None),
    "FILTER_CHAIN_NAME": _text(lambda info: info.filter_chain_name.encode() or None),
    "ACCESS_LOG_TYPE": _text(lambda info: info.access_log_type.encode()),
    # the rest
    "DYNAMIC_METADATA": Operator(_dynamic_metadata, Argument.REQUIRED, takes_length=True),
    "FILTER_STATE": Operator(_filter_state, Argument.OPTIONAL, takes_length=True),
    "UPSTREAM_FILTER_STATE": Operator(_filter_state, Argument.OPTIONAL, takes_length=True),
    "HOSTNAME": Operator(_hostname),
    "ENVIRONMENT": Operator(_environment, Argument.REQUIRED, takes_length=True),
    "UNIQUE_ID": _text(_unique_id),
    **{
        f"{side}_PEER_CERT_V_{end}": _unset(Argument.OPTIONAL)
        for side in ("DOWNSTREAM", "UPSTREAM")
        for end in ("START", "END")
    },
    **{name: _unset() for name in _UNSET},
}

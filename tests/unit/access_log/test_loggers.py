"""The access loggers: formats, filters and destinations. Lines are what Envoy 1.40 wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StderrAccessLog, StdoutAccessLog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from workerproxy.extensions.access_loggers import file, stderr, stdout
from workerproxy.extensions.access_loggers._errors import AccessLogError
from workerproxy.extensions.registry import Registry
from workerproxy.http import outcome
from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders
from workerproxy.http.stream_info import StreamInfo


class Context:
    """Keeps the lines of each destination."""

    def __init__(self) -> None:
        self.lines: dict[str, list[bytes]] = {}

    def log_writer(self, destination: str) -> Callable[[bytes], None]:
        if destination.startswith("/nowhere"):
            raise FileNotFoundError(2, "No such file or directory")
        return self.lines.setdefault(destination, []).append


def pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def request_of(target: str = "/?q=1", **fields: Any) -> StreamInfo:
    info = StreamInfo()
    info.request_headers = RequestHeaders()
    info.request_headers.method, info.request_headers.path = b"GET", target.encode()
    info.request_headers.authority, info.request_headers.scheme = b"h", b"http"
    info.response_headers = ResponseHeaders()
    info.response_headers.status = 200
    info.response_code = 200
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def lines_of(config: dict[str, Any], *requests: StreamInfo, log_filter: dict[str, Any] | None = None) -> list[bytes]:
    context = Context()
    filter_config = None if log_filter is None else ParseDict(log_filter, AccessLogFilter())
    made = file.create(pack(ParseDict({"path": "/log", **config}, FileAccessLog())), filter_config, context)
    for info in requests:
        made.log(info)
    return context.lines["/log"]


TEXT = "%REQ(:METHOD)% %REQ(NOPE)%\n"
JSON = {"m": "%REQ(:METHOD)%", "n": "%REQ(NOPE)%", "c": "%RESPONSE_CODE%"}


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"log_format": {"text_format_source": {"inline_string": TEXT}}}, b"GET -\n"),
        ({"log_format": {"text_format_source": {"inline_bytes": "WP8lUFJPVE9DT0wlCg=="}}}, b"X\xffHTTP/1.1\n"),
        ({"log_format": {"text_format_source": {"environment_variable": "WORKERPROXY_TEST_FORMAT"}}}, b"200!"),
        ({"log_format": {"text_format_source": {"inline_string": TEXT}, "omit_empty_values": True}}, b"GET \n"),
        ({"log_format": {"text_format": TEXT}}, b"GET -\n"),
        ({"log_format": {"text_format": ""}}, b""),
        ({"log_format": {"json_format": JSON}}, b'{"c":200,"m":"GET","n":null}\n'),
        ({"log_format": {"json_format": JSON, "omit_empty_values": True}}, b'{"c":200,"m":"GET"}\n'),
        (
            {"log_format": {"json_format": JSON, "json_format_options": {"sort_properties": True}}},
            b'{"c":200,"m":"GET","n":null}\n',
        ),
        ({"json_format": JSON}, b'{"c":200,"m":"GET","n":null}\n'),
        ({"typed_json_format": JSON}, b'{"c":200,"m":"GET","n":null}\n'),
        ({"format": TEXT}, b"GET -\n"),
    ],
)
def test_a_file_logger_takes_all_forms_of_formats(
    config: dict[str, Any], line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "WORKERPROXY_TEST_FORMAT", "%RESPONSE_CODE%!")
    assert lines_of(config, request_of()) == [line]


@pytest.mark.parametrize("config", [{}, {"format": ""}])
def test_without_a_format_lines_are_envoys_default(config: dict[str, Any]) -> None:
    [line] = lines_of(config, request_of())
    assert line.startswith(b"[")
    assert line.partition(b"] ")[2].startswith(b'"GET /?q=1 HTTP/1.1" 200 - 0 0 ')
    assert line.endswith(b' - "-" "-" "-" "h" "-"\n')


def test_a_line_is_one_line_whatever_a_client_sends() -> None:
    info = request_of("/?q=a%0a1.2.3.4")
    assert lines_of({"format": "%QUERY_PARAM(q)%\n"}, info) == [b"a\\x0a1.2.3.4\n"]
    text = {"text_format_source": {"inline_string": "%QUERY_PARAM(q)%\n"}}
    assert lines_of({"log_format": text}, info) == [b"a\\x0a1.2.3.4\n"]
    assert lines_of({"json_format": {"q": "%QUERY_PARAM(q)%"}}, info) == [b'{"q":"a\\n1.2.3.4"}\n']


@pytest.mark.parametrize(
    ("module", "message", "destination"),
    [(stdout, StdoutAccessLog, "/dev/stdout"), (stderr, StderrAccessLog, "/dev/stderr")],
)
def test_standard_streams_are_destinations(module: ModuleType, message: type[Message], destination: str) -> None:
    context = Context()
    config = ParseDict({"log_format": {"text_format_source": {"inline_string": "%PROTOCOL%\n"}}}, message())
    module.create(pack(config), None, context).log(request_of())
    module.create(pack(message()), None, context).log(request_of())
    assert context.lines[destination][0] == b"HTTP/1.1\n"
    assert context.lines[destination][1].startswith(b"[")


def test_the_registry_finds_the_loggers_by_their_types() -> None:
    found = {extension.config_type: extension.module for extension in Registry().of("access_loggers")}
    for module, message in ((file, FileAccessLog), (stdout, StdoutAccessLog), (stderr, StderrAccessLog)):
        assert found[message.DESCRIPTOR.full_name] is module


def flagged(flags: int) -> StreamInfo:
    return request_of(response_flags=flags)


def with_header(value: bytes) -> StreamInfo:
    info = request_of()
    assert info.request_headers is not None
    info.request_headers[b"x-a"] = value
    return info


def with_status(status: bytes) -> StreamInfo:
    return request_of(response_trailers=HeaderMap({b"grpc-status": status}))


def took(seconds: float) -> StreamInfo:
    return request_of(start_time=100.0, end_time=100.0 + seconds)


def comparison(kind: str, operator: str, value: int) -> dict[str, Any]:
    return {kind: {"comparison": {"op": operator, "value": {"default_value": value, "runtime_key": "k"}}}}


A_HEADER = {"header_filter": {"header": {"name": "x-a", "string_match": {"exact": "1"}}}}
BAD_STATUS = comparison("status_code_filter", "GE", 400)
FILTERS: list[tuple[str, dict[str, Any], list[StreamInfo], list[bool]]] = [
    ("status_ge", BAD_STATUS, [request_of(response_code=c) for c in (399, 400, 401, 0)], [False, True, True, False]),
    (
        "status_le",
        comparison("status_code_filter", "LE", 0),
        [request_of(response_code=c) for c in (0, 200)],
        [True, False],
    ),
    (
        "status_eq",
        comparison("status_code_filter", "EQ", 200),
        [request_of(response_code=c) for c in (200, 201)],
        [True, False],
    ),
    (
        "status_ne",
        comparison("status_code_filter", "NE", 200),
        [request_of(response_code=c) for c in (200, 201)],
        [False, True],
    ),
    ("duration", comparison("duration_filter", "GE", 50), [took(0.0499), took(0.05), took(1)], [False, True, True]),
    ("not_health_check", {"not_health_check_filter": {}}, [request_of()], [True]),
    (
        "header",
        A_HEADER,
        [with_header(b"1"), with_header(b"2"), request_of(), StreamInfo()],
        [True, False, False, False],
    ),
    (
        "any_flag",
        {"response_flag_filter": {}},
        [flagged(0), flagged(outcome.UF), flagged(outcome.UDO)],
        [False, True, True],
    ),
    (
        "some_flags",
        {"response_flag_filter": {"flags": ["UF", "NR"]}},
        [flagged(0), flagged(outcome.UF | outcome.UH), flagged(outcome.UH), flagged(outcome.NR)],
        [False, True, False, True],
    ),
    (
        "grpc_status",
        {"grpc_status_filter": {"statuses": ["OK", "NOT_FOUND"]}},
        [with_status(b"0"), with_status(b"5"), with_status(b"1"), request_of(), request_of(response_code=404)],
        [True, True, False, False, False],
    ),
    (
        "grpc_status_excluded",
        {"grpc_status_filter": {"statuses": ["OK"], "exclude": True}},
        [with_status(b"0"), with_status(b"5"), request_of()],
        [False, True, True],
    ),
    (
        "log_type",
        {"log_type_filter": {"types": ["DownstreamEnd"]}},
        [request_of(access_log_type="DownstreamEnd"), request_of(access_log_type="DownstreamStart")],
        [True, False],
    ),
    (
        "log_type_excluded",
        {"log_type_filter": {"types": ["DownstreamEnd"], "exclude": True}},
        [request_of(access_log_type="DownstreamEnd"), request_of(access_log_type="DownstreamStart")],
        [False, True],
    ),
    (
        "and",
        {"and_filter": {"filters": [A_HEADER, BAD_STATUS]}},
        [with_header(b"1"), request_of(response_code=500)],
        [False, False],
    ),
    (
        "or",
        {"or_filter": {"filters": [A_HEADER, BAD_STATUS]}},
        [with_header(b"1"), request_of(response_code=500), request_of()],
        [True, True, False],
    ),
    (
        "runtime_none",
        {"runtime_filter": {"runtime_key": "k", "percent_sampled": {"numerator": 0}}},
        [request_of()],
        [False],
    ),
    (
        "runtime_all",
        {
            "runtime_filter": {
                "runtime_key": "k",
                "percent_sampled": {"numerator": 1_000_000, "denominator": "MILLION"},
                "use_independent_randomness": True,
            }
        },
        [request_of(), request_of(stream_id="x")],
        [True, True],
    ),
    (
        "runtime_by_request_id",
        {"runtime_filter": {"runtime_key": "k", "percent_sampled": {"numerator": 50}}},
        [request_of(stream_id=f"{number:08x}-de49-4185-922d-d3595f99987a") for number in (0, 49, 50, 99, 100)],
        [True, True, False, False, True],
    ),
]


@pytest.mark.parametrize(
    ("log_filter", "requests", "passes"), [case[1:] for case in FILTERS], ids=[case[0] for case in FILTERS]
)
def test_filters_choose_what_is_logged(
    log_filter: dict[str, Any], requests: list[StreamInfo], passes: list[bool]
) -> None:
    lines = [lines_of({"format": "x"}, info, log_filter=log_filter) for info in requests]
    assert [bool(found) for found in lines] == passes


@pytest.mark.parametrize(
    ("config", "log_filter", "path"),
    [
        ({"path": ""}, None, "typed_config.path"),
        ({"path": "/nowhere/log"}, None, "typed_config.path"),
        ({"format": "%NOPE%"}, None, "typed_config.format"),
        ({"json_format": {"a": ["%NOPE%"]}}, None, "typed_config.json_format"),
        ({"log_format": {"json_format": {"a": "%"}}}, None, "typed_config.log_format"),
        ({"log_format": {"text_format_source": {"filename": "/nowhere/x"}}}, None, "typed_config.log_format"),
        ({"log_format": {}}, None, "typed_config.log_format"),
        ({}, {}, "filter"),
        ({}, {"traceable_filter": {}}, "filter.traceable_filter"),
        ({}, {"response_flag_filter": {"flags": ["UF", "XX"]}}, "filter.response_flag_filter.flags[1]"),
        ({}, {"and_filter": {"filters": [A_HEADER]}}, "filter.and_filter.filters"),
        (
            {},
            {"or_filter": {"filters": [A_HEADER, {"header_filter": {"header": {}}}]}},
            "filter.or_filter.filters[1].header_filter.header.name",
        ),
    ],
)
def test_an_access_log_that_cannot_be_built_says_where(
    config: dict[str, Any], log_filter: dict[str, Any] | None, path: str
) -> None:
    with pytest.raises(AccessLogError) as caught:
        lines_of(config, log_filter=log_filter)
    assert caught.value.path == path

"""Format strings. ``LINES``, ``REFUSED`` and ``UNREAD`` are what Envoy 1.40 logged for such requests."""

from __future__ import annotations

import os
import re
import socket

import pytest

from tests.unit.http.build import finished, grpc, refused, unread
from workerproxy.http.format_operators import OPERATORS
from workerproxy.http.formatter import DEFAULT_FORMAT, FormatError, compile_format
from workerproxy.http.headers import RequestHeaders
from workerproxy.http.stream_info import StreamInfo

TARGET = "/p?q=a%20bc&e&q=2&a+b=1"
LINES = {
    "": "",
    "é": "é",
    "100%%": "100%",
    "%%%PROTOCOL%%%": "%HTTP/1.1%",
    "%START_TIME%%%d": None,  # only that it compiles
    "%REQ(:METHOD)%|%REQ(:PATH):3%|%REQ(:AUTHORITY)%|%REQ(HOST)%|%REQ(:SCHEME)%": "GET|/p?|h:80|h:80|http",
    "%REQ(X-MULTI)%|%REQ(NOPE?X-MULTI)%|%REQ(EMPTY)%|%REQ(EMPTY?X-MULTI)%|%REQ(NOPE)%": "1|1|||-",
    "%REQ(NOPE?:PATH):2%|%REQ(:METHOD?NOPE)%|%REQ(NOPE?)%|%REQ(?X-MULTI)%": "/p|GET|-|1",
    "%REQ(X-Q)%|%REQ(X-MULTI):0%": '"a\\b"|',
    "%STREAM_INFO_REQ(:path)%": TARGET,
    "%RESP(:STATUS)%|%RESP(:status?x)%|%RESP(X-O)%|%RESP(NOPE?:STATUS)%|%RESP(X-O):0%|%TRAILER(x)%": "200|200|1|200||-",
    "%PATH%|%PATH(NQ)%|%PATH(NQ:PATH):2%|%PATH(:ORIG)%|%PATH(WQ:ORIG_OR_PATH)%": f"{TARGET}|/p|/p|-|{TARGET}",
    "%QUERY_PARAM(q):2%|%QUERY_PARAM(e)%|%QUERY_PARAM(z)%|%QUERY_PARAM(a+b)%|%QUERY_PARAM(a b)%": "a ||-|1|-",
    "%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%|%RESPONSE_CODE_DETAILS(X)%": "via_upstream|via_upstream",
    "%RESPONSE_CODE%|%RESPONSE_FLAGS%|%RESPONSE_FLAGS_LONG%|%CUSTOM_FLAGS%": "200|-|-|",
    "%BYTES_RECEIVED%|%BYTES_SENT%|%BYTES_RETRANSMITTED%|%PACKETS_RETRANSMITTED%": "0|2|0|0",
    "%RESPONSE_HEADERS_BYTES%|%RESPONSE_TRAILERS_BYTES%": "29|0",
    "%DURATION%|%REQUEST_DURATION%|%REQUEST_TX_DURATION%|%RESPONSE_DURATION%|%RESPONSE_TX_DURATION%": "2|0|0|2|0",
    "%ROUNDTRIP_DURATION%|%DOWNSTREAM_HANDSHAKE_DURATION%": "-|-",
    "%COMMON_DURATION(DS_RX_BEG:US_HS_END:ns)%": "-",
    "%COMMON_DURATION(US_CX_BEG:US_CX_END:us)%|%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%": "34|39",
    "%COMMON_DURATION(DS_RX_BEG:US_TX_END:us)%|%COMMON_DURATION(DS_RX_BEG:DS_TX_END)%": "800|2",
    "%COMMON_DURATION(DS_TX_END:DS_RX_BEG)%": "-",
    "%UPSTREAM_HOST%|%UPSTREAM_HOST_NAME%|%UPSTREAM_HOST_NAME_WITHOUT_PORT%": (
        "127.0.0.1:40781|127.0.0.1:40781|127.0.0.1"
    ),
    "%UPSTREAM_REMOTE_ADDRESS%|%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%UPSTREAM_REMOTE_PORT%": (
        "127.0.0.1:40781|127.0.0.1|40781"
    ),
    "%UPSTREAM_LOCAL_ADDRESS%|%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%|%UPSTREAM_LOCAL_PORT%": (
        "127.0.0.1:37488|127.0.0.1|37488"
    ),
    "%UPSTREAM_CLUSTER%|%UPSTREAM_CLUSTER_RAW%|%UPSTREAM_PROTOCOL%|%UPSTREAM_CONNECTION_ID%": "alt|c|HTTP/1.1|3",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%|%UPSTREAM_TRANSPORT_FAILURE_REASON%": "1|-",
    "%DOWNSTREAM_REMOTE_ADDRESS%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_REMOTE_PORT%": (
        "[2001:db8::1]:57142|2001:db8::1|57142"
    ),
    "%DOWNSTREAM_DIRECT_REMOTE_PORT%|%DOWNSTREAM_LOCAL_PORT%|%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%": (
        "57142|37301|127.0.0.1:37301"
    ),
    "%CONNECTION_ID%|%STREAM_ID%|%ROUTE_NAME%|%VIRTUAL_CLUSTER_NAME%|%ACCESS_LOG_TYPE%": (
        "2|e042250a-de49-4185-922d-d3595f99987a|r1|-|DownstreamEnd"
    ),
    "%LOCAL_REPLY_BODY%|%FILTER_CHAIN_NAME%|%REQUESTED_SERVER_NAME%|%TRACE_ID%": "|-|-|-",
    "%GRPC_STATUS%|%GRPC_STATUS_NUMBER%|%GRPC_STATUS(NUMBER)%": "-|-|-",
    "%DYNAMIC_METADATA(a)%|%DYNAMIC_METADATA(a:b)%|%FILTER_STATE(a)%|%UPSTREAM_FILTER_STATE(a:PLAIN):3%": "-|-|-|-",
    "%DOWNSTREAM_TLS_VERSION%|%UPSTREAM_PEER_CERT_V_START(%Y)%|%DOWNSTREAM_PEER_URI_SAN%": "-|-|-",
    "%ENVIRONMENT(WORKERPROXY_TEST_UNSET)%": "-",
}
REFUSED = {
    "%UPSTREAM_TRANSPORT_FAILURE_REASON%": "delayed_connect_error:_Connection_refused",
    "%UPSTREAM_REMOTE_ADDRESS%|%UPSTREAM_REMOTE_PORT%|%UPSTREAM_HOST%|%UPSTREAM_LOCAL_ADDRESS%": "-|-|127.0.0.1:1|-",
    "%UPSTREAM_PROTOCOL%|%RESPONSE_FLAGS%|%RESPONSE_FLAGS_LONG%": "-|UF|UpstreamConnectionFailure",
    "%RESPONSE_DURATION%|%RESPONSE_TX_DURATION%|%COMMON_DURATION(DS_RX_BEG:US_TX_END:us)%": "-|-|-",
}
UNREAD = {
    "%REQ(:METHOD)%|%REQ(HOST)%|%REQ(X)%|%REQ(X?:PATH)%|%RESP(:STATUS)%|%RESP(X)%": "-|-|-|-|400|-",
    "%PATH%|%QUERY_PARAM(q)%|%GRPC_STATUS%|%REQUEST_HEADERS_BYTES%|%REQUEST_DURATION%": "-|-|-|0|-",
    "%RESPONSE_FLAGS%|%RESPONSE_CODE_DETAILS%|%PROTOCOL%": "DPE|http1.invalid_characters|HTTP/1.1",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%STREAM_ID%|%UPSTREAM_HOST_NAME%": "-|-|-",
}


@pytest.mark.parametrize(("text", "line"), LINES.items())
def test_operators_print_what_envoy_prints(text: str, line: str | None) -> None:
    made = compile_format(text).format(finished())
    assert line is None or made == line


@pytest.mark.parametrize(("text", "line"), REFUSED.items())
def test_operators_of_an_upstream_that_refused(text: str, line: str) -> None:
    assert compile_format(text).format(refused()) == line


@pytest.mark.parametrize(("text", "line"), UNREAD.items())
def test_operators_of_a_request_without_headers(text: str, line: str) -> None:
    assert compile_format(text).format(unread()) == line


def test_the_default_format_is_envoys() -> None:
    info = finished(
        headers=(("x-forwarded-for", "10.0.0.1"), ("user-agent", "curl/8"), ("x-request-id", "id-1")),
    )
    assert info.response_headers is not None
    info.response_headers[b"x-envoy-upstream-service-time"] = b"1"
    line = compile_format(DEFAULT_FORMAT).format(info)
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] ", line[:27])
    expected = f'"GET {TARGET} HTTP/1.1" 200 - 0 2 2 1 "10.0.0.1" "curl/8" "id-1" "h:80" "127.0.0.1:40781"\n'
    assert line[27:] == expected


def test_what_is_unset_can_be_left_out() -> None:
    text = "[%REQ(NOPE)%][%UPSTREAM_TRANSPORT_FAILURE_REASON%][%RESPONSE_FLAGS%]"
    assert compile_format(text, omit_empty_values=True).format(finished()) == "[][][-]"


def test_the_original_path_comes_before_the_rewritten_one() -> None:
    info = finished("/new?b", headers=(("x-envoy-original-path", "/old?a"),))
    text = "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%|%PATH%|%PATH(NQ:ORIG)%|%PATH(WQ:PATH)%"
    assert compile_format(text).format(info) == "/old?a|/old?a|/old|/new?b"


def test_values_are_bytes_as_they_came() -> None:
    info = finished(headers=(("x-raw", "\xff\xc3\xa9\t"),))
    assert compile_format("é%REQ(X-RAW)%").format_bytes(info) == b"\xc3\xa9\xff\xc3\xa9\t"


def test_what_no_request_changes_is_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORKERPROXY_TEST", "value")
    made = compile_format("a%HOSTNAME%b%ENVIRONMENT(WORKERPROXY_TEST):3%%%")
    assert made.constant == f"a{socket.gethostname()}bval%".encode()
    assert made.format_bytes(finished()) == made.constant
    assert compile_format("a%PROTOCOL%").constant is None


def test_headers_are_counted_with_their_pseudo_headers() -> None:
    info = StreamInfo()
    info.request_headers = RequestHeaders()
    info.request_headers.method, info.request_headers.path = b"GET", b"/"
    info.request_headers.authority, info.request_headers.scheme = b"h", b"http"
    info.request_headers.add(b"a", b"bc")
    info.request_headers.add(b"a", b"")
    pseudo = sum(map(len, (":method", "GET", ":path", "/", ":authority", "h", ":scheme", "http")))
    assert compile_format("%REQUEST_HEADERS_BYTES%").format(info) == str(pseudo + 4)


@pytest.mark.parametrize(
    ("status", "in_trailers", "code", "line"),
    [
        ("0", True, 200, "OK|OK|0|0"),
        ("1", True, 200, "Canceled|CANCELLED|1|1"),
        ("16", False, 200, "Unauthenticated|UNAUTHENTICATED|16|16"),
        ("17", True, 200, "17|17|17|17"),
        ("x", True, 200, "-1|-1|-1|-1"),
        (None, True, 200, "Unknown|UNKNOWN|2|2"),  # as Envoy 1.40 prints
        (None, True, 404, "Unimplemented|UNIMPLEMENTED|12|12"),
        (None, True, 503, "Unavailable|UNAVAILABLE|14|14"),
    ],
)
def test_a_grpc_status_comes_from_trailers_headers_or_the_http_status(
    status: str | None, in_trailers: bool, code: int, line: str
) -> None:
    made = compile_format("%GRPC_STATUS%|%GRPC_STATUS(SNAKE_STRING)%|%GRPC_STATUS(NUMBER)%|%GRPC_STATUS_NUMBER%")
    assert made.format(grpc(status, in_trailers, code)) == line


def test_metadata_of_filters_is_text_or_json() -> None:
    info = finished()
    info.dynamic_metadata = {"ns": {"a": {"z": 1, "b": [True, None, "x"]}, "text": "t"}}
    arguments = ("(ns:text)", "(ns:a)", "(ns:a:b):5", "(ns:text:x)")
    text = "|".join(f"%DYNAMIC_METADATA{argument}%" for argument in arguments)
    assert compile_format(text).format(info) == 't|{"b":[true,null,"x"],"z":1}|[true|-'


def test_unique_ids_are_unique() -> None:
    made = compile_format("%UNIQUE_ID%")
    assert made.format(finished()) != made.format(finished())


def test_a_client_cannot_forge_lines_of_a_log() -> None:
    """Envoy prints such a value as it is; the difference is deliberate."""
    info = finished("/?q=a%0ab%00%7f%c3%a9")
    assert compile_format("%QUERY_PARAM(q)%", one_line=True).format(info) == "a\\x0ab\\x00\\x7fé"
    assert compile_format("%QUERY_PARAM(q)%").format_bytes(info) == b"a\nb\x00\x7f\xc3\xa9"
    info.dynamic_metadata = {"ns": {"a": "1\r\n2"}}
    info.local_reply_body = b"3\n"
    made = compile_format("%DYNAMIC_METADATA(ns:a)%%LOCAL_REPLY_BODY%", one_line=True)
    assert made.format(info) == "1\\x0d\\x0a23\\x0a"


def test_formats_that_hold_what_clients_choose_are_marked() -> None:
    assert compile_format("%QUERY_PARAM(q)%").unsafe
    assert not compile_format("%REQ(:PATH)%").unsafe


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("a %NOPE%", 2, "unknown operator NOPE"),
        ("%REQ%", 0, "REQ needs an argument"),
        ("%REQ()%", 0, "REQ needs an argument"),
        ("%REQ(A?B?C)%", 0, "more than one alternative"),
        ("%REQ(a b)%", 0, "not a header name"),
        ("%RESP(:)%", 0, "not a header name"),
        ("%PROTOCOL(X)%", 0, "takes no argument"),
        ("%PROTOCOL:3%", 0, "takes no argument and no length"),
        ("%START_TIME:3%", 0, "takes no length"),
        ("%START_TIME(%n)%", 0, "newline"),
        ("%START_TIME(a%-4En)%", 0, "newline"),
        ("%GRPC_STATUS(X)%", 0, "CAMEL_STRING"),
        ("%PATH(X)%", 0, "WQ"),
        ("%PATH(NQ:X)%", 0, "ORIG"),
        ("%COMMON_DURATION(a)%", 0, "START:END"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:s)%", 0, "precision"),
        ("%COMMON_DURATION(foo:DS_TX_END)%", 0, "point in time"),
        ("100%", 3, "no operator begins here"),
        ("%REQ(:PATH):x%", 0, "no operator begins here"),
        ("%req(a)%", 0, "no operator begins here"),
        ("%REQ(a)", 0, "no operator begins here"),
        ("%FILTER_STATE%", 0, "key is missing"),
        ("%FILTER_STATE(a:X)%", 0, "PLAIN"),
        ("%DYNAMIC_METADATA()%", 0, "needs an argument"),
        ("%ENVIRONMENT%", 0, "needs an argument"),
        ("x%CLUSTER_METADATA(a)%", 1, "not supported yet"),
    ],
)
def test_a_bad_format_says_where_and_what(text: str, position: int, problem: str) -> None:
    with pytest.raises(FormatError) as caught:
        compile_format(text)
    assert caught.value.position == position
    assert problem in str(caught.value)


def test_a_misspelt_operator_gets_a_suggestion() -> None:
    with pytest.raises(FormatError) as caught:
        compile_format("x%RESPONCE_CODE%")
    assert caught.value.suggestion == "RESPONSE_CODE"
    assert "did you mean RESPONSE_CODE?" in str(caught.value)


ARGUMENTS = {"COMMON_DURATION": "(DS_RX_BEG:DS_TX_END)", "ENVIRONMENT": "(HOME)"}


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_prints_something_for_every_request(name: str) -> None:
    argument = ARGUMENTS.get(name, "(a)" if OPERATORS[name].argument.name == "REQUIRED" else "")
    if name.endswith("FILTER_STATE"):
        argument = "(a)"
    made = compile_format(f"[%{name}{argument}%]")
    for info in (finished(), refused(), unread(), StreamInfo()):
        assert made.format(info).startswith("[")

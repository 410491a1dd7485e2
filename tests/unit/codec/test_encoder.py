"""Heads and chunks as bytes, as Envoy 1.40 writes them."""

from __future__ import annotations

import pytest

from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders
from workerproxy.worker.http.codec import encoder
from workerproxy.worker.http.codec.status_lines import STATUS_LINES, reason


def request(*pairs: tuple[bytes, bytes]) -> RequestHeaders:
    headers = RequestHeaders()
    headers.method, headers.path, headers.authority, headers.scheme = b"GET", b"/a?b", b"h:81", b"http"
    for name, value in pairs:
        headers.add(name, value)
    return headers


def response(status: int, *pairs: tuple[bytes, bytes]) -> ResponseHeaders:
    headers = ResponseHeaders()
    headers.status = status
    for name, value in pairs:
        headers.add(name, value)
    return headers


def test_request_head() -> None:
    assert encoder.request_head(request()) == b"GET /a?b HTTP/1.1\r\nhost: h:81\r\n\r\n"
    assert encoder.request_head(request((b"x", b"1"), (b"y", b""))) == (
        b"GET /a?b HTTP/1.1\r\nhost: h:81\r\nx: 1\r\ny: \r\n\r\n"
    )


def test_repeated_fields_are_written_each() -> None:
    pairs = (b"x", b"1"), (b"y", b"2"), (b"x", b"3")
    assert encoder.request_head(request(*pairs)).endswith(b"x: 1\r\ny: 2\r\nx: 3\r\n\r\n")
    assert encoder.response_head(response(200, *pairs)) == b"HTTP/1.1 200 OK\r\nx: 1\r\ny: 2\r\nx: 3\r\n\r\n"


def test_response_head() -> None:
    assert encoder.response_head(response(404)) == b"HTTP/1.1 404 Not Found\r\n\r\n"
    assert encoder.response_head_10(response(200, (b"x", b"1"))) == b"HTTP/1.0 200 OK\r\nx: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("name", "proper"),
    [
        (b"x-foo-bar", b"X-Foo-Bar"),
        (b"etag", b"Etag"),
        (b"www-authenticate", b"Www-Authenticate"),
        (b"x_y-z", b"X_Y-Z"),
        (b"3d-foo", b"3d-Foo"),
        (b"x--y", b"X--Y"),
    ],
)
def test_proper_case(name: bytes, proper: bytes) -> None:
    """As the header_formatter of Envoy was seen to write them."""
    line = b"\r\n%b: 1\r\n\r\n" % proper
    assert encoder.request_head_proper_case(request((name, b"1"))) == b"GET /a?b HTTP/1.1\r\nHost: h:81" + line
    assert encoder.response_head_proper_case(response(200, (name, b"1"))) == b"HTTP/1.1 200 OK" + line
    assert encoder.response_head_10_proper_case(response(200, (name, b"1"))) == b"HTTP/1.0 200 OK" + line


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (100, b"Continue"),
        (226, b"IM Used"),
        (299, b"Unknown"),
        (418, b"Unknown"),
        (425, b"Too Early"),
        (451, b"Unknown"),
        (511, b"Network Authentication Required"),
        (599, b"Last Unassigned Server Error Code"),
        (799, b"Unknown"),
    ],
)
def test_reason_phrases(status: int, phrase: bytes) -> None:
    assert reason(status) == phrase
    assert STATUS_LINES[status] == b"HTTP/1.1 %d %b" % (status, phrase)


def test_every_code_has_a_line() -> None:
    assert sorted(STATUS_LINES) == list(range(100, 1000))


def test_chunks() -> None:
    assert encoder.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert encoder.chunks([b"ab", b"c"], 3) == [b"3\r\n", b"ab", b"c", b"\r\n"]


def test_last_chunk() -> None:
    assert encoder.last_chunk(None) == b"0\r\n\r\n"
    assert encoder.last_chunk(HeaderMap()) == b"0\r\n\r\n"
    trailers = HeaderMap.from_pairs([(b"x", b"1"), (b"x", b"2")])
    assert encoder.last_chunk(trailers) == b"0\r\nx: 1\r\nx: 2\r\n\r\n"

"""Reading in bulk and by callbacks give the same messages, whatever was read on the connection before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.codec.cases import run_client, run_server
from workerproxy.worker.http.codec.client_codec import ClientCodec
from workerproxy.worker.http.codec.server_codec import ServerCodec
from workerproxy.worker.http.codec.settings import REJECT, CodecSettings

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\n"

REQUESTS = {
    "the same again": [HEAD, HEAD, HEAD],
    "another target": [HEAD, HEAD.replace(b"GET /", b"GET /2", 1)],
    "another host": [HEAD, HEAD.replace(b"Host: a", b"Host: b")],
    "bad target after the same section": [HEAD, HEAD.replace(b"GET / ", b"GET /\x01 ")],
    "bad method after the same section": [HEAD, HEAD.replace(b"GET", b"FOO")],
    "connect after the same section": [HEAD, HEAD.replace(b"GET /", b"CONNECT b:80")],
    "http/1.0 after the same section": [HEAD, HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"), HEAD],
    "asterisk after the same section": [HEAD, HEAD.replace(b"GET / ", b"OPTIONS * ")],
    "absolute after the same section": [HEAD, HEAD.replace(b"GET / ", b"GET http://z/ ")],
    "two spaces after the same section": [HEAD, HEAD.replace(b"GET / ", b"GET  / ")],
    "no version after the same section": [HEAD, HEAD.replace(b" HTTP/1.1", b"")],
    "a body, twice": [POST + b"abc", POST + b"def"],
    "a body in a read of its own": [POST, b"abc", POST, b"d", b"ef", HEAD],
    "a body and the next request": [POST + b"abc" + HEAD, HEAD],
    "a body cut, then the next request": [POST + b"a", b"bc" + HEAD],
    "a body that ends as a head": [POST.replace(b": 3", b": 6") + b"ab\r\n\r\n", HEAD],
    "a body that looks like fields": [POST.replace(b": 3", b": 11") + b"X: 12\r\n\r\n\r\n", HEAD],
    "a head after a body of length zero": [POST.replace(b": 3", b": 0"), HEAD],
    "close": [HEAD, HEAD.replace(b"keep-alive", b"close"), HEAD],
    "close with a body": [POST.replace(b"Host: a", b"Host: a\r\nConnection: close") + b"abc", HEAD],
    "read ahead": [HEAD * 3, HEAD],
    "a cut head": [HEAD[:20], HEAD[20:], HEAD, HEAD[:40], HEAD[40:] + HEAD],
    "chunked between": [HEAD, POST.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", HEAD],
    "host not first": [b"GET / HTTP/1.1\r\nAccept: x\r\nHost: a\r\n\r\n", HEAD],
    "host twice": [b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HEAD],
    "no host": [b"GET / HTTP/1.1\r\nAccept: x\r\n\r\n", HEAD],
    "no fields": [b"GET / HTTP/1.1\r\n\r\n", b"GET /2 HTTP/1.1\r\n\r\n"],
    "repeated fields": [b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n", HEAD],
    "odd spacing": [b"GET / HTTP/1.1\r\nHost:a\r\nX:  1 \r\n\r\n", HEAD],
    "secrets": [b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nAuthorization: c \r\n\r\n", HEAD],
    "empty line between": [HEAD, b"\r\n" + HEAD, HEAD],
    "many fields": [b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"x%d: 1\r\n" % i for i in range(100)) + b"\r\n"],
    "a big head": [b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"v" * 61500 + b"\r\n\r\n"],
    "a big target": [b"GET /" + b"v" * 61500 + b" HTTP/1.1\r\nHost: a\r\n\r\n"],
    "bad authority": [HEAD.replace(b"Host: a", b"Host: a/b")],
}
RESPONSES = {
    "the same again": [OK + b"ab", OK + b"cd", OK + b"ef"],
    "another length": [OK + b"ab", OK.replace(b": 2", b": 3") + b"abc"],
    "another status": [
        OK + b"ab",
        OK.replace(b"200 OK", b"404 Not Found") + b"ab",
        OK.replace(b"200 OK", b"404 X") + b"ab",
    ],
    "no content after the same section": [OK + b"ab", OK.replace(b"200 OK", b"204 No Content") + b"ab"],
    "not modified after the same section": [OK + b"ab", OK.replace(b"200 OK", b"304 Not Modified")],
    "early hints after the same section": [OK + b"ab", OK.replace(b"200 OK", b"103 Early Hints") + OK + b"ab"],
    "a switch after the same section": [OK + b"ab", OK.replace(b"200 OK", b"101 Switching Protocols")],
    "http/1.0 after the same section": [OK + b"ab", OK.replace(b"HTTP/1.1", b"HTTP/1.0") + b"ab"],
    "control in the reason": [OK + b"ab", OK.replace(b"200 OK", b"200 O\x01") + b"ab", OK + b"ab"],
    "a cut body": [OK + b"a", b"b", OK, b"ab", OK + b"ab"],
    "a cut head": [OK[:30], OK[30:] + b"ab", OK + b"ab"],
    "too much": [OK + b"abc"],
    "too much, later": [OK + b"ab", OK + b"abX"],
    "too much after a cut body": [OK + b"a", b"bX"],
    "chunked between": [
        OK + b"ab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"ab",
        OK + b"ab",
    ],
    "until close": [OK + b"ab", b"HTTP/1.1 200 OK\r\n\r\nab", b"cd"],
    "close": [OK + b"ab", OK.replace(b"Server: x", b"Connection: close") + b"ab", OK + b"ab"],
    "repeated fields": [OK.replace(b"Server: x", b"Set-Cookie: a\r\nSet-Cookie: b") + b"ab", OK + b"ab"],
    "length zero": [OK.replace(b": 2", b": 0"), OK + b"ab"],
    "bad after good": [OK + b"ab", OK.replace(b"Server: x", b"Server : x") + b"ab"],
    "a body that ends as a head": [OK.replace(b": 2", b": 4") + b"\r\n\r\n", OK + b"ab"],
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_are_read_alike(name: str) -> None:
    settings = CodecSettings()
    by_callbacks = run_server(replace(settings, bulk=False), REQUESTS[name])
    assert run_server(settings, REQUESTS[name]) == by_callbacks
    assert run_server(settings, REQUESTS[name]) == by_callbacks  # with the tables filled


@pytest.mark.parametrize("name", RESPONSES)
def test_responses_are_read_alike(name: str) -> None:
    settings = CodecSettings(max_headers_kb=80)
    parts = RESPONSES[name]
    methods = ["GET"] * len(parts)
    by_callbacks = run_client(replace(settings, bulk=False), parts, methods)
    assert run_client(settings, parts, methods) == by_callbacks
    assert run_client(settings, parts, methods) == by_callbacks


def test_header_bytes_are_counted_alike() -> None:
    """As Envoy: name, value and three bytes for each field, 3 when there is none."""
    for data, size in ((HEAD, 43), (b"GET / HTTP/1.1\r\n\r\n", 3), (POST + b"abc", 26)):
        for bulk in (True, False):
            codec = ServerCodec(CodecSettings(bulk=bulk))
            codec.feed(data)
            assert codec.messages[0].head_bytes == size
    for bulk in (True, False):
        client = ClientCodec(CodecSettings(bulk=bulk))
        client.expect(b"GET")
        client.feed(OK + b"ab")
        assert client.messages[0].head_bytes == 28


def test_headers_of_one_request_are_not_those_of_the_next() -> None:
    codec = ServerCodec(CodecSettings())
    codec.feed(HEAD)
    codec.messages.popleft().headers[b"x-changed"] = b"1"
    codec.feed(HEAD)
    assert b"x-changed" not in codec.messages[0].headers


def test_underscores_rule_holds_when_another_listener_allows_them() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX_A: 1\r\n\r\n"
    open_one, strict_one = CodecSettings(), CodecSettings(headers_with_underscores_action=REJECT)
    assert not run_server(open_one, [data])["failed"]
    assert run_server(strict_one, [data, data])["failed"]


def test_secrets_are_not_kept() -> None:
    settings = CodecSettings()
    run_server(settings, [b"GET / HTTP/1.1\r\nHost: a\r\nCookie: s=1\r\nauthorization: t\r\nAccept: x\r\n\r\n"])
    assert [pair[0] for pair in settings.lines.values()] == [b"host", b"accept"]


def test_tables_are_bounded() -> None:
    settings = CodecSettings()
    codec = ServerCodec(settings)
    for number in range(5000):
        codec.feed(b"GET / HTTP/1.1\r\nHost: h%d\r\nX-%d: %d\r\n\r\n" % (number, number, number))
        codec.messages.clear()
    assert not codec.failed
    assert len(settings.lines) <= 2048
    assert len(settings.hosts) <= 1024


def test_close_lets_go() -> None:
    codec = ServerCodec(CodecSettings())
    codec.feed(HEAD)
    codec.close()
    codec.feed(HEAD)
    assert len(codec.messages) == 1
    client = ClientCodec(CodecSettings())
    client.expect(b"GET")
    client.close()
    client.feed(OK)
    assert not client.messages

"""Properties of the codecs: cuts change nothing, what is encoded parses to the same, no bytes make them raise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.codec.cases import describe, run_client, run_server
from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders
from workerproxy.worker.http.codec import encoder
from workerproxy.worker.http.codec.client_codec import ClientCodec
from workerproxy.worker.http.codec.messages import RequestMessage, ResponseMessage
from workerproxy.worker.http.codec.server_codec import ServerCodec
from workerproxy.worker.http.codec.settings import CodecSettings

SETTINGS = CodecSettings(enable_trailers=True)
CALLBACKS = replace(SETTINGS, bulk=False)

TOKENS = st.sampled_from(
    [
        b"a",
        b"host",
        b"Host",
        b"content-length",
        b"Content-Length",
        b"transfer-encoding",
        b"connection",
        b"upgrade",
        b"expect",
        b"x_y",
        b"te",
        b"cookie",
        b"set-cookie",
        b"via",
        b"",
        b"x y",
        b"keep-alive",
        b"proxy-connection",
    ]
)
VALUES = st.sampled_from(
    [
        b"",
        b"a",
        b"0",
        b"3",
        b"5",
        b"03",
        b"chunked",
        b"close",
        b"keep-alive",
        b"gzip, chunked",
        b"upgrade",
        b"h2c",
        b"websocket",
        b"100-continue",
        b" a\t",
        b"a\x01",
        b"a\xff",
        b"a,b",
        b"te, x-forwarded-for",
        b"trailers",
        b"a b",
    ]
)
LINES = st.builds(
    lambda n, s, v, e: n + s + v + e, TOKENS, st.sampled_from([b": ", b":", b" : "]), VALUES, st.just(b"\r\n")
)
FIRST = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /a?b HTTP/1.1",
        b"HEAD / HTTP/1.1",
        b"GET / HTTP/1.0",
        b"OPTIONS * HTTP/1.1",
        b"GET /",
        b"CONNECT a:1 HTTP/1.1",
        b"GET http://b/ HTTP/1.1",
        b"FOO / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"",
        b"GET / HTTP/2.0",
    ]
)
STATUS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 X",
        b"HTTP/1.1 103 X",
        b"HTTP/1.0 200 OK",
        b"",
        b"HTTP/1.1 101 X",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 99 X",
        b"HTTP/1.1 200",
        b"HTTP/1.1 100 Continue",
    ]
)
BODIES = st.sampled_from(
    [
        b"",
        b"abc",
        b"hello",
        b"0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nx: 1\r\n\r\n",
        b"\r\n",
        b"zz\r\n",
        b"1;a=b\r\na\r\n",
        b"GET /next HTTP/1.1\r\nhost: b\r\n\r\n",
        b"\x00\xff",
        b"a\r\n\r\n",
    ]
)


def message(first: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    fields = st.lists(LINES, max_size=5).map(b"".join)
    return st.builds(lambda f, h, b: f + b"\r\n" + h + b"\r\n" + b, first, fields, BODIES)


REQUESTS = st.lists(message(FIRST), min_size=1, max_size=4).map(b"".join)
RESPONSES = st.lists(message(STATUS), min_size=1, max_size=4).map(b"".join)
NOISE = st.binary(max_size=200)


def parts(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in pairwise([0, *ends, len(data)]) if start < end]


CUTS = st.lists(st.integers(0, 2000), max_size=6)


@given(REQUESTS | NOISE, CUTS)
def test_requests_do_not_depend_on_cuts(data: bytes, places: list[int]) -> None:
    whole = run_server(SETTINGS, [data])
    assert run_server(SETTINGS, parts(data, places)) == whole
    assert run_server(CALLBACKS, [data]) == whole


@given(RESPONSES | NOISE, CUTS, st.sampled_from(["GET", "HEAD", "CONNECT"]), st.booleans())
def test_responses_do_not_depend_on_cuts(data: bytes, places: list[int], method: str, eof: bool) -> None:
    whole = run_client(SETTINGS, [data], [method], eof=eof)
    assert run_client(SETTINGS, parts(data, places), [method], eof=eof) == whole
    assert run_client(CALLBACKS, [data], [method], eof=eof) == whole


@given(st.lists(REQUESTS, min_size=2, max_size=4))
def test_what_was_read_before_changes_nothing(reads: list[bytes]) -> None:
    assert run_server(SETTINGS, reads) == run_server(CALLBACKS, reads)


@given(st.lists(RESPONSES, min_size=2, max_size=4))
def test_what_was_answered_before_changes_nothing(reads: list[bytes]) -> None:
    methods = ["GET"] * len(reads)
    assert run_client(SETTINGS, reads, methods) == run_client(CALLBACKS, reads, methods)


@given(st.lists(NOISE | REQUESTS | RESPONSES, max_size=5))
def test_no_bytes_make_the_server_codec_raise(reads: list[bytes]) -> None:
    codec = ServerCodec(CodecSettings())
    for read in reads:
        codec.feed(read)
    for request in codec.messages:
        describe(request)  # every attribute is set


@given(st.lists(NOISE | RESPONSES, max_size=5), st.booleans())
def test_no_bytes_make_the_client_codec_raise(reads: list[bytes], asked: bool) -> None:
    codec = ClientCodec(CodecSettings())
    if asked:
        codec.expect(b"GET")
    for read in reads:
        codec.feed(read)
    codec.eof()
    for response in codec.messages:
        describe(response)


@given(REQUESTS)
def test_an_encoded_request_parses_to_the_same(data: bytes) -> None:
    first = ServerCodec(SETTINGS)
    first.feed(data)
    for read in first.messages:
        if read.complete and read.version == 11 and not read.headers.scheme and read.headers.path:
            second = ServerCodec(SETTINGS)
            second.feed(encoded_request(read))
            again = second.messages[0]
            assert again.error is None
            assert same(again) == same(read)


@given(RESPONSES)
def test_an_encoded_response_parses_to_the_same(data: bytes) -> None:
    first = ClientCodec(SETTINGS)
    first.expect(b"GET")
    first.feed(data)
    for read in first.messages:
        if read.complete:
            second = ClientCodec(SETTINGS)
            second.expect(b"GET")
            second.feed(encoder.response_head(read.headers) + encoded_body(read))
            again = second.messages[0]
            assert again.error is None
            assert same(again) == same(read)


def encoded_request(read: RequestMessage) -> bytes:
    return encoder.request_head(read.headers) + encoded_body(read)


def encoded_body(read: RequestMessage | ResponseMessage) -> bytes:
    headers = read.headers
    bodiless = isinstance(headers, ResponseHeaders) and headers.status in (204, 304)
    if bodiless or b"transfer-encoding" not in headers:
        return b"".join(read.body)
    return b"".join(encoder.chunk(part) for part in read.body) + encoder.last_chunk(read.trailers)


def same(read: RequestMessage | ResponseMessage) -> list[object]:
    """What must survive encoding: the version and what ends the connection may differ."""
    headers = read.headers
    start = (headers.method, headers.path, headers.authority) if isinstance(headers, RequestHeaders) else headers.status
    trailers = None if read.trailers is None else list(read.trailers.pairs())
    return [start, list(headers.pairs()), b"".join(read.body), trailers, read.content_length]


NAMES = st.from_regex(rb"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: (
        name not in (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"via")
    )
)
TEXT = st.from_regex(rb"[!-~]([ -~\x80-\xff]{0,30}[!-~])?", fullmatch=True)
PAIRS = st.lists(st.tuples(NAMES, TEXT), max_size=12)


@given(PAIRS, st.sampled_from([b"GET", b"POST", b"PURGE"]), st.binary(min_size=1, max_size=50))
def test_any_header_map_parses_back(pairs: list[tuple[bytes, bytes]], method: bytes, body: bytes) -> None:
    headers = RequestHeaders()
    for name, value in pairs:
        if name not in headers:  # repeated fields may be joined
            headers.add(name, value)
    headers.method, headers.path, headers.authority, headers.scheme = method, b"/x", b"h:1", b""
    headers[b"content-length"] = b"%d" % len(body)
    codec = ServerCodec(SETTINGS)
    codec.feed(encoder.request_head(headers) + body)
    read = codec.messages[0]
    assert read.complete
    assert list(read.headers.pairs()) == list(headers.pairs())
    assert (read.headers.method, read.headers.authority, b"".join(read.body)) == (method, b"h:1", body)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), PAIRS)
def test_chunks_parse_back(body: list[bytes], pairs: list[tuple[bytes, bytes]]) -> None:
    headers = ResponseHeaders({b"transfer-encoding": b"chunked"})
    headers.status = 200
    trailers = HeaderMap.from_pairs(pairs)
    framed = b"".join(b"".join(encoder.chunks([part], len(part))) for part in body)
    codec = ClientCodec(SETTINGS)
    codec.expect(b"GET")
    codec.feed(encoder.response_head(headers) + framed + encoder.last_chunk(trailers))
    read = codec.messages[0]
    assert read.complete
    assert b"".join(read.body) == b"".join(body)
    assert list((read.trailers or HeaderMap()).pairs()) == list(trailers.pairs())

"""A filter that somebody else has written: one file, found by its type, tested on the fake network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.proxy import OK, Proxy, head_and_body
from workerproxy.extensions import http_filters
from workerproxy.extensions.base import CONTINUE, STOP_AND_BUFFER, STOP_ITERATION, Body, StreamFilter
from workerproxy.http.headers import RequestHeaders, ResponseHeaders

ONE_FILE = '''
"""Lets requests pass that bring the key, and says so in the response."""

from __future__ import annotations

from google.protobuf.struct_pb2 import Struct

from workerproxy.extensions.base import CONTINUE, STOP_ITERATION, StreamFilter

CONFIG_TYPE = "google.protobuf.Struct"
NAME = "own.api_key"
READS = {CONFIG_TYPE: frozenset()}


class ApiKey(StreamFilter):
    def __init__(self, key):
        self.key = key

    def decode_headers(self, headers, end_stream):
        if headers.get(b"x-api-key") != self.key:
            self.callbacks.send_local_reply(401, b"no key", details="api_key_missing")
            return STOP_ITERATION
        headers.remove(b"x-api-key")
        return CONTINUE

    def encode_headers(self, headers, end_stream):
        headers[b"x-checked"] = b"yes"
        return CONTINUE


def create_factory(config, context):
    message = Struct()
    config.Unpack(message)
    key = message["key"].encode()
    return lambda: ApiKey(key)
'''
ROUTER = {
    "name": "router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


def test_a_filter_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_api_key.py").write_text(ONE_FILE)
    monkeypatch.setattr(http_filters, "__path__", [*http_filters.__path__, str(tmp_path)])
    own = {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"key": "secret"}}
    proxy = Proxy(hcm={"http_filters": [{"name": "own", "typed_config": own}, ROUTER]})
    client = proxy.client()
    client.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    first, fields, body = head_and_body(client.take())
    assert (first, body, fields[b"x-checked"]) == (b"HTTP/1.1 401 Unauthorized", b"no key", b"yes")
    assert proxy.log.infos[0].response_code_details == "api_key_missing"
    client.send(b"GET / HTTP/1.1\r\nhost: h\r\nx-api-key: secret\r\n\r\n")
    assert b"x-api-key" not in head_and_body(proxy.origin().take())[1]
    proxy.origin().send(OK)
    assert head_and_body(client.take())[1][b"x-checked"] == b"yes"


class Sum(StreamFilter):
    """Puts the length of the request's body in front of it, as a header, once it is complete."""

    def __init__(self) -> None:
        self.headers: RequestHeaders | None = None

    def decode_headers(self, headers: RequestHeaders, end_stream: bool) -> int:
        self.headers = headers
        return CONTINUE if end_stream else STOP_ITERATION

    def decode_data(self, data: Body, end_stream: bool) -> int:
        kept = self.callbacks.decoding_buffer()
        if not end_stream or self.headers is None:
            return STOP_AND_BUFFER
        self.headers[b"x-sum"] = b"%d" % (data.size + (kept.size if kept is not None else 0))
        return CONTINUE


class Slow(StreamFilter):
    """Holds every response back for a second."""

    def encode_headers(self, headers: ResponseHeaders, end_stream: bool) -> int:
        self.callbacks.call_later(1.0, self.callbacks.continue_encoding)
        return STOP_ITERATION

    def encode_data(self, data: Body, end_stream: bool) -> int:
        return STOP_AND_BUFFER


def test_filters_work_together() -> None:
    proxy = Proxy(filters=[Sum, Slow])
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\n", b"abc", b"def")
    _, fields, body = head_and_body(proxy.origin().take())
    assert (fields[b"x-sum"], body) == (b"6", b"abcdef")
    proxy.origin().send(OK)
    assert client.take() == b""
    proxy.loop.advance(1.1)
    assert client.take().endswith(b"ok")
    client.fin()
    proxy.origin().fin()
    proxy.assert_nothing_left()


@pytest.mark.parametrize("value", [7, "text", None])
def test_a_filter_that_sets_no_bytes_costs_its_request_only(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(StreamFilter):
        def decode_headers(self, headers: RequestHeaders, end_stream: bool) -> int:
            if headers.path == b"/wrong":
                headers[b"x-wrong"] = value
            return CONTINUE

    proxy = Proxy(filters=[Wrong])
    client, other = proxy.client(), proxy.client(("192.0.2.8", 1))
    client.send(b"GET /wrong HTTP/1.1\r\nhost: h\r\n\r\n")
    proxy.loop.advance(2)
    assert client.is_closed
    assert "internal error" in caplog.text
    assert proxy.exchange(other).endswith(b"ok")
    other.fin()
    proxy.origin().fin()
    proxy.assert_nothing_left()

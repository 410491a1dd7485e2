"""Fixture cases for the codecs: ``name.http`` holds the bytes, ``name.expected.json`` the messages they become.

A ``.http`` file is text. Line ends of the file itself mean nothing; the bytes are written visibly:

    \\r \\n \\t \\0 \\\\ \\xHH    one byte
    {text*N}                 ``text`` N times; a ``#`` in it is the number of the repetition, from 0
    # ...                    a line that begins so is a comment

The expectation names only what differs from a plain message (``DEFAULTS``). Its other keys: ``settings`` of the codec;
``expect``, for a response: methods of the requests that were written; ``eof``: the peer closes at the end; ``failed``;
``read_size``: no read has more bytes than this; ``envoy``: status, details and flags that Envoy 1.40 was seen to log
for the bytes; ``differs``: why it is otherwise here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from workerproxy.http.headers import HeaderMap
from workerproxy.worker.http.codec.client_codec import ClientCodec
from workerproxy.worker.http.codec.messages import RequestMessage, ResponseMessage
from workerproxy.worker.http.codec.server_codec import ServerCodec
from workerproxy.worker.http.codec.settings import CodecSettings

FIXTURES = Path(__file__).parent / "fixtures"
KINDS = ("no body", "length", "chunked", "until close")
DEFAULTS: dict[str, Any] = {
    "version": 11,
    "keep_alive": True,
    "host_missing": False,
    "complete": True,
    "headers": [],
    "body": "",
    "body_kind": "no body",
    "content_length": 0,
    "body_remaining": 0,
    "trailers": None,
    "expect_continue": False,
    "upgrade": "",
    "scheme": "",
    "headers_complete": True,
    "error": None,
}
_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([rnt0\\]))")
_SIMPLE = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
_REPEAT = re.compile(rb"\{([^{}]*)\*(\d+)\}")


@dataclass
class Case:
    """One fixture. ``data``: the bytes of the connection from its first one."""

    name: str
    side: str  # request or response
    data: bytes
    expected: dict[str, Any] = field(repr=False)

    @cached_property
    def settings(self) -> CodecSettings:
        options = dict(self.expected.get("settings", {}))
        if "default_host_for_http_10" in options:
            options["default_host_for_http_10"] = options["default_host_for_http_10"].encode()
        return CodecSettings(**{"max_headers_kb": 60 if self.side == "request" else 80, **options})

    @cached_property
    def callbacks_only(self) -> CodecSettings:
        """The same, with every head read by callbacks."""
        return replace(self.settings, bulk=False)


def load() -> list[Case]:
    """Every fixture, in order of name."""
    return [_load(path) for path in sorted(FIXTURES.glob("*/*.http"))]


def _load(path: Path) -> Case:
    expected = json.loads(path.with_suffix(".expected.json").read_text())
    return Case(path.stem, path.parent.name, decode(path.read_bytes()), expected)


def decode(text: bytes) -> bytes:
    """The bytes that the text of a ``.http`` file stands for."""
    lines = [line for line in text.split(b"\n") if not line.startswith(b"# ")]
    data = _REPEAT.sub(_repetition, b"".join(lines))
    return _ESCAPE.sub(_unescaped, data)


def _repetition(match: re.Match[bytes]) -> bytes:
    text, times = match[1], int(match[2])
    if b"#" not in text:
        return text * times
    return b"".join(text.replace(b"#", b"%d" % number) for number in range(times))


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _SIMPLE[match[2]]


def run(case: Case, parts: list[bytes], *, bulk: bool = True) -> dict[str, Any]:
    """Feed ``parts`` to a new codec and describe what came of them."""
    settings = case.settings if bulk else case.callbacks_only
    if case.side == "request":
        return run_server(settings, parts)
    return run_client(settings, parts, case.expected.get("expect", ["GET"]), eof=case.expected.get("eof", False))


def run_server(settings: CodecSettings, parts: list[bytes]) -> dict[str, Any]:
    codec = ServerCodec(settings)
    for part in parts:
        codec.feed(part)
    return {"messages": [describe(message) for message in codec.messages], "failed": codec.failed}


def run_client(settings: CodecSettings, parts: list[bytes], methods: list[str], *, eof: bool = False) -> dict[str, Any]:
    """Each method is expected as soon as the response before it is complete, as a connection pool does."""
    codec = ClientCodec(settings)
    waiting = list(methods)
    if waiting:
        codec.expect(waiting.pop(0).encode())
    for part in parts:
        codec.feed(part)
        last = codec.messages[-1] if codec.messages else None
        if waiting and last is not None and last.complete and last.headers.status >= 200:
            codec.expect(waiting.pop(0).encode())
    if eof:
        codec.eof()
    return {"messages": [describe(message) for message in codec.messages], "failed": codec.failed}


def describe(message: RequestMessage | ResponseMessage) -> dict[str, Any]:
    """What a message came to, without what is as in ``DEFAULTS``."""
    facts: dict[str, Any] = {}
    headers = message.headers
    if isinstance(message, RequestMessage):
        facts["method"] = _text(message.headers.method)
        facts["path"] = shorten(_text(message.headers.path))
        facts["authority"] = _text(message.headers.authority)
        facts["scheme"] = _text(message.headers.scheme)
        facts["host_missing"] = message.host_missing
        facts["expect_continue"] = message.expect_continue
        facts["upgrade"] = _text(message.upgrade)
    else:
        facts["status"] = message.headers.status
    facts.update(
        version=message.version,
        keep_alive=message.keep_alive,
        complete=message.complete,
        headers_complete=message.headers_complete,
        headers=_pairs(headers),
        body=shorten(_text(b"".join(message.body))),
        body_kind=KINDS[message.body_kind],
        content_length=message.content_length,
        body_remaining=message.body_remaining,
        trailers=None if message.trailers is None else _pairs(message.trailers),
        error=None if message.error is None else [message.error.status, message.error.details],
    )
    if message.error is not None and not message.headers_complete:
        return {"error": facts["error"]}
    return {key: value for key, value in facts.items() if key not in DEFAULTS or DEFAULTS[key] != value}


def _pairs(headers: HeaderMap) -> list[list[str]]:
    return [[_text(name), shorten(_text(value))] for name, value in headers.pairs()]


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def shorten(text: str) -> str:
    """Long text as its length, so that an expectation can be read."""
    return text if len(text) <= 200 else f"{text[:20]}... {len(text)} bytes"

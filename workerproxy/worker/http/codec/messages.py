"""What a codec makes of the bytes it is fed: messages in the order of the wire, filled as bytes arrive.

A message is appended to the codec's ``messages`` when its first byte is seen and stays there until the consumer takes
it (``popleft``). Bytes that follow a complete message in the same read become further messages: the connection manager
handles them strictly one at a time, so parse-ahead is bounded by one read.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders

# How a message's body is framed (RFC 9112 section 6).
NO_BODY: Final = 0
LENGTH: Final = 1
CHUNKED: Final = 2
UNTIL_CLOSE: Final = 3


class CodecError(NamedTuple):
    """Why the bytes were refused.

    ``status``: what a server answers (400, 431, 426 ...). ``details``: Envoy's ``http1.…`` string. ``body``: the local
    reply's body, as Envoy's ``sendProtocolError`` words it.
    """

    status: int
    details: str
    body: bytes


class RequestMessage:
    """One request. ``body`` holds chunks not yet taken: the consumer takes the list and leaves an empty one."""

    __slots__ = (
        "body",
        "body_kind",
        "body_remaining",
        "complete",
        "content_length",
        "error",
        "expect_continue",
        "head_bytes",
        "headers",
        "headers_complete",
        "keep_alive",
        "trailers",
        "upgrade",
        "version",
    )

    headers: RequestHeaders
    version: int  # 10 or 11
    keep_alive: bool  # what the peer allows: version and Connection tokens (RFC 9112 section 9.3)
    headers_complete: bool
    body_kind: int  # NO_BODY, LENGTH or CHUNKED
    content_length: int  # of LENGTH, else 0
    body_remaining: int  # of LENGTH: bytes not received yet
    body: list[bytes]
    trailers: HeaderMap | None
    complete: bool  # the last byte of the message was received
    expect_continue: bool
    upgrade: bytes  # the Upgrade token(s) when the request asks for one, else b""
    head_bytes: int  # size of the request line and header section
    error: CodecError | None  # set: nothing more comes of this message or this connection


class ResponseMessage:
    """One response, or an informational one (1xx) that precedes it."""

    __slots__ = (
        "body",
        "body_kind",
        "body_remaining",
        "complete",
        "content_length",
        "error",
        "head_bytes",
        "headers",
        "headers_complete",
        "keep_alive",
        "trailers",
        "version",
    )

    headers: ResponseHeaders
    version: int
    keep_alive: bool  # the connection may carry another request after this message
    headers_complete: bool
    body_kind: int
    content_length: int
    body_remaining: int
    body: list[bytes]
    trailers: HeaderMap | None
    complete: bool
    head_bytes: int
    error: CodecError | None

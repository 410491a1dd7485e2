"""What a codec makes of the bytes it is fed: messages in the order of the wire, filled as bytes arrive.

When ``feed`` returns, every message whose first byte was seen is in the codec's ``messages``, with every attribute set;
it stays there until the consumer takes it (``popleft``). Bytes that follow a complete message in the same read become
further messages: the connection manager handles them strictly one at a time, so parse-ahead is bounded by one read.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders

# How a message's body is framed (RFC 9112 section 6).
NO_BODY: Final = 0  # nothing follows the head; also ``content-length: 0``
LENGTH: Final = 1
CHUNKED: Final = 2
UNTIL_CLOSE: Final = 3  # a response without a length; a request that asks for a tunnel (``upgrade``)


class CodecError(NamedTuple):
    """Why the bytes were refused.

    ``status``: what a server answers (400, 403, 431, 501). ``details``: Envoy's ``http1.…`` string. ``body``: the local
    reply's body, as Envoy's ``sendProtocolError`` words it.
    """

    status: int
    details: str
    body: bytes


class RequestMessage:
    """One request. ``body`` holds chunks not yet taken: the consumer takes the list and leaves an empty one.

    When ``error`` is set and ``headers_complete`` is not, ``headers`` are blank: what was read of them means nothing.
    """

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
        "host_missing",
        "keep_alive",
        "trailers",
        "upgrade",
        "version",
    )

    headers: RequestHeaders
    version: int  # 11 for HTTP/1.1; 10 for whatever else, as in Envoy
    keep_alive: bool  # what the peer allows: version and Connection tokens (RFC 9112 section 9.3)
    headers_complete: bool
    host_missing: bool  # there is no Host field at all; an empty one is allowed (RFC 9112 section 3.2)
    body_kind: int  # NO_BODY, LENGTH, CHUNKED or UNTIL_CLOSE
    content_length: int  # of LENGTH, else 0
    body_remaining: int  # of LENGTH: bytes not received yet
    body: list[bytes]
    trailers: HeaderMap | None  # None also where trailers are not enabled
    complete: bool  # the last byte of the message was received
    expect_continue: bool
    upgrade: bytes  # the Upgrade value when the request asks for one, b"CONNECT" for a CONNECT request, else b""
    head_bytes: int  # of the header section, as Envoy's DOWNSTREAM_HEADER_BYTES_RECEIVED counts them
    error: CodecError | None  # set: nothing more comes of this message or this connection

    def __repr__(self) -> str:
        return f"<RequestMessage {_state(self)} kind={self.body_kind} remaining={self.body_remaining}>"


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
    head_bytes: int  # as Envoy's UPSTREAM_HEADER_BYTES_RECEIVED counts those of one message
    error: CodecError | None

    def __repr__(self) -> str:
        return f"<ResponseMessage {_state(self)} kind={self.body_kind} remaining={self.body_remaining}>"


def _state(message: RequestMessage | ResponseMessage) -> str:
    if message.error is not None:
        return f"refused {message.error.details}"
    return "complete" if message.complete else "in its body" if message.headers_complete else "in its head"

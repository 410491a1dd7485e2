"""Leads llhttp into a chunked body by a head of our own, where it had stopped after the head the client sent.

Only for requests that offered h2c: llhttp takes the offer for an end of HTTP/1.1, we do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.worker.http.codec.server_codec import ServerCodec

_LEAD_IN: Final = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


class Led:
    """Stands before the codec as llhttp's protocol while llhttp is led into a chunked body by a head of our own.

    Afterwards it only passes on; it stays until the codec makes another parser.
    """

    def __init__(self, codec: ServerCodec) -> None:
        self._codec = codec
        self._leading = True
        self.on_body = codec.on_body
        self.on_message_complete = codec.on_message_complete

    def begin(self, execute: Callable[[bytes], None]) -> None:
        execute(_LEAD_IN)
        self._leading = False

    def on_message_begin(self) -> None:
        if not self._leading:
            self._codec.on_message_begin()

    def on_url(self, part: bytes) -> None:
        if not self._leading:
            self._codec.on_url(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._leading:
            self._codec.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._leading:
            self._codec.on_headers_complete()

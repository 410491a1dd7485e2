"""The bytes at hand while a head is read by callbacks, and where in them it stands: llhttp does not say.

It is needed for three things: the limit on a head's size, the exact request or status line, and whether a control
character was the fault. Messages that follow one another in a read are found by their lengths; only where a chunked
body ends is not known, and then the next message's place is not either.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade

from workerproxy.worker.http.codec.messages import CHUNKED

if TYPE_CHECKING:
    from httptools import HttpRequestParser, HttpResponseParser

    from workerproxy.worker.http.codec.messages import RequestMessage, ResponseMessage

END_OF_HEAD: Final = b"\r\n\r\n"
UNKNOWN: Final = -1
# What may not stand in a head; CR and LF are told apart by llhttp.
CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Silent:
    """A protocol of llhttp that wants to know nothing."""

    on_message_begin = on_url = on_status = on_header = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = None


class Window:
    """``limit``: bytes a head may have on the wire."""

    __slots__ = ("_head_end", "_limit", "_start", "data", "pieces", "room")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.room = limit  # bytes that the unfinished head may still have
        self.pieces: list[bytes] = []  # the unfinished head's bytes of earlier reads, from its first one
        self.data = b""  # this read
        self._start = 0  # where in data the message begins, or empty lines before it
        self._head_end = UNKNOWN  # where in data its head ended, when that had begun in an earlier read

    def open(self, data: bytes, *, between: bool) -> None:
        """A read begins. ``between``: and with it a message, or the unfinished head goes on."""
        self.data = data
        self._start = 0 if between else UNKNOWN
        self._head_end = UNKNOWN

    def first_byte(self) -> int:
        """Where in ``line_source`` the message begins, after empty lines (RFC 9112 section 2.2), or UNKNOWN."""
        if self.pieces:
            return 0
        start = self._start
        data = self.data
        while 0 <= start < len(data) and data[start] in b"\r\n":
            start += 1
        return start

    def line_source(self) -> bytes:
        """The bytes that the head's first line is in."""
        return b"".join([*self.pieces, self.data]) if self.pieces else self.data

    def size(self) -> int:
        """Bytes of the complete head, from its first one to the empty line's LF, or UNKNOWN."""
        start = self.first_byte()
        return UNKNOWN if start < 0 else self.line_source().find(END_OF_HEAD, start) + 4 - start

    def end_of_head(self) -> int:
        """Where in ``data`` the first byte after the complete head is. Only where the message's place is known."""
        return self._head_end if self._head_end >= 0 else self.data.find(END_OF_HEAD, self.first_byte()) + 4

    def keep(self) -> bool:
        """The read ended inside a head: keep its bytes. Says whether they are still within the limit."""
        data = self.data
        if not self.pieces:
            # Where the place is not known, after a chunked body: that ends with an empty line too.
            start = self._start if self._start >= 0 else data.rfind(END_OF_HEAD) + 1
            data = data[start:].lstrip(b"\r\n")
        self.pieces.append(data)
        self.room -= len(data)
        return self.room >= 0

    def finish(self) -> None:
        """The head that was kept in pieces is complete."""
        self._head_end = self.line_source().find(END_OF_HEAD) + 4 - sum(map(len, self.pieces))
        self.pieces = []
        self.room = self._limit

    def advance(self, last: RequestMessage | ResponseMessage | None) -> None:
        """A message begins in this read after ``last``."""
        if self._start >= 0 and last is not None and last.body_kind != CHUNKED:
            self._start = self.end_of_head() + last.content_length
        else:
            self._start = UNKNOWN
        self._head_end = UNKNOWN

    def stopped_at_control(self, parser_type: type[HttpRequestParser] | type[HttpResponseParser]) -> bool:
        """Whether it was a control character that llhttp would not take: without it, it finds no fault.

        Not where it is the message's first byte: that is no method's.
        """
        start = self.first_byte()
        if start < 0:
            return False
        raw = self.line_source()[start:]
        found = CONTROL.search(raw)
        if found is None or not found.start():
            return False
        try:
            parser_type(Silent).feed_data(raw[: found.start()])
        except (HttpParserError, HttpParserUpgrade):
            return False
        return True

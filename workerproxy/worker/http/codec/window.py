"""The bytes at hand while a head is read by callbacks: for what llhttp does not tell.

That is three things: how big the head is, how exactly its first line is written, and whether a control character was
the fault. The codecs feed llhttp in pieces that end where a head ends, so a message never begins inside one, but for
empty lines before it (RFC 9112 section 2.2).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade

if TYPE_CHECKING:
    from httptools import HttpRequestParser, HttpResponseParser

END_OF_HEAD: Final = b"\r\n\r\n"
CR_LF: Final = b"\r\n"
# What may not stand in a head; CR and LF are told apart by llhttp.
CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Silent:
    """A protocol of llhttp that wants to know nothing."""

    on_message_begin = on_url = on_status = on_header = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = None


class Window:
    """``limit``: bytes a head may have on the wire."""

    __slots__ = ("_limit", "data", "pieces", "room", "tail")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.room = limit  # bytes that the unfinished head may still have
        self.pieces: list[bytes] = []  # the unfinished head's bytes that were fed before, from its first one
        self.data = b""  # what is being fed
        self.tail = b""  # the last bytes that were fed before of the message being read, at most 4

    def next_piece(self, data: bytes) -> int:
        """How much of ``data`` is to be fed at once: up to the end of an empty line, or all."""
        if self.tail:
            begun = self.tail[-3:]
            found = (begun + data[:3]).find(END_OF_HEAD)
            if found >= 0:  # it had begun in an earlier read
                return found + 4 - len(begun)
        end = data.find(END_OF_HEAD) + 4
        return end if end > 3 else len(data)

    def remember(self) -> None:
        """What was fed ends inside a message."""
        data = self.data
        self.tail = data[-4:] if len(data) > 3 else (self.tail + data)[-4:]

    def raw(self) -> bytes:
        """The head's bytes so far, from its first one."""
        return b"".join([*self.pieces, self.data]) if self.pieces else self.data.lstrip(CR_LF)

    def keep(self) -> bool:
        """What was fed ends inside a head: keep it. Says whether the head is still within the limit."""
        data = self.data if self.pieces else self.data.lstrip(CR_LF)
        self.pieces.append(data)
        self.room -= len(data)
        return self.room >= 0

    def finish(self) -> None:
        """The head that was kept in pieces is complete."""
        self.pieces = []
        self.room = self._limit

    def stopped_at_control(self, parser_type: type[HttpRequestParser] | type[HttpResponseParser]) -> bool:
        """Whether it was a control character that llhttp would not take: without it, it finds no fault.

        Not where it is the message's first byte: that is no method's.
        """
        raw = self.raw()
        found = CONTROL.search(raw)
        if found is None or not found.start():
            return False
        try:
            parser_type(Silent).feed_data(raw[: found.start()])
        except (HttpParserError, HttpParserUpgrade):
            return False
        return True

"""Where an HTTP/1 message ends in a buffer, for test peers. Lenient: it judges nothing, it only finds the end."""

from __future__ import annotations

import re
from typing import Final

_LENGTH: Final = re.compile(rb"\r?\ncontent-length[ \t]*:[ \t]*(\d+)[ \t]*\r?\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r?\ntransfer-encoding[ \t]*:[^\n]*chunked[ \t]*\r?\n", re.IGNORECASE)


def head_end(data: bytes, start: int = 0) -> int:
    """Index after the empty line that ends the head beginning at ``start``, or -1."""
    at = data.find(b"\r\n\r\n", start)
    return at + 4 if at >= 0 else -1


def body_end(data: bytes, start: int, body: int, *, until_close: bool = False) -> int:
    """Index after the message whose head is ``data[start:body]``, or -1 while incomplete.

    Without a length a request has no body; a response (``until_close``) never completes before the close.
    """
    head = data[start:body]
    if _CHUNKED.search(head):
        return _chunked_end(data, body)
    length = _LENGTH.search(head)
    if length is None:
        return -1 if until_close else body
    end = body + int(length[1])
    return end if len(data) >= end else -1


def _chunked_end(data: bytes, at: int) -> int:
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return -1
        try:
            size = int(data[at:line].split(b";")[0], 16)
        except ValueError:
            return line + 2  # not chunked after all: the peer's business
        if size == 0:
            break
        at = line + 2 + size + 2
    if data[line : line + 4] == b"\r\n\r\n":
        return line + 4
    end = data.find(b"\r\n\r\n", line)
    return end + 4 if end >= 0 else -1


def dechunk(data: bytes) -> tuple[bytes, bytes] | None:
    """Content and trailer section (each line with CRLF) of a complete chunked body; None when it is not complete."""
    content = []
    at = 0
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(data[at:line].split(b";")[0], 16)
        except ValueError:
            return None
        at = line + 2
        if size == 0:
            break
        if len(data) < at + size + 2:
            return None
        content.append(data[at : at + size])
        at += size + 2
    end = _chunked_end(data, 0)
    return None if end < 0 else (b"".join(content), data[at : end - 2])

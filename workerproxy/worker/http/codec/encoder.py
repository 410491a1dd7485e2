"""Messages to bytes: heads, chunks, the last chunk. Pure functions.

What is written is what the header map holds: the caller has put Content-Length or Transfer-Encoding there, and has
removed what is not to be passed on. Values hold no CR, LF or NUL: the codecs and the configuration loader see to that.

Envoy's names: ``Http1::StreamEncoderImpl``, ``ProperCaseHeaderKeyFormatter``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from workerproxy.worker.http.codec.status_lines import STATUS_LINES, STATUS_LINES_10

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workerproxy.http.headers import HeaderMap, Pair, RequestHeaders, ResponseHeaders

_END: Final = b"\r\n"
_field = b": ".join
_lines = b"\r\n".join
_WORD_START: Final = re.compile(rb"(?<![A-Za-z0-9])[a-z]")


def request_head(headers: RequestHeaders) -> bytes:
    """The request line in origin-form (RFC 9112 section 3.2.1) and the header section. Host comes first."""
    start = b"%b %b HTTP/1.1\r\nhost: %b" % (headers.method, headers.path, headers.authority)
    if headers.more is None:
        return _lines([start, *map(_field, headers.items()), _END])
    return _lines([start, *map(_field, headers.pairs()), _END])


def response_head(headers: ResponseHeaders) -> bytes:
    """The status line of HTTP/1.1 and the header section. ``status``: 100 to 999."""
    if headers.more is None:
        return _lines([STATUS_LINES[headers.status], *map(_field, headers.items()), _END])
    return _lines([STATUS_LINES[headers.status], *map(_field, headers.pairs()), _END])


def response_head_10(headers: ResponseHeaders) -> bytes:
    """As ``response_head``, to a client that spoke HTTP/1.0."""
    return _lines([STATUS_LINES_10[headers.status], *map(_field, headers.pairs()), _END])


# header_key_format.proper_case_words: chosen when the configuration is built, for it costs a regular expression a name.


def request_head_proper_case(headers: RequestHeaders) -> bytes:
    start = b"%b %b HTTP/1.1\r\nHost: %b" % (headers.method, headers.path, headers.authority)
    return _lines([start, *_proper_case(headers.pairs()), _END])


def response_head_proper_case(headers: ResponseHeaders) -> bytes:
    return _lines([STATUS_LINES[headers.status], *_proper_case(headers.pairs()), _END])


def response_head_10_proper_case(headers: ResponseHeaders) -> bytes:
    return _lines([STATUS_LINES_10[headers.status], *_proper_case(headers.pairs()), _END])


def framing_fields(*, proper_case: bool) -> tuple[bytes, bytes]:
    """The last lines of a head, to take the place of its empty line: a chunked body follows; no body follows.

    So the field says what is on the wire without being one of the message's headers, as in Envoy.
    """
    fields = b"transfer-encoding: chunked\r\n\r\n", b"content-length: 0\r\n\r\n"
    if not proper_case:
        return fields
    return b"Transfer-Encoding: chunked\r\n\r\n", b"Content-Length: 0\r\n\r\n"


def field_bytes(head: bytes) -> int:
    """Size of a head's fields as Envoy's header byte counters have it: no start line, one line end less."""
    return len(head) - head.index(b"\n") - 3


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 section 7.1). ``data`` is not empty: an empty chunk would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunks(parts: list[bytes], size: int) -> list[bytes]:
    """``parts``, of ``size`` bytes together and not none, as one chunk in pieces for ``sendmsg``: nothing is copied."""
    return [b"%x\r\n" % size, *parts, b"\r\n"]


def last_chunk(trailers: HeaderMap | None) -> bytes:
    """The end of a chunked body, with its trailer section."""
    if not trailers:
        return b"0\r\n\r\n"
    return _lines([b"0", *map(_field, trailers.pairs()), _END])


def _proper_case(pairs: Iterable[Pair]) -> list[bytes]:
    return [b"%b: %b" % (_WORD_START.sub(_upper, name), value) for name, value in pairs]


def _upper(match: re.Match[bytes]) -> bytes:
    return match[0].upper()

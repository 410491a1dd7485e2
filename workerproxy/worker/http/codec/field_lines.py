"""Field lines and what they say: most lines of most messages were seen before, byte for byte.

A client sends the same Host, User-Agent, Accept ... with each request, a server the same Server and Content-Type. So a
line is taken apart once and then looked up. The table is filled only with lines of heads that llhttp has found valid,
which makes the split at the first colon and the trimming of blanks exact (RFC 9112 section 5). Lines that hold a
secret, or whose value is new each time, are taken apart each time and never kept.

One step further, a connection keeps its last header section whole (``Section``): when the next one is the same, byte
for byte, its fields are copied.

Lines that need more than that raise ``Unusual``: the head is then read with llhttp's callbacks, which know every rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.worker.http.codec.connection_field import PLAIN

if TYPE_CHECKING:
    from workerproxy.http.headers import Pair

# Framing other than by length, expectations, tunnels: never read in bulk.
_UNUSUAL: Final = frozenset({b"expect", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_NOT_KEPT: Final = b"""
    Age Authorization Content-Disposition Content-Range Cookie ETag Expires If-Match If-Modified-Since If-None-Match
    If-Range Last-Modified Location Proxy-Authorization Range Set-Cookie Traceparent Tracestate X-Amzn-Trace-Id
    X-Api-Key X-B3-SpanId X-B3-TraceId X-CSRF-Token X-Envoy-Upstream-Service-Time X-Request-ID X-Runtime
""".split()
_MAX_LINES: Final = 2048  # then the table is emptied and fills again with what is in use
_MAX_LENGTH: Final = 256  # bytes of a line that is kept; with _MAX_LINES: at most about 1.2 MiB


class Unusual(Exception):
    """A head that is not to be read in bulk. Never leaves the codec."""


class FieldLines(dict[bytes, "Pair"]):
    """Field line with its CR -> lower-case name and value. Look up with ``[]``; only lines that llhttp has taken."""

    __slots__ = ("_not_kept", "_underscores")

    def __init__(self, *, underscores: bool) -> None:
        """``underscores``: names may have them (``headers_with_underscores_action`` ALLOW)."""
        super().__init__()
        self._underscores = underscores
        spellings = [(spelling, name.lower()) for name in _NOT_KEPT for spelling in (name, name.lower(), name.title())]
        self._not_kept = dict(spellings)

    def __missing__(self, line: bytes) -> Pair:
        name, _, value = line.partition(b": ")
        key = self._not_kept.get(name)
        if key is not None:
            value = value[:-1]
            if value.strip() == value:
                return key, value
        return self._learn(line)

    def _learn(self, line: bytes) -> Pair:
        name, _, value = line.partition(b":")
        value = value.strip()
        # Written as nearly everyone does: the size of the head is then known without looking at each field.
        if line != b"%b: %b\r" % (name, value):
            raise Unusual
        key = name.lower()
        if key in _UNUSUAL or (key == b"connection" and value not in PLAIN) or (b"_" in key and not self._underscores):
            raise Unusual
        pair = key, value
        if len(line) <= _MAX_LENGTH and key.title() not in self._not_kept:
            if len(self) >= _MAX_LINES:
                self.clear()
            self[line] = pair
        return pair


# A header section that was read in bulk: its bytes from after the first line to the end of the head, its fields
# (without Host; never changed, only copied), Host, content-length or 0, whether the connection is kept, header bytes.
# A plain tuple: a named one costs four times as much to make.
Section = tuple[bytes, dict[bytes, bytes], bytes, int, bool, int]
NO_SECTION: Final[Section] = (b"", {}, b"", 0, True, 0)  # no head ends with it

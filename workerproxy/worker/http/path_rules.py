"""Path and host normalisation of requests. Envoy's names: ``PathUtil``, ``maybeNormalizePath``, ``maybeNormalizeHost``.

Pure functions over bytes. ``canonical`` follows the URL canonicaliser Envoy uses: percent-encoded unreserved characters
are decoded, dot segments removed, backslashes become slashes (RFC 3986 section 6.2.2, WHATWG URL).
"""

from __future__ import annotations

import re
from typing import Final

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HEX: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPED_SLASH: Final = re.compile(rb"%(?:2[Ff]|5[Cc])")
_SLASHES: Final = re.compile(rb"//+")
_MUST_ESCAPE: Final = re.compile(rb"[^!$%&'()*+,\-./0-9:;=@A-Z\[\]_a-z~]")


def canonical(path: bytes) -> bytes | None:
    """The normalised path with its query untouched; None when it is invalid (an escaped NUL, say)."""
    raw, mark, query = path.partition(b"?")
    if not raw.startswith((b"/", b"\\")):
        raw = b"/" + raw
    raw = raw.replace(b"\\", b"/")
    if b"%00" in raw:
        return None
    decoded = _HEX.sub(_decode_unreserved, raw) if b"%" in raw else raw
    if _MUST_ESCAPE.search(decoded):
        decoded = _MUST_ESCAPE.sub(lambda match: b"%%%02X" % match[0][0], decoded)
    return _remove_dot_segments(decoded) + mark + query


def _decode_unreserved(match: re.Match[bytes]) -> bytes:
    value = int(match[1], 16)
    return bytes((value,)) if value in _UNRESERVED else match[0]


def _remove_dot_segments(path: bytes) -> bytes:
    if b"/." not in path:
        return path
    out: list[bytes] = []
    segments = path.split(b"/")
    for number, segment in enumerate(segments[1:], 1):
        last = number == len(segments) - 1
        if segment == b".":
            if last:
                out.append(b"")
        elif segment == b"..":
            if out:
                out.pop()
            if last:
                out.append(b"")
        else:
            out.append(segment)
    return b"/" + b"/".join(out)


def merge_slashes(path: bytes) -> bytes:
    """``//`` runs of the path become one slash; the query is left alone."""
    raw, mark, query = path.partition(b"?")
    if b"//" not in raw:
        return path
    if not raw.strip(b"/"):
        return b"//" + mark + query  # as Envoy, which keeps the first slash and the last one
    return _SLASHES.sub(b"/", raw) + mark + query


def unescape_slashes(path: bytes) -> bytes:
    """``%2F`` and ``%5C`` of the path become ``/`` and ``\\``; the query is left alone."""
    raw, mark, query = path.partition(b"?")
    if b"%" not in raw:
        return path
    return _ESCAPED_SLASH.sub(_unescape, raw) + mark + query


def _unescape(match: re.Match[bytes]) -> bytes:
    return b"/" if match[0][1:2] == b"2" else b"\\"


def strip_port(authority: bytes, port: int | None) -> bytes:
    """Remove the port, or only if it is ``port``. Nothing that is no number."""
    at = authority.rfind(b":")
    if at < 0 or authority.rfind(b"]", at) >= 0:
        return authority
    digits = authority[at + 1 :]
    if not digits.isdigit() or (port is not None and int(digits) != port):
        return authority
    return authority[:at]


def strip_trailing_dot(authority: bytes) -> bytes:
    """``example.com.`` and ``example.com.:80`` lose the dot of the root zone."""
    if authority.endswith(b"."):
        return authority[:-1]
    host, colon, port = authority.rpartition(b":")
    if colon and host.endswith(b".") and b":" not in host:
        return host[:-1] + colon + port
    return authority

"""The Connection field: its tokens, and what they take out of a request (RFC 9110 section 7.6.1).

Envoy's names: ``Utility::sanitizeConnectionHeader``, ``HeaderUtility::shouldCloseConnection``. The field itself is left
in the map for the connection manager, which reads it and removes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workerproxy.http.headers import HeaderMap, RequestHeaders

# Values that name no field to be removed: nearly every Connection field there is.
KEEP_ALIVE: Final = frozenset({b"keep-alive", b"Keep-Alive", b"Keep-alive"})
PLAIN: Final = KEEP_ALIVE | {b"close", b"Close", b"keep-alive, close", b"close, keep-alive"}
_OPTIONS: Final = frozenset({b"close", b"http2-settings", b"keep-alive", b"upgrade"})
# Their removal would hide where a request came from, so nobody may ask for it.
_PROTECTED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
_MAX_TOKENS: Final = 10  # so many, or more, are refused
_MAX_TE_LENGTH: Final = 256  # bytes; so long, or longer, is refused


def tokens(value: bytes) -> list[bytes]:
    """The list's elements in lower case, without the empty ones."""
    return [token for part in value.lower().split(b",") if (token := part.strip())]


def closes(headers: HeaderMap, version: int) -> bool:
    """Whether the sender will not keep the connection (RFC 9112 section 9.3): ``close`` wins over ``keep-alive``.

    ``Proxy-Connection: close`` counts too, as in Envoy. ``version``: 10 or 11.
    """
    value = headers.get(b"connection")
    options = tokens(value) if value is not None else []
    if b"close" in options or (version == 10 and b"keep-alive" not in options):
        return True
    value = headers.get(b"proxy-connection")
    return value is not None and b"close" in tokens(value)


def remove_nominated(headers: RequestHeaders) -> bool:
    """Remove the fields that Connection names, and their names from it. False: the request is to be refused.

    ``TE`` stays, cut down to ``trailers``, when it has that. A nominated Host is gone too: ``authority`` is blank then.
    """
    parts = [part for part in headers[b"connection"].split(b",") if part]
    if len(parts) >= _MAX_TOKENS:
        return False
    kept = []
    for part in parts:
        name = part.strip().lower()
        if name in _OPTIONS:
            kept.append(part.strip())
        elif name in _PROTECTED or name[:1] == b":":
            return False
        elif name == b"te" and b"te" in headers:
            te = headers[b"te"]
            if len(te) >= _MAX_TE_LENGTH:
                return False
            if b"trailers" in tokens(te):
                headers.replace(b"te", b"trailers")
                kept.append(part.strip())
            else:
                headers.remove(b"te")
        elif name == b"host":
            headers.authority = b""
        elif name != b"connection":
            headers.remove(name)
    if kept:
        headers.replace(b"connection", b",".join(kept))
    else:
        headers.remove(b"connection")
    return True

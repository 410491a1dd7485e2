"""Status lines with Envoy's reason phrases (``CodeUtility::toString``); a code it has no phrase for is ``Unknown``."""

from __future__ import annotations

from typing import Final

_PHRASES: Final = {
    100: "Continue",
    101: "Switching Protocols",
    102: "Processing",  # Envoy has no phrase for 102 and 103: it does not pass them on
    103: "Early Hints",
    200: "OK",
    201: "Created",
    202: "Accepted",
    203: "Non-Authoritative Information",
    204: "No Content",
    205: "Reset Content",
    206: "Partial Content",
    207: "Multi-Status",
    208: "Already Reported",
    226: "IM Used",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    305: "Use Proxy",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Payload Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Entity",
    423: "Locked",
    424: "Failed Dependency",
    425: "Too Early",
    426: "Upgrade Required",
    428: "Precondition Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    506: "Variant Also Negotiates",
    507: "Insufficient Storage",
    508: "Loop Detected",
    510: "Not Extended",
    511: "Network Authentication Required",
    599: "Last Unassigned Server Error Code",
}


def reason(status: int) -> bytes:
    """The reason phrase of a status code."""
    return _PHRASES.get(status, "Unknown").encode()


def _lines(version: bytes) -> dict[int, bytes]:
    return {status: b"%b %d %b" % (version, status, reason(status)) for status in range(100, 1000)}


def known_status_lines() -> dict[bytes, int]:
    """A new table from status line to code, of final responses that may have a body, as most servers write them."""
    return {
        line: code for code, line in STATUS_LINES.items() if code in _PHRASES and code >= 200 and code not in (204, 304)
    }


# Status code (100 to 999) -> status line without CRLF.
STATUS_LINES: Final = _lines(b"HTTP/1.1")
STATUS_LINES_10: Final = _lines(b"HTTP/1.0")

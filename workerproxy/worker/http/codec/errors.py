"""Every way a codec refuses bytes: status, details and body as Envoy's HTTP/1 codec gives them.

Envoy's names: ``Http1ResponseCodeDetailValues``, ``ServerConnectionImpl::sendProtocolError``. For a response from
upstream only the details matter: the router answers 502 or resets.
"""

from __future__ import annotations

from typing import Final

from workerproxy.worker.http.codec.messages import CodecError


class Refused(Exception):
    """Raised inside a parser callback to stop llhttp; why is in the codec. Never leaves the codec."""


def _bad_request(details: str) -> CodecError:
    return CodecError(400, details, b"Bad Request")


CODEC_ERROR: Final = _bad_request("http1.codec_error")
INVALID_CHARACTERS: Final = _bad_request("http1.invalid_characters")
INVALID_URL: Final = _bad_request("http1.invalid_url")
INVALID_SCHEME: Final = _bad_request("http1.invalid_scheme")
INVALID_AUTHORITY: Final = _bad_request("http.invalid_authority")
UNEXPECTED_UNDERSCORE: Final = _bad_request("http1.unexpected_underscore")
CONNECTION_HEADER_REJECTED: Final = _bad_request("http1.connection_header_rejected")
BODY_DISALLOWED: Final = _bad_request("http1.body_disallowed")
LENGTH_AND_CHUNKED: Final = _bad_request("http1.content_length_and_chunked_not_allowed")
INVALID_TRANSFER_ENCODING: Final = CodecError(501, "http1.invalid_transfer_encoding", b"Not Implemented")
HEADERS_TOO_LARGE: Final = CodecError(431, "http1.headers_too_large", b"Request Header Fields Too Large")
TOO_MANY_HEADERS: Final = CodecError(431, "http1.too_many_headers", b"Request Header Fields Too Large")

# Responses.
TRANSFER_ENCODING_NOT_ALLOWED: Final = CodecError(502, "http1.transfer_encoding_not_allowed", b"")
CONTENT_LENGTH_NOT_ALLOWED: Final = CodecError(502, "http1.content_length_not_allowed", b"")
UNASKED_UPGRADE: Final = CodecError(502, "http1.unexpected_upgrade", b"")
PREMATURE_END: Final = CodecError(502, "http1.premature_end", b"")

AFTER_HEADERS: Final = "Request has invalid `Transfer-Encoding`"  # llhttp says it only after on_headers_complete

# llhttp's words for what Envoy has a name of its own for; all else is CODEC_ERROR.
REASONS: Final[dict[str, CodecError]] = {
    "Invalid header value char": INVALID_CHARACTERS,
    "Content-Length can't be present with Transfer-Encoding": LENGTH_AND_CHUNKED,
    "Transfer-Encoding can't be present with Content-Length": LENGTH_AND_CHUNKED,
    "Empty Transfer-Encoding": INVALID_TRANSFER_ENCODING,
    "Invalid `Transfer-Encoding` header value": INVALID_TRANSFER_ENCODING,
    AFTER_HEADERS: INVALID_TRANSFER_ENCODING,
}

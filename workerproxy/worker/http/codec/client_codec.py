"""The HTTP/1.1 client codec: bytes from an upstream to response messages.

Theory. A connection carries one request at a time. ``expect`` says that one was written; what comes then is any number
of informational responses (1xx, RFC 9110 section 15.2), each a complete message, and one final response. A byte that
comes when none is expected belongs to nobody: the codec has ``failed`` and the connection must be closed, for the next
request on it could be answered by those bytes.

llhttp does not know the request, so where a response has no body although its fields speak of one (RFC 9112
section 6.3: HEAD, 1xx, 304), the codec stops it at the end of the head (``_cut``), finds that place itself, and goes on
with a fresh llhttp. llhttp skips empty lines before a status line; here a response begins with ``H`` (as in Envoy), and
an empty line after one is a byte that nobody asked for.

Envoy's name: ``Http1::ClientConnectionImpl``. Called by the active client of a connection pool only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpResponseParser

from workerproxy.http.headers import HeaderMap, ResponseHeaders
from workerproxy.worker.http.codec import connection_field
from workerproxy.worker.http.codec.errors import (
    CODEC_ERROR,
    CONTENT_LENGTH_NOT_ALLOWED,
    INVALID_TRANSFER_ENCODING,
    PREMATURE_END,
    TRANSFER_ENCODING_NOT_ALLOWED,
    UNASKED_UPGRADE,
    Refused,
)
from workerproxy.worker.http.codec.field_names import JOINED_IN_RESPONSES
from workerproxy.worker.http.codec.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, ResponseMessage
from workerproxy.worker.http.codec.reader import (
    END_OF_HEAD,
    IGNORING,
    NO_FIELDS,
    PARSING,
    RAW,
    STALE,
    Reader,
    closed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.worker.http.codec.settings import CodecSettings

_FIRST_BYTE: Final = ord("H")
_CR_LF: Final = b"\r\n"
_HTTP_11: Final = b"HTTP/1.1 "


class ClientCodec(Reader[ResponseMessage]):
    """Reads responses. ``feed`` and ``eof`` never raise; a fault becomes the ``error`` of a message."""

    __slots__ = ("_awaiting", "_connect", "_cut", "_get_status", "_get_version", "_head", "_tail")

    _get_status: Callable[[], int]
    _get_version: Callable[[], str]
    # per request
    _awaiting: bool  # a request was written and its final response is not complete
    _head: bool  # it was a HEAD request
    _connect: bool
    # per read
    _cut: bool  # llhttp was stopped at the end of a head, for it would look for a body
    _tail: bytes  # the last bytes of earlier reads of this message, at most 4

    def __init__(self, settings: CodecSettings) -> None:
        self._awaiting = self._head = self._connect = self._cut = False
        self._tail = b""
        super().__init__(settings, JOINED_IN_RESPONSES)

    def _new_parser(self) -> None:
        parser = HttpResponseParser(self)
        if self._settings.allow_chunked_length:
            parser.set_dangerous_leniencies(lenient_chunked_length=True)
        self._execute = parser.feed_data
        self._get_status = parser.get_status_code
        self._get_version = parser.get_http_version
        self._should_keep_alive = parser.should_keep_alive
        self._state = PARSING

    def _let_go(self) -> None:
        super()._let_go()
        self._get_status = self._get_version = closed

    def _blank(self) -> ResponseMessage:
        headers = ResponseHeaders()
        headers.status = 0
        return ResponseMessage(headers)

    def expect(self, method: bytes) -> None:
        """A request with ``method`` was written: its response may come."""
        self._awaiting = True
        self._head = method == b"HEAD"
        self._connect = method == b"CONNECT"

    def feed(self, data: bytes) -> None:
        """Read ``data``, of any size and cut anywhere. Updates ``messages``; ignored once the codec has ``failed``."""
        if self._state and data:
            data = self._feed_past(data)
        while data:
            if self._message is None:
                if not self._awaiting:
                    self._surplus()
                    break
                if data[0] != _FIRST_BYTE:
                    self._fail(CODEC_ERROR)
                    break
                self._fresh = True
            self._data = data
            try:
                self._execute(data)
            except HttpParserError as cause:
                if self._cut:
                    data = self._after_cut(data)
                    continue
                if self._state != IGNORING:
                    self._refuse(cause)
            message = self._message
            if message is not None:
                self._suspend(message, data)
                self._tail = data[-4:] if len(data) >= 4 else (self._tail + data)[-4:]
            elif not self._state and data[-1] in _CR_LF and self._runs_on(data):
                self._surplus()
            break
        self._data = b""

    def eof(self) -> None:
        """The upstream has closed: the end of a response without a length, too early for every other one."""
        message = self._message
        if message is not None:
            if self._state == RAW:
                self._complete(message)
            else:
                self._fail(PREMATURE_END)
        self._state = IGNORING

    def _surplus(self) -> None:
        """Bytes that no request asked for: the connection is not to be used again."""
        self.failed = True
        self._state = IGNORING
        if self.messages:
            self.messages[-1].keep_alive = False

    # parser callbacks, in the order of a message

    def on_message_begin(self) -> None:
        if not self._awaiting:
            if self._state != IGNORING:
                self._surplus()
            raise Refused
        headers = ResponseHeaders()
        headers.status = 0
        self._fields = headers
        self._message = message = ResponseMessage(headers)
        self.messages.append(message)

    def on_headers_complete(self) -> None:
        message = self._message
        if message is None:
            return
        headers = message.headers
        data = self._data
        if self._seen + len(data) > self._max_bytes or len(headers) > self._max_count or headers.more is not None:
            self._check_head(headers)
        status = headers.status = self._get_status()
        if not (self._fresh and not self._seen and data.startswith(_HTTP_11)) and self._get_version() != "1.1":
            message.version = 10
        if self._settings.count_head_bytes:
            message.head_bytes = self._count_head(headers, None)
        if self._head or status < 200 or status == 204 or status == 304:
            self._without_body(message, status)
        if self._connect and 200 <= status < 300:
            self._stop(UNASKED_UPGRADE)

        # RFC 9112 section 6.3. llhttp has refused bad and repeated lengths.
        value = headers.get(b"transfer-encoding")
        if value is not None:
            if value.lower() != b"chunked":
                self._stop(INVALID_TRANSFER_ENCODING)
            self._take_chunked(message, headers)
            self._fields = HeaderMap()
        else:
            value = headers.get(b"content-length")
            if value is not None:
                self._take_length(message, value)
            elif status != 204 and status != 304:
                message.body_kind = UNTIL_CLOSE
        message.keep_alive = self._should_keep_alive()
        value = headers.get(b"connection")
        if (value is not None and value not in connection_field.PLAIN) or message.version == 10:
            self._consider_connection(message)
        self._forget_head()
        message.headers_complete = True

    def on_message_complete(self) -> None:
        message = self._message
        if message is None:
            return
        if message.body_kind == CHUNKED:
            self._end_trailers(message)
        self._complete(message)

    def _complete(self, message: ResponseMessage) -> None:
        message.complete = True
        self._message = None
        self._fields = NO_FIELDS
        self._awaiting = False
        self._tail = b""
        if not message.keep_alive:
            self._state = IGNORING

    def _consider_connection(self, message: ResponseMessage) -> None:
        # RFC 9112 section 6.1: after a chunked HTTP/1.0 message the connection is not to be trusted.
        if connection_field.closes(message.headers, message.version) or (
            message.version == 10 and message.body_kind == CHUNKED
        ):
            message.keep_alive = False

    # responses without a body

    def _without_body(self, message: ResponseMessage, status: int) -> None:
        """1xx, 204, 304, or the response to HEAD: stops llhttp where it would go on to a body. Else it just returns."""
        headers = message.headers
        if status == 101 or status < 100:
            self._stop(UNASKED_UPGRADE if status == 101 else CODEC_ERROR)
        length = headers.get(b"content-length")
        coding = headers.get(b"transfer-encoding")
        if status < 200 or status == 204:
            # RFC 9110 sections 8.6 and 6.1 of RFC 9112: neither field here. Envoy forgives a length of 0.
            if coding is not None:
                self._stop(TRANSFER_ENCODING_NOT_ALLOWED)
            if length is not None:
                if length != b"0":
                    self._stop(CONTENT_LENGTH_NOT_ALLOWED)
                headers.remove(b"content-length")
        if coding is not None and coding.lower() != b"chunked":
            self._stop(INVALID_TRANSFER_ENCODING)
        if status >= 200 and not self._head and coding is None and (length is None or length == b"0"):
            return
        if status >= 200:
            message.keep_alive = not connection_field.closes(headers, message.version)
        message.body_kind = NO_BODY
        message.headers_complete = True
        self._forget_head()
        self._cut = True
        raise Refused

    def _after_cut(self, data: bytes) -> bytes:
        """llhttp was stopped at the end of a head in ``data``. Gives what is to be parsed next."""
        message = self._message
        self._cut = False
        rest = data[self._head_end(data) :]
        if message is None:
            return b""
        self._state = STALE
        self._complete(message)
        if message.headers.status < 200:
            self._awaiting = True
            self._new_parser()
            return rest
        if rest and self._state == STALE:
            self._surplus()
        return b""

    # where a message ends

    def _head_end(self, data: bytes) -> int:
        """Offset in ``data`` of the first byte after the head that ends in it."""
        return (self._tail + data).find(END_OF_HEAD) + len(END_OF_HEAD) - len(self._tail)

    def _runs_on(self, data: bytes) -> bool:
        """Whether empty lines follow the response that is complete at the end of ``data``; llhttp skips them."""
        message = self.messages[-1]
        if message.body_kind == CHUNKED:
            end = (self._tail + data[-5:])[-5:]  # of the last chunk's or trailer's line, and the empty line
            return end[1:] != END_OF_HEAD or end[0] in _CR_LF
        return self._head_end(data) + message.content_length != len(data)

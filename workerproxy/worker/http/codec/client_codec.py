"""The HTTP/1.1 client codec: bytes from an upstream to response messages.

Theory. A connection carries one request at a time. ``expect`` says that one was written; what comes then is any number
of informational responses (1xx, RFC 9110 section 15.2), each a complete message, and one final response. A byte that
comes when none is expected belongs to nobody: the codec has ``failed`` and the connection must be closed, for the next
request on it could be answered by those bytes.

llhttp does not know the request, so where a response has no body although its fields speak of one (RFC 9112
section 6.3: HEAD, 1xx, 304), the codec stops it at the end of the head (``_cut``) and goes on with a fresh llhttp; the
piece that was fed ends there too. llhttp skips empty lines before a status line; here a response begins with ``H`` (as
in Envoy), and an empty line after one is bytes that nobody asked for.

Envoy's name: ``Http1::ClientConnectionImpl``. Called by the active client of a connection pool only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from workerproxy.http.headers import ResponseHeaders
from workerproxy.worker.http.codec import connection_field
from workerproxy.worker.http.codec.connection_field import KEEP_ALIVE, PLAIN
from workerproxy.worker.http.codec.errors import (
    CODEC_ERROR,
    CONTENT_LENGTH_NOT_ALLOWED,
    INVALID_CHARACTERS,
    INVALID_TRANSFER_ENCODING,
    PREMATURE_END,
    TRANSFER_ENCODING_NOT_ALLOWED,
    UNASKED_UPGRADE,
    Refused,
)
from workerproxy.worker.http.codec.field_lines import NO_SECTION, Unusual
from workerproxy.worker.http.codec.field_names import JOINED_IN_RESPONSES
from workerproxy.worker.http.codec.messages import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE, ResponseMessage
from workerproxy.worker.http.codec.reader import IGNORING, LENGTH_BODY, RAW, Reader
from workerproxy.worker.http.codec.window import CONTROL, CR_LF, END_OF_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.worker.http.codec.field_lines import Section
    from workerproxy.worker.http.codec.settings import CodecSettings

_FIRST_BYTE: Final = ord("H")
_HTTP_11: Final = b"HTTP/1.1 "
_MAX_STATUSES: Final = 256
_MAX_STATUS_LENGTH: Final = 64  # bytes


class ClientCodec(Reader[ResponseMessage]):
    """Reads responses. ``feed`` and ``eof`` never raise; a fault becomes the ``error`` of a message."""

    __slots__ = ("_awaiting", "_connect", "_cut", "_get_status", "_head", "_section", "_statuses")

    _parser_type = HttpResponseParser
    _statuses: dict[bytes, int]  # HTTP/1.1 status lines that llhttp has taken, of responses that may have a body
    _section: Section  # the last header section read in bulk
    _get_status: Callable[[], int]
    # per request
    _awaiting: bool  # a request was written and its final response is not complete
    _head: bool  # it was a HEAD request
    _connect: bool
    # by callbacks
    _cut: bool  # llhttp was stopped at the end of a head, for it would look for a body

    def __init__(self, settings: CodecSettings) -> None:
        self._awaiting = self._head = self._connect = self._cut = False
        self._statuses = settings.statuses
        self._section = NO_SECTION
        super().__init__(settings, JOINED_IN_RESPONSES)

    def _new_parser(self) -> Callable[[bytes], None]:
        parser = HttpResponseParser(self)
        if self._settings.allow_chunked_length:
            parser.set_dangerous_leniencies(lenient_chunked_length=True)
        self._get_status = parser.get_status_code
        self._should_keep_alive = parser.should_keep_alive
        self._execute = execute = parser.feed_data
        return execute

    def close(self) -> None:
        super().close()
        self._get_status = int

    def _blank(self, message: ResponseMessage | None = None) -> ResponseMessage:
        if message is None:
            message = ResponseMessage()
        headers = message.headers = ResponseHeaders()
        headers.status = 0
        message.version = 11
        message.keep_alive = True
        message.headers_complete = False
        message.body_kind = NO_BODY
        message.content_length = 0
        message.body_remaining = 0
        message.body = []
        message.trailers = None
        message.complete = False
        message.head_bytes = 0
        message.error = None
        return message

    def expect(self, method: bytes) -> None:
        """A request with ``method`` was written: its response may come."""
        self._awaiting = True
        self._head = method == b"HEAD"
        self._connect = method == b"CONNECT"

    def feed(self, data: bytes) -> None:
        """Read ``data``, of any size and cut anywhere. Updates ``messages``; ignored once the codec has ``failed``."""
        if (
            not self._bulk
            or self._state
            or self._in_head
            or self._message is not None
            or not self._awaiting
            or self._head
            or self._connect
        ):
            self._feed_by_callbacks(data)
            return
        # Here a whole head, and of a body of known length what there is, is read in bulk; all else is by callbacks.
        end = data.find(END_OF_HEAD) + 4
        line, _, section = data[:end].partition(CR_LF)
        known = self._section
        try:
            status = self._statuses[line]
            if section != known[0]:
                known = self._learn_section(data, end, section)
            # else llhttp has taken these very bytes, and that status line, before.
        except KeyError:
            self._feed_by_callbacks(data)  # it learns the status line
            return
        except (HttpParserError, HttpParserUpgrade, Unusual, ValueError):
            self._feed_unusual(data)
            return
        _, fields, _, length, keep_alive, head_bytes = known
        missing = length - len(data) + end
        if missing < 0 or end > self._max_bytes:
            self._feed_unusual(data)
            return
        # As ``_blank``, but here and one by one: a function would cost as much again.
        message = ResponseMessage()
        message.headers = headers = ResponseHeaders(fields)
        headers.status = status
        message.version = 11
        message.keep_alive = keep_alive
        message.headers_complete = True
        message.content_length = length
        message.body_remaining = missing
        message.trailers = None
        message.head_bytes = head_bytes
        message.error = None
        if length:
            message.body_kind = LENGTH
            message.body = [data[end:]] if missing != length else []
        else:
            message.body_kind = NO_BODY
            message.body = []
        self.messages.append(message)
        if missing:
            message.complete = False
            self._message = message
            self._state = LENGTH_BODY
        else:
            message.complete = True
            self._awaiting = False
            if not keep_alive:
                self._state = IGNORING

    def _learn_section(self, data: bytes, end: int, section: bytes) -> Section:
        """Read a header section that differs from the last one. Raises what ``feed`` takes for unusual."""
        (self._validate or self._new_validator())(data)
        lines = section.split(b"\n")
        count = len(lines) - 2  # the empty line, and what follows it: nothing
        fields = dict(map(self._pair, lines[:count]))
        if len(fields) != count or count > self._max_count or b"content-length" not in fields:
            raise Unusual
        length = int(fields[b"content-length"])
        if end + length > len(data):
            self._validate = None  # it waits for the rest of the body
        keep_alive = b"connection" not in fields or fields[b"connection"] in KEEP_ALIVE
        self._section = known = section, fields, b"", length, keep_alive, len(section) - 2 - count
        return known

    def _feed_unusual(self, data: bytes) -> None:
        """The response is not to be read in bulk; the next one may be, once one was that could have been."""
        self._bulk = False
        self._validate = None
        self._section = NO_SECTION
        self._feed_by_callbacks(data)

    def _feed_by_callbacks(self, data: bytes) -> None:
        if self._state:
            data = self._feed_past(data)
        window = self._window
        while data:
            if self._message is not None:
                end = len(data)  # a chunked body: nothing is to follow it
            else:
                if not self._in_head:
                    if not self._awaiting:
                        self._surplus()
                        break
                    if data[0] != _FIRST_BYTE:
                        self._fail(CODEC_ERROR)
                        break
                end = window.next_piece(data)
            window.data = data[:end]
            data = data[end:]
            self._execute_piece()
            if self._state:
                data = self._feed_past(data)
        self._window.data = b""

    def _execute_piece(self) -> None:
        """Let llhttp read a head, or some of it, or any part of a chunked body."""
        piece = self._window.data
        chunked = self._message is not None
        try:
            (self._execute or self._new_parser())(piece)
        except HttpParserError as cause:
            if self._cut:
                self._cut = False
                self._execute = None
                self._awaiting = self.messages[-1].headers.status < 200
            elif self._state != IGNORING:
                self._refuse(cause)
        if self._in_head or self._message is not None:
            self._suspend()
            self._window.remember()
            return
        if chunked and not self._state and self._runs_on(piece):
            self._surplus()
        self._window.tail = b""

    def eof(self) -> None:
        """The upstream has closed: the end of a response without a length, too early for every other one."""
        message = self._message
        if message is not None and self._state == RAW:
            self._complete(message)
        elif message is not None or self._in_head:
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
        self._in_head = True
        self._fields = {}

    def on_headers_complete(self) -> None:
        fields = self._fields
        window = self._window
        if len(window.data) > window.room or len(fields) > self._max_count or self._more is not None:
            self._check_head()
        message = self._blank(self._unfinished)
        headers = message.headers = ResponseHeaders(fields)
        message.head_bytes = self._count_head()
        if self._more is not None:
            self._take_more(headers)
        status = headers.status = self._get_status()
        if window.pieces or not window.data.startswith(b"HTTP/1.1 200 OK\r\n"):
            self._check_status_line(message)
        if self._head or status < 200 or status == 204 or status == 304:
            self._without_body(message, status)
        if self._connect and 200 <= status < 300:
            self._stop(UNASKED_UPGRADE)

        # RFC 9112 section 6.3. llhttp has refused bad and repeated lengths.
        if b"content-length" in fields:
            self._take_length(message, fields[b"content-length"])
        elif status != 204 and status != 304:
            message.body_kind = UNTIL_CLOSE
        if b"transfer-encoding" in fields:
            self._take_coding(message, fields[b"transfer-encoding"])
        if (b"connection" in fields and fields[b"connection"] not in PLAIN) or message.version == 10:
            self._consider_connection(message)
        if not self._should_keep_alive():
            message.keep_alive = False
        self._bulk = self._settings.bulk and message.body_kind in (NO_BODY, LENGTH)
        self._head_done(message)

    def on_message_complete(self) -> None:
        message = self._message
        if message is None:
            return
        if message.body_kind == CHUNKED:
            self._end_trailers(message)
        self._complete(message)

    def _complete(self, message: ResponseMessage) -> None:
        self._awaiting = False
        super()._complete(message)

    def _consider_connection(self, message: ResponseMessage) -> None:
        # RFC 9112 section 6.1: after a chunked HTTP/1.0 message the connection is not to be trusted.
        if connection_field.closes(message.headers, message.version) or (
            message.version == 10 and message.body_kind == CHUNKED
        ):
            message.keep_alive = False

    def _check_status_line(self, message: ResponseMessage) -> None:
        line = self._window.raw().partition(CR_LF)[0]
        if CONTROL.search(line):
            self._stop(INVALID_CHARACTERS)  # in the reason phrase; llhttp does not look at it
        if not line.startswith(_HTTP_11):
            message.version = 10
        elif message.headers.status >= 200 and message.headers.status not in (204, 304):
            statuses = self._statuses
            if len(statuses) < _MAX_STATUSES and len(line) <= _MAX_STATUS_LENGTH:
                statuses[line] = message.headers.status

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
        self._head_done(message)
        self._cut = True
        raise Refused

    def _runs_on(self, piece: bytes) -> bool:
        """Whether empty lines, which llhttp skips, follow the chunked response that is complete with ``piece``."""
        end = (self._window.tail + piece[-5:])[-5:]  # of the last chunk's or trailer's line, and the empty line
        return end[1:] != END_OF_HEAD or end[0] in CR_LF

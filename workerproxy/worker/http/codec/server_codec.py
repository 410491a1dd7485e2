"""The HTTP/1.1 server codec: bytes from a client to request messages.

Theory. A request's way: on_message_begin puts a blank message into ``messages``; fields go into its header map;
on_headers_complete decides method, target, version, framing and upgrade, or refuses; body bytes follow;
on_message_complete. A client may send further requests at once (RFC 9112 section 9.3.2): each is a message of its own.

What llhttp would take and this codec does not: two Host fields, a version that is not HTTP/x.y (RTSP, ICE), M-SEARCH,
more than one space in the request line, all codings but ``chunked``, bad targets and authorities, and whatever exceeds
a limit.

Upgrade. llhttp stops after the head of every request with ``Connection: upgrade`` and of every CONNECT. An offer of h2c
is not for us: its fields are removed and the request goes on as if they had not been there, with a fresh llhttp, which
must be led into the body when that is chunked (``led``). For every other one the rest of the connection belongs to the
tunnel, so that its bytes are the message's body and the message does not end.

Envoy's name: ``Http1::ServerConnectionImpl``. Called by the connection manager only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from workerproxy.http.headers import RequestHeaders
from workerproxy.worker.http.codec import connection_field, target
from workerproxy.worker.http.codec.connection_field import KEEP_ALIVE, PLAIN
from workerproxy.worker.http.codec.errors import (
    BODY_DISALLOWED,
    CODEC_ERROR,
    CONNECTION_HEADER_REJECTED,
    INVALID_AUTHORITY,
    INVALID_TRANSFER_ENCODING,
    UNEXPECTED_UNDERSCORE,
    Refused,
)
from workerproxy.worker.http.codec.field_lines import NO_SECTION, Unusual
from workerproxy.worker.http.codec.field_names import JOINED_IN_REQUESTS
from workerproxy.worker.http.codec.led import Led
from workerproxy.worker.http.codec.messages import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE, RequestMessage
from workerproxy.worker.http.codec.reader import IGNORING, LENGTH_BODY, RAW, Reader
from workerproxy.worker.http.codec.settings import ALLOW, DROP
from workerproxy.worker.http.codec.window import CR_LF, END_OF_HEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.worker.http.codec.field_lines import Section
    from workerproxy.worker.http.codec.messages import CodecError
    from workerproxy.worker.http.codec.settings import CodecSettings

# Envoy's list (balsa_parser.cc) as far as llhttp has it; CONNECT has a way of its own. Names are case-sensitive.
_METHODS: Final = frozenset(
    b"""
    ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS PATCH POST
    PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE
    """.split()
)
_CONNECT: Final = b"CONNECT"
_SLASH: Final = ord("/")
_SHORTEST: Final = len(b"GET / HTTP/1.1\r\n\r\n")


class ServerCodec(Reader[RequestMessage]):
    """Reads requests. ``feed`` never raises; a fault becomes the ``error`` of a message."""

    __slots__ = (
        "_get_method",
        "_get_version",
        "_hosts",
        "_led",
        "_objection",
        "_section",
        "_should_upgrade",
        "_target",
    )

    _parser_type = HttpRequestParser
    _hosts: set[bytes]
    _section: Section  # the last header section read in bulk
    _get_method: Callable[[], bytes]
    _get_version: Callable[[], str]
    _should_upgrade: Callable[[], bool]
    _target: bytes
    # A field is refused only once its section is complete: llhttp tells of it at the next one, or not when that is bad.
    _objection: CodecError | None
    _led: bool  # llhttp must be, or was, led into a chunked body

    def __init__(self, settings: CodecSettings) -> None:
        self._target = b""
        self._led = False
        self._hosts = settings.hosts
        self._section = NO_SECTION
        self._objection = None
        super().__init__(settings, JOINED_IN_REQUESTS)

    def _new_parser(self) -> Callable[[bytes], None]:
        return self._use(HttpRequestParser(self))

    def _use(self, parser: HttpRequestParser) -> Callable[[bytes], None]:
        if self._settings.allow_chunked_length:
            parser.set_dangerous_leniencies(lenient_chunked_length=True)
        self._get_method = parser.get_method
        self._get_version = parser.get_http_version
        self._should_keep_alive = parser.should_keep_alive
        self._should_upgrade = parser.should_upgrade
        self._execute = execute = parser.feed_data
        return execute

    def close(self) -> None:
        super().close()
        self._get_method = bytes
        self._get_version = str
        self._should_upgrade = bool

    def _blank(self, message: RequestMessage | None = None) -> RequestMessage:
        if message is None:
            message = RequestMessage()
        headers = message.headers = RequestHeaders()
        headers.method = headers.path = headers.authority = headers.scheme = b""
        message.version = 11
        message.keep_alive = True
        message.headers_complete = False
        message.host_missing = False
        message.body_kind = NO_BODY
        message.content_length = 0
        message.body_remaining = 0
        message.body = []
        message.trailers = None
        message.complete = False
        message.expect_continue = False
        message.upgrade = b""
        message.head_bytes = 0
        message.error = None
        return message

    def feed(self, data: bytes) -> None:
        """Read ``data``, of any size and cut anywhere. Updates ``messages``; ignored once the codec has ``failed``."""
        if not self._bulk or self._state or self._in_head or self._message is not None:
            self._feed_by_callbacks(data)
            return
        # Here one whole head, and of a body of known length what there is, is read in bulk; all else is by callbacks.
        if data.endswith(END_OF_HEAD):
            head = data
        else:
            head = data[: data.find(END_OF_HEAD) + 4]
            if len(head) < _SHORTEST:  # it has no end
                self._feed_by_callbacks(data)
                return
        line, _, section = head.partition(CR_LF)
        known = self._section
        try:
            if section == known[0]:
                # llhttp has taken these very bytes after another request line: what is new is the line.
                (self._validate or self._new_validator())(line + END_OF_HEAD)
            else:
                known = self._learn_section(head, section)
            method, path, version = line.split(b" ")
        except (HttpParserError, HttpParserUpgrade, Unusual, ValueError):
            self._feed_unusual(data)
            return
        _, fields, host, length, keep_alive, head_bytes = known
        missing = length - len(data) + len(head)
        if (
            missing < 0
            or version != b"HTTP/1.1"
            or method not in _METHODS
            or path[0] != _SLASH
            or len(head) > self._max_bytes
        ):
            self._feed_unusual(data)
            return
        # As ``_blank``, but here and one by one: a function would cost as much again.
        message = RequestMessage()
        message.headers = headers = RequestHeaders(fields)
        headers.method = method
        headers.path = path
        headers.authority = host
        headers.scheme = b""
        message.version = 11
        message.keep_alive = keep_alive
        message.headers_complete = True
        message.host_missing = False
        message.content_length = length
        message.body_remaining = missing
        message.trailers = None
        message.expect_continue = False
        message.upgrade = b""
        message.head_bytes = head_bytes
        message.error = None
        if length:
            message.body_kind = LENGTH
            message.body = [data[len(head) :]] if missing != length else []
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
            if not keep_alive:
                self._state = IGNORING

    def _learn_section(self, head: bytes, section: bytes) -> Section:
        """Read a header section that differs from the last one. Raises what ``feed`` takes for unusual."""
        (self._validate or self._new_validator())(head)
        lines = section.split(b"\n")
        count = len(lines) - 2  # the empty line, and what follows it: nothing
        pair = self._pair
        fields = dict(map(pair, lines[:count]))
        host = fields.pop(b"host", None)
        fields = dict(fields)  # without the hole: it is copied as a block then, for each request
        if (
            host is None
            or len(fields) + 1 != count  # a field comes again
            or count > self._max_count
            or (host not in self._hosts and not target.authority_valid(host, self._hosts))
        ):
            raise Unusual
        length = 0
        if b"content-length" in fields:
            length = int(fields[b"content-length"])
            self._validate = None  # it waits for the body
        keep_alive = b"connection" not in fields or fields[b"connection"] in KEEP_ALIVE
        self._section = known = section, fields, host, length, keep_alive, len(section) - 2 - count if count else 3
        return known

    def _feed_unusual(self, data: bytes) -> None:
        """The request is not to be read in bulk; nor will the client's next ones be."""
        self._bulk = False
        self._validate = None
        self._section = NO_SECTION
        self._feed_by_callbacks(data)

    def _feed_by_callbacks(self, data: bytes) -> None:
        if self._state:
            data = self._feed_past(data)
        window = self._window
        while data:
            end = window.next_piece(data)
            window.data = data[:end]
            data = data[end:]
            try:
                (self._execute or self._new_parser())(window.data)
            except HttpParserError as cause:
                if self._state != IGNORING:  # else: bytes after the message that ended the connection
                    self._refuse(cause)
            except HttpParserUpgrade:
                self._after_upgrade()
            if self._in_head or (self._message is not None and not self._state):
                self._suspend()
                window.remember()
            else:
                window.tail = b""
            if self._state:
                data = self._feed_past(data)
        self._window.data = b""

    # parser callbacks, in the order of a message

    def on_message_begin(self) -> None:
        if self._state:
            raise Refused  # llhttp would go on after the connection's last message
        self._in_head = True
        self._fields = {}

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_headers_complete(self) -> None:
        fields = self._fields
        window = self._window
        if len(window.data) > window.room or len(fields) > self._max_count or self._more is not None:
            self._check_head()
        if self._objection is not None:
            self._stop(self._objection)
        message = self._blank(self._unfinished)
        headers = message.headers = RequestHeaders(fields)
        message.head_bytes = self._count_head()
        if self._more is not None:
            self._take_more(headers)
        method = headers.method = self._get_method()
        path = self._target
        self._target = b""
        message.version = self._version(b"%b %b" % (method, path))
        host = headers.pop(b"host", None)
        if host is None:
            host = b""
            message.host_missing = True
        headers.authority = host
        headers.scheme = b""

        # RFC 9112 section 6.3. llhttp has refused bad and repeated lengths, and codings that do not end in chunked.
        if b"content-length" in fields:
            self._take_length(message, fields[b"content-length"])
        if b"transfer-encoding" in fields:
            self._take_coding(message, fields[b"transfer-encoding"])
        if b"connection" in fields and fields[b"connection"] not in PLAIN:
            self._consider_connection(message)
        if method not in _METHODS:
            self._consider_method(message)
        if not self._should_keep_alive():
            message.keep_alive = False
        if message.version == 10:
            self._consider_version(message)

        if path[0] == _SLASH and method != _CONNECT:
            headers.path = path
        else:
            error = target.resolve(headers, path, absolute_allowed=self._settings.allow_absolute_url)
            if error is not None:
                self._stop(error)
        if headers.authority not in self._hosts:
            self._check_authority(message)
        if b"expect" in fields:
            message.expect_continue = fields[b"expect"].lower() == b"100-continue"
        self._head_done(message)

    def on_message_complete(self) -> None:
        message = self._message
        # Complete with its head; or an upgrade, where llhttp's end is not its end.
        if message is None or self._state or self._led:
            return
        if message.body_kind == CHUNKED:
            if self._objection is not None:
                self._stop(self._objection)
            self._end_trailers(message)
        self._complete(message)

    # fields

    def _learn(self, name: bytes) -> bytes:
        action = self._settings.headers_with_underscores_action
        if action != ALLOW and b"_" in name:
            if action == DROP or (self._message is not None and not self._settings.enable_trailers):
                return b""
            self._objection = UNEXPECTED_UNDERSCORE
            return b""
        return super()._learn(name)

    def _repeat(self, key: bytes, value: bytes) -> None:
        if key == b"host" and self._message is None:
            # RFC 9112 section 3.2: 400 for more than one Host field. Envoy joins them ("a,b") and goes on.
            self._objection = INVALID_AUTHORITY
        super()._repeat(key, value)

    # the request line

    def _version(self, start: bytes) -> int:
        """11 or 10. ``start``: method and target as llhttp took them, with one space between.

        llhttp takes further spaces too, and RTSP/1.1 and ICE/1.1, and does not say so. HTTP/0.9 may have no version.
        """
        raw = self._window.raw()
        if raw.startswith(start + b" HTTP/1.1\r\n"):
            return 11
        version = self._get_version()
        if not raw.startswith(b"%b HTTP/%b\r\n" % (start, version.encode())) and (
            version != "0.9" or not raw.startswith(start + b"\r\n")
        ):
            self._stop(CODEC_ERROR)
        return 10

    def _check_authority(self, message: RequestMessage) -> None:
        if message.version == 10 and not self._settings.accept_http_10:
            return  # 426 comes first
        if not target.authority_valid(message.headers.authority, self._hosts):
            self._stop(INVALID_AUTHORITY)

    # framing

    def _consider_version(self, message: RequestMessage) -> None:
        headers = message.headers
        # RFC 9112 section 6.1: after a chunked HTTP/1.0 message the connection is not to be trusted.
        if message.body_kind == CHUNKED or connection_field.closes(headers, 10):
            message.keep_alive = False
        if not headers.authority:
            headers.authority = self._settings.default_host_for_http_10

    def _consider_connection(self, message: RequestMessage) -> None:
        """Connection has other options than to keep or close: an upgrade, or fields that it names."""
        headers = message.headers
        if self._should_upgrade():
            if headers.method == _CONNECT:
                return
            upgrade = headers[b"upgrade"]
            if upgrade.lower() != b"h2c":
                self._begin_tunnel(message, upgrade)
                return
            self._ignore_h2c(message)
        if connection_field.closes(headers, message.version):
            message.keep_alive = False
        host = headers.authority
        if b"connection" in headers and not connection_field.remove_nominated(headers):
            self._stop(CONNECTION_HEADER_REJECTED)
        if host and not headers.authority:
            message.host_missing = True  # it was named

    def _consider_method(self, message: RequestMessage) -> None:
        headers = message.headers
        if headers.method != _CONNECT:
            self._stop(CODEC_ERROR)
        # RFC 9110 section 9.3.6: content in a CONNECT request has no meaning.
        if message.body_kind == CHUNKED:
            self._stop(INVALID_TRANSFER_ENCODING)
        if message.body_kind == LENGTH:
            self._stop(BODY_DISALLOWED)
        headers.remove(b"content-length")
        self._begin_tunnel(message, _CONNECT)

    def _begin_tunnel(self, message: RequestMessage, upgrade: bytes) -> None:
        message.upgrade = upgrade
        message.keep_alive = False
        message.body_kind = UNTIL_CLOSE
        message.content_length = message.body_remaining = 0
        self._state = RAW

    def _ignore_h2c(self, message: RequestMessage) -> None:
        """RFC 9113 section 3.1 has made h2c obsolete, and Envoy passes no offer of it on."""
        headers = message.headers
        headers.remove(b"upgrade")
        headers.remove(b"http2-settings")
        tokens = connection_field.tokens(headers[b"connection"])
        kept = [token for token in tokens if token not in (b"upgrade", b"http2-settings")]
        if kept:
            headers.replace(b"connection", b",".join(kept))
        else:
            headers.remove(b"connection")
        if message.body_kind == LENGTH:
            self._state = LENGTH_BODY
        self._led = message.body_kind == CHUNKED

    def _after_upgrade(self) -> None:
        """llhttp stopped after a head with Upgrade or CONNECT, which is where the piece ends."""
        self._execute = None
        if self._led:
            self._led = False
            led = Led(self)
            led.begin(self._use(HttpRequestParser(led)))

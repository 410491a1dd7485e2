"""The HTTP/1.1 server codec: bytes from a client to request messages.

Theory. A request's way: on_message_begin puts a blank message into ``messages``; fields go into its header map;
on_headers_complete decides method, target, version, framing and upgrade, or refuses; body bytes follow;
on_message_complete. A client may send further requests at once (RFC 9112 section 9.3.2): each is a message of its own.

What llhttp would take and this codec does not: two Host fields, a version that is not HTTP/x.y (RTSP, ICE), M-SEARCH,
more than one space in the request line, all codings but ``chunked``, bad targets and authorities, and whatever exceeds
a limit.

Upgrade. llhttp stops after the head of every request with ``Connection: upgrade`` and of every CONNECT. An offer of h2c
is not for us: its fields are removed and the request goes on as if they had not been there, with a fresh llhttp, which
must be led into the body when that is chunked (``_Led``). For every other one the rest of the connection belongs to the
tunnel, so that its bytes are the message's body and the message does not end.

Envoy's name: ``Http1::ServerConnectionImpl``. Called by the connection manager only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from workerproxy.http.headers import HeaderMap, RequestHeaders
from workerproxy.worker.http.codec import connection_field, target
from workerproxy.worker.http.codec.errors import (
    BODY_DISALLOWED,
    CODEC_ERROR,
    CONNECTION_HEADER_REJECTED,
    INVALID_AUTHORITY,
    INVALID_SCHEME,
    INVALID_TRANSFER_ENCODING,
    INVALID_URL,
    UNEXPECTED_UNDERSCORE,
    UPGRADE_FAILED,
    Refused,
)
from workerproxy.worker.http.codec.field_names import JOINED_IN_REQUESTS
from workerproxy.worker.http.codec.messages import CHUNKED, LENGTH, UNTIL_CLOSE, RequestMessage
from workerproxy.worker.http.codec.reader import IGNORING, LENGTH_BODY, NO_FIELDS, PARSING, RAW, STALE, Reader, closed
from workerproxy.worker.http.codec.settings import ALLOW, DROP

if TYPE_CHECKING:
    from collections.abc import Callable

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
_HTTP_11: Final = b" HTTP/1.1\r\n"
_LEAD_IN: Final = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


class ServerCodec(Reader[RequestMessage]):
    """Reads requests. ``feed`` never raises; a fault becomes the ``error`` of a message."""

    __slots__ = ("_get_method", "_get_version", "_led", "_should_upgrade", "_target")

    _get_method: Callable[[], bytes]
    _get_version: Callable[[], str]
    _should_upgrade: Callable[[], bool]
    _target: bytes
    _led: bool  # llhttp must be led into a chunked body

    def __init__(self, settings: CodecSettings) -> None:
        self._target = b""
        self._led = False
        super().__init__(settings, JOINED_IN_REQUESTS)

    def _new_parser(self) -> None:
        self._use(HttpRequestParser(self))

    def _use(self, parser: HttpRequestParser) -> None:
        if self._settings.allow_chunked_length:
            parser.set_dangerous_leniencies(lenient_chunked_length=True)
        self._execute = parser.feed_data
        self._get_method = parser.get_method
        self._get_version = parser.get_http_version
        self._should_keep_alive = parser.should_keep_alive
        self._should_upgrade = parser.should_upgrade
        self._state = PARSING

    def _let_go(self) -> None:
        super()._let_go()
        self._get_method = self._get_version = self._should_upgrade = closed

    def _blank(self) -> RequestMessage:
        headers = RequestHeaders()
        headers.method = headers.path = headers.authority = headers.scheme = b""
        return RequestMessage(headers)

    def feed(self, data: bytes) -> None:
        """Read ``data``, of any size and cut anywhere. Updates ``messages``; ignored once the codec has ``failed``."""
        if self._state and data:
            data = self._feed_past(data)
        while data:
            self._data = data
            if self._message is None:
                self._fresh = True
            try:
                self._execute(data)
            except HttpParserError as cause:
                if self._state != IGNORING:  # else: bytes after a message that ended the connection
                    self._refuse(cause)
            except HttpParserUpgrade as pause:
                data = self._after_upgrade(data[pause.args[0] :])
                continue
            if self._message is not None:
                self._suspend(self._message, data)
            break
        self._data = b""

    # parser callbacks, in the order of a message

    def on_message_begin(self) -> None:
        if self._state == IGNORING:
            raise Refused  # llhttp would keep the connection, we do not
        headers = RequestHeaders()
        headers.method = headers.path = headers.authority = headers.scheme = b""
        self._fields = headers
        self._message = message = RequestMessage(headers)
        self.messages.append(message)

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_headers_complete(self) -> None:
        message = self._message
        if message is None:
            return
        headers = message.headers
        data = self._data
        if self._seen + len(data) > self._max_bytes or len(headers) > self._max_count or headers.more is not None:
            self._check_head(headers)
        method = headers.method = self._get_method()
        path = self._target
        self._target = b""
        end = len(method) + 1 + len(path)
        if not (self._fresh and not self._seen and data[end : end + 11] == _HTTP_11):
            message.version = self._version(method, path)
        host = headers.pop(b"host", None)
        if self._settings.count_head_bytes:
            message.head_bytes = self._count_head(headers, host)
        if host is not None:
            headers.authority = host
        elif message.version == 10:
            headers.authority = self._settings.default_host_for_http_10

        # RFC 9112 section 6.3. llhttp has refused bad and repeated lengths, and codings that do not end in chunked.
        value = headers.get(b"content-length")
        if value is not None:
            self._take_length(message, value)
        value = headers.get(b"transfer-encoding")
        if value is not None:
            self._check_coding(message, value)
        value = headers.get(b"connection")
        if (value is not None and value not in connection_field.PLAIN) or method == _CONNECT:
            self._consider_connection(message)
        message.keep_alive = self._should_keep_alive()
        if message.version == 10:
            # RFC 9112 section 6.1: after a chunked HTTP/1.0 message the connection is not to be trusted.
            message.keep_alive = message.body_kind != CHUNKED and not connection_field.closes(headers, 10)

        if path[0] == _SLASH and method in _METHODS:
            headers.path = path
        else:
            self._resolve(headers, path)
        if headers.authority not in self._settings.hosts:
            self._check_authority(message)
        if b"expect" in headers:
            message.expect_continue = headers[b"expect"].lower() == b"100-continue"
        if message.body_kind == CHUNKED:
            self._fields = HeaderMap()
        self._forget_head()
        message.headers_complete = True

    def on_message_complete(self) -> None:
        message = self._message
        if message is None or self._state:  # an upgrade: llhttp's end of the message is not its end
            return
        if message.body_kind == CHUNKED:
            self._end_trailers(message)
        self._complete(message)

    def _complete(self, message: RequestMessage) -> None:
        message.complete = True
        self._message = None
        self._fields = NO_FIELDS
        if not message.keep_alive:
            self._state = IGNORING

    # fields

    def _learn(self, name: bytes) -> bytes:
        action = self._settings.headers_with_underscores_action
        if action != ALLOW and b"_" in name:
            if action == DROP or (self._in_trailers() and not self._settings.enable_trailers):
                return b""
            self._stop(UNEXPECTED_UNDERSCORE)
        return super()._learn(name)

    def _repeat(self, key: bytes, value: bytes) -> None:
        if key == b"host" and not self._in_trailers():
            # RFC 9112 section 3.2: 400 for more than one Host field. Envoy joins them ("a,b") and goes on.
            self._stop(INVALID_AUTHORITY)
        super()._repeat(key, value)

    # the request line

    def _version(self, method: bytes, path: bytes) -> int:
        """11 or 10, where it could not be read off at once: split heads, read-ahead requests, other versions."""
        version = self._get_version()
        start = b"%b %b" % (method, path)
        raw = self._raw_head()
        # llhttp takes RTSP/1.1 and ICE/1.1 too, and does not say so. HTTP/0.9 may have no version at all.
        if start + b" HTTP/" + version.encode() not in raw and (version != "0.9" or start + b"\r\n" not in raw):
            self._stop(CODEC_ERROR)
        return 11 if version == "1.1" else 10

    def _resolve(self, headers: RequestHeaders, path: bytes) -> None:
        """A target that is no path, or a method that needs care (RFC 9112 section 3.2)."""
        method = headers.method
        if method == _CONNECT:
            if not target.connect_authority(path):
                self._stop(INVALID_URL)
            headers.authority = path
            return
        if method not in _METHODS:
            self._stop(CODEC_ERROR)
        if path[:1] == b"*":
            if method != b"OPTIONS":
                self._stop(INVALID_URL)
            headers.path = path
            return
        if not self._settings.allow_absolute_url:
            headers.path = path  # the connection manager refuses it: absolute_path_rejected
            return
        parts = target.absolute(path)
        if parts is None:
            self._stop(INVALID_URL)
        if parts.scheme not in (b"http", b"https"):
            self._stop(INVALID_SCHEME)
        # RFC 9112 section 3.2.2: the target's authority replaces the Host field.
        headers.scheme, headers.authority, headers.path = parts

    def _check_authority(self, message: RequestMessage) -> None:
        if message.version == 10 and not self._settings.accept_http_10:
            return  # 426 comes first
        if not target.authority_valid(message.headers.authority, self._settings.hosts):
            self._stop(INVALID_AUTHORITY)

    # framing

    def _check_coding(self, message: RequestMessage, value: bytes) -> None:
        headers = message.headers
        self._take_chunked(message, headers)
        if value.lower() != b"chunked" or headers.method == _CONNECT:
            self._stop(INVALID_TRANSFER_ENCODING)

    def _consider_connection(self, message: RequestMessage) -> None:
        """Upgrade, CONNECT, or a Connection field that names other fields."""
        headers = message.headers
        if headers.method == _CONNECT:
            # RFC 9110 section 9.3.6: content in a CONNECT request has no meaning.
            if message.body_kind == LENGTH:
                self._stop(BODY_DISALLOWED)
            headers.remove(b"content-length")
            self._begin_tunnel(message, _CONNECT)
        elif self._should_upgrade() and headers.get(b"upgrade", b"").lower() != b"h2c":
            if not headers.get(b"upgrade"):
                self._stop(UPGRADE_FAILED)
            self._begin_tunnel(message, headers[b"upgrade"])
        else:
            if self._should_upgrade():
                self._ignore_h2c(message)
            if b"connection" in headers and not connection_field.remove_nominated(headers):
                self._stop(CONNECTION_HEADER_REJECTED)

    def _begin_tunnel(self, message: RequestMessage, upgrade: bytes) -> None:
        message.upgrade = upgrade
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
        else:
            self._led = message.body_kind == CHUNKED
            self._state = STALE

    def _after_upgrade(self, rest: bytes) -> bytes:
        """llhttp stopped after a head with Upgrade or CONNECT; ``rest`` follows it. Gives what is to be parsed."""
        message = self._message
        if self._state == STALE and message is not None:
            if self._led:
                self._led = False
                led = _Led(self)
                self._use(HttpRequestParser(led))
                led.begin()
                return rest
            self._complete(message)
        return self._feed_past(rest) if rest else rest


class _Led:
    """Stands before the codec as llhttp's protocol while llhttp is led into a chunked body by a head of our own.

    Afterwards it only passes on; it stays until the codec makes another parser.
    """

    def __init__(self, codec: ServerCodec) -> None:
        self._codec = codec
        self._leading = True
        self.on_body = codec.on_body
        self.on_message_complete = codec.on_message_complete

    def begin(self) -> None:
        self._codec._execute(_LEAD_IN)
        self._leading = False

    def on_message_begin(self) -> None:
        if not self._leading:
            self._codec.on_message_begin()

    def on_url(self, part: bytes) -> None:
        if not self._leading:
            self._codec.on_url(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._leading:
            self._codec.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._leading:
            self._codec.on_headers_complete()

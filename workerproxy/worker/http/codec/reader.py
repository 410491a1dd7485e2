"""What both codecs share: header fields, bodies, limits, and who reads the bytes.

Theory. A connection's bytes are read by llhttp, except where llhttp could only copy them or would be wrong:

    state        who reads                    left when
    -----------  ---------------------------  ----------------------------------------------------------------
    PARSING      llhttp                       a head with a body of known length          -> LENGTH_BODY
                                              a head with a body without end              -> RAW
                                              an upgrade or CONNECT request               -> RAW (the tunnel)
                                              a message that ends the connection, a fault -> IGNORING
    LENGTH_BODY  nobody: the bytes fed are    its last byte                               -> PARSING, or IGNORING
                 the body (RFC 9112 6.2)
    RAW          nobody                       never; the peer closes
    IGNORING     nobody: bytes are dropped    never (RFC 9112 section 9.6)

In PARSING a message is read in one of two ways, which give the same message:

    in bulk       The read begins with a message and has its whole head. A llhttp without callbacks says whether the
                  bytes are valid; the fields are then looked up line by line (``field_lines``). This is how nearly all
                  messages are read, at half the cost.
    by callbacks  All else, and whatever is unusual: llhttp tells field by field, and the rules stand in the callbacks.
                  It is fed in pieces that end with an empty line, for there a head or a chunked body may end: so what
                  belongs to which message is always exact, however much was sent at once.

A llhttp that did not see the end of a message is thrown away; the next message gets a new one.

llhttp runs in its strict mode always; its only leniency, content-length beside chunked, is ``allow_chunked_length``.
It sets no limits and keeps a field's bytes until the field is complete, so limits are kept on bytes fed: a head or a
trailer section may have ``max_headers_kb`` bytes on the wire. ``Window`` has the bytes at hand, for the few questions
llhttp does not answer.

Callbacks raise ``Refused`` after setting ``_error``; any other exception from one is a fault of this program and is
not hidden.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final, Generic, NoReturn, TypeVar

from httptools import HttpParserCallbackError, HttpParserError

from workerproxy.http.headers import HeaderMap
from workerproxy.worker.http.codec.errors import (
    AFTER_HEADERS,
    CODEC_ERROR,
    HEADERS_TOO_LARGE,
    INVALID_CHARACTERS,
    INVALID_TRANSFER_ENCODING,
    LENGTH_AND_CHUNKED,
    REASONS,
    TOO_MANY_HEADERS,
    Refused,
)
from workerproxy.worker.http.codec.field_names import MAX_KNOWN, MAX_KNOWN_LENGTH
from workerproxy.worker.http.codec.messages import CHUNKED, LENGTH, RequestMessage, ResponseMessage
from workerproxy.worker.http.codec.window import Silent, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from httptools import HttpRequestParser, HttpResponseParser

    from workerproxy.http.headers import Pair
    from workerproxy.worker.http.codec.messages import CodecError
    from workerproxy.worker.http.codec.settings import CodecSettings

# Who reads: see above. PARSING is 0 so that the common question is a truth test.
PARSING: Final = 0
LENGTH_BODY: Final = 1
RAW: Final = 2
IGNORING: Final = 3

MessageT = TypeVar("MessageT", RequestMessage, ResponseMessage)


class Reader(Generic[MessageT]):
    """One direction of one connection. ``messages``: as ``messages.py`` says. ``failed``: no later byte is read.

    Call ``close`` when the connection is gone: parser and codec may hold each other.
    """

    __slots__ = (
        "_bulk",
        "_error",
        "_execute",
        "_fields",
        "_in_head",
        "_joined",
        "_max_bytes",
        "_max_count",
        "_message",
        "_more",
        "_names",
        "_pair",
        "_settings",
        "_should_keep_alive",
        "_silent",
        "_state",
        "_unfinished",
        "_validate",
        "_window",
        "failed",
        "messages",
    )

    _parser_type: ClassVar[type[HttpRequestParser] | type[HttpResponseParser]]
    # per connection
    messages: deque[MessageT]
    failed: bool
    _settings: CodecSettings
    _names: dict[bytes, bytes]
    _pair: Callable[[bytes], Pair]
    _joined: frozenset[bytes]
    _max_bytes: int
    _max_count: int
    _state: int
    _bulk: bool  # the next message may be read in bulk
    _validate: Callable[[bytes], None] | None  # llhttp without callbacks, at the end of a message
    _execute: Callable[[bytes], None] | None  # llhttp with callbacks
    _should_keep_alive: Callable[[], bool]
    # per message, by callbacks
    _in_head: bool  # its first byte was read, its head is not complete
    _unfinished: MessageT | None  # the message of a head that goes over several reads: it is in ``messages`` already
    _message: MessageT | None  # the one whose body is coming
    _fields: dict[bytes, bytes]  # where fields go: its headers, then its trailers; a plain dict is the fastest
    _more: list[Pair] | None  # the further values of repeated fields that are not joined
    _error: CodecError | None  # why a callback raised Refused
    _silent: int  # bytes fed inside a chunked body since the last body byte; -1: this piece had body bytes
    _window: Window

    def __init__(self, settings: CodecSettings, joined: frozenset[bytes]) -> None:
        self.messages = deque()
        self.failed = False
        self._settings = settings
        self._names = settings.names
        self._pair = settings.lines.__getitem__
        self._joined = joined
        self._max_bytes = settings.max_headers_kb * 1024
        self._max_count = settings.max_headers_count
        self._state = PARSING
        self._bulk = settings.bulk
        self._validate = self._execute = None
        self._in_head = False
        self._unfinished = None
        self._message = None
        self._fields = {}
        self._more = None
        self._error = None
        self._silent = 0
        self._window = Window(self._max_bytes)

    def __repr__(self) -> str:
        state = ("parsing", "length body", "raw", "ignoring")[self._state]
        return f"<{type(self).__name__} {state}{' failed' if self.failed else ''} {self._message!r}>"

    def _new_validator(self) -> Callable[[bytes], None]:
        self._validate = validate = self._parser_type(Silent).feed_data
        return validate

    def _new_parser(self) -> Callable[[bytes], None]:
        """Make a fresh llhttp with callbacks and give what feeds it."""
        raise NotImplementedError

    def _blank(self, message: MessageT | None = None) -> MessageT:
        """Set every attribute of ``message``, or of a new one, to what it is before anything is known."""
        raise NotImplementedError

    def close(self) -> None:
        """The connection is gone: read nothing more, let go of the parser."""
        self._state = IGNORING
        self._in_head = self._bulk = False
        self._message = None
        self._fields = {}
        self._validate = self._execute = None
        self._should_keep_alive = bool

    # parser callbacks, in the order of a message

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110 section 5.1: names ignore case. RFC 9112 section 5.1: whitespace around the value is no part of it;
        # llhttp leaves what trails.
        try:
            key = self._names[name]
        except KeyError:
            key = self._learn(name)
            if not key:
                return
        if key in self._fields:
            self._repeat(key, value.strip())
        else:
            self._fields[key] = value.strip()

    def _learn(self, name: bytes) -> bytes:
        """The lower-case name of a spelling not met before; blank: leave the field out."""
        key = name.lower()
        names = self._names
        if len(names) < MAX_KNOWN and len(name) <= MAX_KNOWN_LENGTH:
            names[name] = key
        return key

    def _repeat(self, key: bytes, value: bytes) -> None:
        """A field that is there already: join it or keep it apart, as Envoy does."""
        if key in self._joined and self._message is None:  # trailers are not joined
            self._fields[key] += b"," + value
        elif self._more is None:
            self._more = [(key, value)]
        else:
            self._more.append((key, value))

    def on_body(self, data: bytes) -> None:
        if self._message is not None:
            self._message.body.append(data)
            self._silent = -1

    def _complete(self, message: MessageT) -> None:
        """The last byte of ``message`` was received."""
        message.complete = True
        self._message = None
        if not message.keep_alive:
            self._state = IGNORING

    # heads and framing

    def _head_done(self, message: MessageT) -> None:
        """Everything about the head is decided; the consumer may see it."""
        message.headers_complete = True
        self._in_head = False
        if self._unfinished is None:
            self.messages.append(message)
        else:
            self._unfinished = None
            self._window.finish()
        if message.body_kind:
            self._message = message
        else:
            self._complete(message)

    def _take_more(self, headers: HeaderMap) -> None:
        """Repeated fields count too; ``headers`` get them."""
        headers.more = self._more
        self._more = None

    def _take_length(self, message: MessageT, value: bytes) -> None:
        """RFC 9112 section 6.2. llhttp took it for one number of digits."""
        length = int(value)
        if length:
            message.body_kind = LENGTH
            message.content_length = message.body_remaining = length

    def _take_coding(self, message: MessageT, value: bytes) -> None:
        """Transfer-Encoding is one ``chunked`` and nothing else (RFC 9112 section 6.1, and Envoy)."""
        headers = message.headers
        chunked = value.lower() == b"chunked"
        if b"content-length" in headers:
            if not chunked or not self._settings.allow_chunked_length:
                self._stop(LENGTH_AND_CHUNKED)
            headers.remove(b"content-length")
        if not chunked:
            self._stop(INVALID_TRANSFER_ENCODING)
        message.body_kind = CHUNKED
        message.content_length = message.body_remaining = 0
        self._silent = -1
        self._fields = {}

    def _end_trailers(self, message: MessageT) -> None:
        """The last chunk and its trailer section are there; ``_fields`` are the trailers."""
        if self._fields:
            trailers = HeaderMap(self._fields)
            if self._more is not None:
                self._take_more(trailers)
            if sum(len(name) + len(value) + 4 for name, value in trailers.pairs()) + 2 > self._max_bytes:
                self._stop(HEADERS_TOO_LARGE)
            if self._settings.enable_trailers:
                if len(trailers) + len(trailers.more or ()) > self._max_count:
                    self._stop(TOO_MANY_HEADERS)
                message.trailers = trailers
        if message.keep_alive and not self._should_keep_alive():
            message.keep_alive = False  # a Connection field among the trailers: llhttp reads no further

    # limits

    def _check_head(self) -> None:
        """The complete head against its limits."""
        window = self._window
        if len(window.data) > window.room and len(window.raw()) > self._max_bytes:
            self._stop(HEADERS_TOO_LARGE)
        if len(self._fields) + len(self._more or ()) > self._max_count:
            self._stop(TOO_MANY_HEADERS)

    def _count_head(self) -> int:
        """Name, colon, value, CRLF of each field: what Envoy calls header bytes received (3 when there is none)."""
        fields = self._fields
        size = len(b"".join(fields)) + len(b"".join(fields.values())) + 3 * len(fields)
        if self._more is not None:
            size += sum(len(name) + len(value) + 3 for name, value in self._more)
        return size or 3

    # between pieces

    def _suspend(self) -> None:
        """What was fed ends inside a message: decide who reads on, and keep the limits."""
        message = self._message
        if message is None:
            if self._unfinished is None:  # from now on it is to be seen
                message = self._unfinished = self._blank()
                self.messages.append(message)
            if not self._window.keep():
                self._fail(HEADERS_TOO_LARGE)
        elif message.body_kind == LENGTH:
            self._state = LENGTH_BODY
            self._execute = None
        elif message.body_kind == CHUNKED:
            # Nothing but body bytes makes a chunked body longer for free: an extension or a trailer has an end.
            self._silent = 0 if self._silent < 0 else self._silent + len(self._window.data)
            if self._silent > self._max_bytes:
                self._fail(HEADERS_TOO_LARGE)
        else:
            self._state = RAW

    def _feed_past(self, data: bytes) -> bytes:
        """Bytes that are not llhttp's; gives what follows them and is."""
        message = self._message
        if not data or message is None:
            return b""
        if self._state == RAW:
            message.body.append(data)
            return b""
        rest = b""
        if len(data) > message.body_remaining:
            rest = data[message.body_remaining :]
            data = data[: message.body_remaining]
        message.body.append(data)
        self.skip_body(len(data))
        return b"" if self._state else rest

    def skip_body(self, count: int) -> None:
        """``count`` bytes of the body being read went past the codec (spliced). At most ``body_remaining``.

        Only for a message whose body has been cut by the end of a read; of a body without a known length nothing
        need be told.
        """
        message = self._message
        if self._state != LENGTH_BODY or message is None:
            return
        message.body_remaining -= count
        if not message.body_remaining:
            self._state = PARSING
            self._complete(message)

    # faults

    def _stop(self, error: CodecError) -> NoReturn:
        """Inside a callback: refuse the message for ``error``."""
        self._error = error
        raise Refused

    def _refuse(self, cause: HttpParserError) -> None:
        """llhttp stopped, of its own or because a callback raised ``Refused``."""
        error = self._error
        if error is None:
            if isinstance(cause, HttpParserCallbackError):
                raise cause  # not a Refused: a bug, and better seen
            reason = str(cause)
            error = REASONS.get(reason, CODEC_ERROR)
            message = self._message
            if message is None:
                if error is CODEC_ERROR and self._window.stopped_at_control(self._parser_type):
                    error = INVALID_CHARACTERS
            elif reason == AFTER_HEADERS:
                message.headers_complete = False
            elif error is not INVALID_CHARACTERS:
                error = CODEC_ERROR  # in a body or its trailers
        self._fail(error)

    def _fail(self, error: CodecError) -> None:
        """The end of reading. The message that was being read gets the error, or a blank one that follows."""
        message = self._message or self._unfinished
        if message is None:
            message = self._blank()
            self.messages.append(message)
        elif not message.headers_complete:
            self._blank(message)  # how much was read of the head depends on where the reads ended
        message.error = error
        message.keep_alive = False
        self._in_head = self._bulk = False
        self._message = self._unfinished = None
        self._fields = {}
        self._more = None
        self._window = Window(0)  # lets go of what it holds
        self._error = None
        self._state = IGNORING
        self.failed = True

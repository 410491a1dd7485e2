"""One client connection that checks every answer and says exactly how a request failed, for tests under load.

Blocking, one request at a time. It needs nothing but ``socket``, ``select`` and ``time``, so it runs in threads and,
where these are patched, in gevent's greenlets alike. ``Kind`` is the whole list of what can go wrong.
"""

from __future__ import annotations

import enum
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NoReturn, Self

from tests.support.framing import body_end, dechunk, head_end

TIMEOUT_S: Final = 15.0
_CHUNK: Final = 65536
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_CLOSES: Final = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)


class Kind(enum.Enum):
    """How a request failed. The first two could not even be asked; a client may repeat them safely."""

    REFUSED = "refused"  # nobody listened
    RESET_BEFORE_REQUEST = "reset before request"  # connected, and ended before the first byte of the first request
    IN_FLIGHT = "in flight"  # asked, in whole or in part, and ended before the answer was whole
    STALE_KEEPALIVE = "stale keep-alive"  # a later request on a connection that ended without a byte of its answer
    WRONG_ANSWER = "wrong answer"  # another status, another's answer, a short one, bytes nobody asked for
    TIMEOUT = "timeout"


class ExchangeError(Exception):
    """A request failed. ``sent_at``: when its first byte went out (``time.monotonic``), 0.0 when none did."""

    def __init__(self, kind: Kind, why: str, client_port: int, sent_at: float) -> None:
        super().__init__(f"{kind.value}: {why}")
        self.kind = kind
        self.why = why
        self.client_port = client_port
        self.sent_at = sent_at


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and what its answer must be. ``check(body)`` says what is wrong with it, or "".

    ``pieces`` are the body, with ``pause_s`` seconds before each. ``last``: the request says ``connection: close``.
    """

    path: str
    check: Callable[[bytes], str]
    headers: str = ""  # whole lines
    pieces: tuple[bytes, ...] = ()
    pause_s: float = 0.0
    last: bool = False

    def head(self) -> bytes:
        lines = [f"{'POST' if self.pieces else 'GET'} {self.path} HTTP/1.1\r\nhost: load\r\n{self.headers}"]
        if self.pieces:
            lines.append(f"content-length: {sum(map(len, self.pieces))}\r\n")
        if self.last:
            lines.append("connection: close\r\n")
        return "".join([*lines, "\r\n"]).encode()


class CheckedConnection:
    """A connection to 127.0.0.1. ``open``: it can take another request. Making one raises ``ExchangeError`` too."""

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self.open = True
        self.answered = 0
        self.client_port = 0
        self._timeout_s = timeout_s
        self._sent_at = 0.0
        self._socket = socket.socket()
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(("127.0.0.1", port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.client_port = self._socket.getsockname()[1]
        except ConnectionRefusedError:
            self._fail(Kind.REFUSED, "connection refused")
        except TimeoutError:
            self._fail(Kind.TIMEOUT, f"no connection within {timeout_s:g} s")
        except OSError as error:  # it was there for a moment
            self.client_port = self._socket.getsockname()[1]
            self._fail(Kind.RESET_BEFORE_REQUEST, f"{error.strerror} in connect")

    def ended(self) -> bool:
        """Whether the other side has closed it while nothing was asked, as clients look before they use one again.

        Raises ``ExchangeError`` when there are bytes that nobody asked for.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            data = self._socket.recv(_CHUNK)
        except OSError:
            data = b""
        if data:
            self._fail(Kind.WRONG_ANSWER, f"bytes that nobody asked for: {data[:60]!r}")
        return True

    def ask(self, request: Ask) -> None:
        """Send the request, read and check its answer. After an ``ExchangeError`` the connection is closed."""
        self._sent_at = 0.0
        self._send(request)
        received = self._read(request)
        self.answered += 1
        if request.last or _CLOSES.search(received, 0, head_end(received)):
            self.close()

    def close(self) -> None:
        self.open = False
        self._socket.close()

    def _send(self, request: Ask) -> None:
        if self.answered == 0 and self.ended():
            self._fail(Kind.RESET_BEFORE_REQUEST, "closed before it was used")
        started = time.monotonic()
        try:
            self._socket.sendall(request.head())
            self._sent_at = started
            for piece in request.pieces:
                time.sleep(request.pause_s)
                self._socket.sendall(piece)
        except TimeoutError:
            self._fail(Kind.TIMEOUT, f"{request.path}: the request was not taken within {self._timeout_s:g} s")
        except OSError as error:
            if self._sent_at == 0.0:
                kind = Kind.STALE_KEEPALIVE if self.answered else Kind.RESET_BEFORE_REQUEST
                self._fail(kind, f"{request.path}: {error.strerror} at the first byte")
            self._fail(Kind.IN_FLIGHT, f"{request.path}: {error.strerror} while sending the body{self._early_answer()}")

    def _early_answer(self) -> str:
        """What the other side said before it closed on us, if it can still be read."""
        try:
            data = self._socket.recv(_CHUNK)
        except OSError:
            data = b""
        return f", answer {data[:80]!r}" if data else ""

    def _read(self, request: Ask) -> bytes:
        received = b""
        end = -1
        deadline = time.monotonic() + self._timeout_s
        while end < 0:
            data = self._receive(request, received, deadline)
            received += data
            body = head_end(received)
            if body >= 0:
                end = body_end(received, 0, body, until_close=True)
        if len(received) > end:
            self._fail(Kind.WRONG_ANSWER, f"{request.path}: {received[end : end + 60]!r} after the answer")
        status = _STATUS.match(received)
        if status is None or status[1] != b"200":
            self._fail(Kind.WRONG_ANSWER, f"{request.path}: {received[:200]!r}")
        content = received[body:]
        if _CHUNKED.search(received, 0, body):
            unpacked = dechunk(content)
            content = unpacked[0] if unpacked else b"bad chunks"
        wrong = request.check(content)
        if wrong:
            self._fail(Kind.WRONG_ANSWER, f"{request.path}: {wrong}")
        return received

    def _receive(self, request: Ask, received: bytes, deadline: float) -> bytes:
        """More of the answer, at least one byte."""
        how = "closed"
        try:
            if time.monotonic() > deadline:
                raise TimeoutError
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            self._fail(Kind.TIMEOUT, f"{request.path}: no whole answer, only {received[-60:]!r}")
        except OSError as error:
            how, data = error.strerror or "reset", b""
        if not data:
            if received:
                self._fail(Kind.IN_FLIGHT, f"{request.path}: {how} after {len(received)} bytes, {received[-60:]!r}")
            kind = Kind.STALE_KEEPALIVE if self.answered and not request.pieces else Kind.IN_FLIGHT
            self._fail(kind, f"{request.path}: {how} without a byte of the answer")
        return data

    def _fail(self, kind: Kind, why: str) -> NoReturn:
        self.close()
        raise ExchangeError(kind, why, self.client_port, self._sent_at)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

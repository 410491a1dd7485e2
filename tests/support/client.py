"""A client that sends exactly the bytes it is told to and keeps exactly the bytes it gets."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from tests.support.framing import body_end, head_end

TIMEOUT_S: Final = 3.0
_CHUNK: Final = 65536


class RawClient:
    """One TCP connection to 127.0.0.1. ``received`` is everything read; ``end`` how the peer ended it, or "".

    ``end`` becomes ``"eof"`` or ``"reset"``. Reads take at most ``timeout_s`` seconds; a read that does not see what it
    waits for returns False and leaves ``received`` as it is: the caller asserts on the bytes.
    """

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S, receive_buffer: int = 0) -> None:
        self.timeout_s = timeout_s
        self.received = b""
        self.end = ""
        self._consumed = 0  # where the next response begins in ``received``
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(timeout_s)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]

    def send(self, data: bytes) -> bool:
        """Send all of ``data``; False when the peer has closed."""
        try:
            self._socket.sendall(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def send_bytewise(self, data: bytes) -> bool:
        """Send one byte per segment (TCP_NODELAY is on; the kernel may still join them at the receiver)."""
        return all(self.send(data[i : i + 1]) for i in range(len(data)))

    def finish_sending(self) -> None:
        """Half-close: FIN to the peer, reading goes on."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def read_response(self, *, head: bool = False) -> bool:
        """Read until one more final or informational response is complete. ``head``: it answers a HEAD request."""
        return self._read_until(lambda: self._response_complete(head))

    def read_text(self, text: bytes) -> bool:
        """Read until ``text`` has come after the responses read before."""

        def seen() -> bool:
            at = self.received.find(text, self._consumed)
            if at < 0:
                return False
            self._consumed = at + len(text)
            return True

        return self._read_until(seen)

    def read_to_close(self) -> bool:
        """Read until the peer closes."""
        self._read_until(lambda: False)
        return bool(self.end)

    def read_available(self, quiet_s: float) -> None:
        """Read until nothing has come for ``quiet_s`` seconds."""
        size = -1
        while not self.end and size != len(self.received):
            size = len(self.received)
            self._receive(quiet_s)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _response_complete(self, head: bool) -> bool:
        start = self._consumed
        body = head_end(self.received, start)
        if body < 0:
            return False
        status = re.match(rb"HTTP/1\.[01] (\d{3})", self.received[start:body])
        no_body = head or (status is not None and status[1][:1] == b"1") or (status and status[1] in (b"204", b"304"))
        end = body if no_body else body_end(self.received, start, body, until_close=True)
        if end < 0 and self.end:
            end = len(self.received)
        if end < 0:
            return False
        self._consumed = end
        return True

    def _read_until(self, done: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + self.timeout_s
        while not done():
            remaining = deadline - time.monotonic()
            if self.end:
                return done()
            if remaining <= 0:
                return False
            self._receive(remaining)
        return True

    def _receive(self, timeout_s: float) -> None:
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            return
        except ConnectionError:
            self.end = "reset"
            return
        finally:
            self._socket.settimeout(self.timeout_s)
        self.received += data
        if not data:
            self.end = "eof"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

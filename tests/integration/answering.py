"""An origin that calls a function for every request: for many requests at once, where no script can be followed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from tests.support.framing import body_end, head_end

TIMEOUT_S: Final = 30.0

Handler = Callable[[socket.socket, bytes], bool]


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def target(request: bytes) -> bytes:
    """The path of a request."""
    return request.split(b" ", 2)[1]


class AnsweringOrigin:
    """``handler(connection, request)`` answers a whole request; the connection goes on if it gives True.

    ``active`` requests are being answered now; ``most`` were at once; ``total`` in all; ``connections`` were accepted.
    """

    def __init__(self, handler: Handler, listener: socket.socket | None = None) -> None:
        self._handler = handler
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=512)
        name = self._listener.getsockname()
        self.port: int = name[1] if isinstance(name, tuple) else 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.active = self.most = self.total = self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                peer.settimeout(TIMEOUT_S)
                with self._lock:
                    self.connections += 1
                    self._open.add(peer)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer, contextlib.suppress(OSError):
                data = b""
                while True:
                    end = self._request_end(data)
                    if end < 0:
                        more = peer.recv(1 << 16)
                        if not more:
                            return
                        data += more
                    elif not self._answer(peer, data[:end]):
                        return
                    else:
                        data = data[end:]
        finally:
            with self._lock:
                self._open.discard(peer)

    @staticmethod
    def _request_end(data: bytes) -> int:
        body = head_end(data)
        return body if body < 0 else body_end(data, 0, body)

    def _answer(self, peer: socket.socket, request: bytes) -> bool:
        with self._lock:
            self.active += 1
            self.total += 1
            self.most = max(self.most, self.active)
        try:
            return self._handler(peer, request)
        finally:
            with self._lock:
                self.active -= 1

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for peer in self._open:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

"""An origin server that follows a script: raw bytes out, raw bytes in, closing and stalling on demand.

Connections are served by threads, so several may be open at once. The k-th request that arrives (over all connections)
is answered by the k-th ``Answer`` of the script; when the script is used up, by ``DEFAULT_ANSWER``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from tests.support.framing import body_end, head_end
from tests.support.processes import wait_until

_CHUNK: Final = 65536
_TCP_ESTABLISHED: Final = (1, 4, 5)  # Linux TCP states without a FIN from the peer: ESTABLISHED, FIN_WAIT1, FIN_WAIT2


class Send(NamedTuple):
    """Send these bytes as one segment."""

    data: bytes


class Pause(NamedTuple):
    """Wait so many seconds (less when the origin is stopped)."""

    seconds: float


class Finish(NamedTuple):
    """Half-close: FIN to the proxy, reading goes on."""


class Close(NamedTuple):
    """Close the connection: FIN, or with ``reset`` RST."""

    reset: bool = False


Step = Send | Pause | Finish | Close


class Answer(NamedTuple):
    """What is done about one request.

    ``when``: after the whole ``request``, after its ``head``, after its first bytes (``start``), or when the
    connection is accepted (``accept``), before anything came.
    """

    steps: Sequence[Step]
    when: Literal["request", "head", "start", "accept"] = "request"


DEFAULT_ANSWER: Final = Answer([Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")])


def answer(data: bytes) -> Answer:
    """An answer of one segment."""
    return Answer([Send(data)])


@dataclass
class OriginConnection:
    """What one connection of the proxy brought. ``end``: "eof" or "reset" once the proxy has ended it, else ""."""

    number: int
    port: int  # the proxy's side
    received: bytes = b""
    requests: int = 0  # heads received
    end: str = ""
    closed_here: bool = False  # the script closed it
    socket: socket.socket = field(default_factory=socket.socket, repr=False)

    def ended_by_peer(self) -> bool:
        """Whether the proxy's FIN or RST has arrived, even if the script has not read that far."""
        if self.end or self.closed_here:
            return bool(self.end)
        try:
            return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] not in _TCP_ESTABLISHED
        except OSError:
            return True


class Origin:
    """Listens on 127.0.0.1 (port given, or 0 for any) until ``stop``. ``connections`` are in order of acceptance."""

    def __init__(self, script: Iterable[Answer] = (), *, port: int = 0, backlog: int = 128) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.connections: list[OriginConnection] = []
        self._script: list[Answer] = []
        self._next_answer = 0
        self._listener = socket.create_server(("127.0.0.1", port), backlog=backlog)
        self.port: int = self._listener.getsockname()[1]
        self.play(script)
        threading.Thread(target=self._accept, daemon=True, name="origin").start()

    def play(self, script: Iterable[Answer]) -> None:
        """Forget what came so far and follow a new script. Call it only when no connection is open."""
        with self._lock:
            self._script = list(script)
            self._next_answer = 0
            self.connections = []

    def request_count(self) -> int:
        """Request heads received since ``play``."""
        with self._lock:
            return sum(connection.requests for connection in self.connections)

    def wait_requests(self, number: int, timeout_s: float = 3.0) -> None:
        """Return once ``number`` request heads have come."""
        wait_until(lambda: self.request_count() >= number, timeout_s, f"request {number} at the origin")

    def release(self, timeout_s: float = 1.0) -> None:
        """Half-close every connection and wait until the proxy has closed its side too: its pool is empty then."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)
        wait_until(
            lambda: all(connection.end or connection.closed_here for connection in list(self.connections)),
            timeout_s,
            "the end of the proxy's upstream connections",
        )

    def stop(self) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                peer, address = self._listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                connection = OriginConnection(len(self.connections) + 1, address[1], socket=peer)
                self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: OriginConnection) -> None:
        with connection.socket:
            early = self._claim("accept")
            start = 0
            if early is None or self._perform(connection, early):
                while start >= 0:
                    start = self._serve_request(connection, start)

    def _serve_request(self, connection: OriginConnection, start: int) -> int:
        """Read one request beginning at ``start`` and answer it; returns where the next begins, -1 when it is over."""
        if not self._read_until(connection, lambda: len(connection.received) > start):
            return -1
        planned = self._claim("start")
        if planned is not None and not self._perform(connection, planned):
            return -1
        if not self._read_until(connection, lambda: head_end(connection.received, start) >= 0):
            return -1
        with self._lock:
            connection.requests += 1
        planned = planned or self._claim("request", "head") or DEFAULT_ANSWER
        if planned.when == "head" and not self._perform(connection, planned):
            return -1
        body = head_end(connection.received, start)
        if not self._read_until(connection, lambda: body_end(connection.received, start, body) >= 0):
            return -1
        if planned.when == "request" and not self._perform(connection, planned):
            return -1
        return body_end(connection.received, start, body)

    def _claim(self, *when: str) -> Answer | None:
        """Take the next answer of the script if it is one for this moment."""
        with self._lock:
            if self._next_answer == len(self._script) or self._script[self._next_answer].when not in when:
                return None
            self._next_answer += 1
            return self._script[self._next_answer - 1]

    def _read_until(self, connection: OriginConnection, done: Callable[[], bool]) -> bool:
        while not done():
            if not self._read_more(connection):
                return False
        return True

    def _read_more(self, connection: OriginConnection) -> bool:
        try:
            data = connection.socket.recv(_CHUNK)
        except OSError:
            connection.end = "reset"
            return False
        if not data:
            connection.end = "eof"
            return False
        connection.received += data
        return True

    def _perform(self, connection: OriginConnection, planned: Answer) -> bool:
        """Do the steps; False when the connection is over."""
        for step in planned.steps:
            if isinstance(step, Send):
                try:
                    connection.socket.sendall(step.data)
                except OSError:
                    connection.end = "reset"
                    return False
            elif isinstance(step, Pause):
                self._stopped.wait(step.seconds)
            elif isinstance(step, Finish):
                connection.socket.shutdown(socket.SHUT_WR)
            else:
                self._close(connection, step.reset)
                return False
        return True

    def _close(self, connection: OriginConnection, reset: bool) -> None:
        if reset:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.closed_here = True
        connection.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

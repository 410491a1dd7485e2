"""An active listener of this worker: the listening socket's read-ready event, accept, new connections.

The socket belongs to the main process, which keeps its own copy: when this worker stops accepting, what is queued is
accepted first, and what arrives later is served by whoever reads the socket next. Envoy's name: ``ActiveTcpListener``.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workerproxy.worker.network.dispatcher import Dispatcher

_log = logging.getLogger("workerproxy.conn_handler")

# One connection an event: asking for another one costs a system call that nearly always says there is none, and a
# burst still gets its turns, in between those of the connections that are there.
_ACCEPTS_PER_EVENT: Final = 1
_ACCEPTS_AT_STOP: Final = 64
_PAUSE_S: Final = 0.1  # how long accepting rests when descriptors or buffers ran out
_GONE: Final = frozenset({errno.EINTR, errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN})  # the next one may be well
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ActiveListener:
    """Accepts for one listening socket; ``on_accept(sock, peer address)`` takes each new, non-blocking connection."""

    def __init__(
        self, sock: socket.socket, dispatcher: Dispatcher, on_accept: Callable[[socket.socket, object], None]
    ) -> None:
        self._sock = sock
        self._loop = dispatcher.loop
        self._on_accept = on_accept
        self._accepting = False
        self._resting = False  # accepting goes on after a pause
        self.local_address = _local_address(sock)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it

    def __repr__(self) -> str:
        return f"<ActiveListener {self.local_address} {'accepting' if self._accepting else 'stopped'}>"

    def start(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def stop(self) -> None:
        """Accept what is queued, then stop. The socket itself stays open in the main process."""
        if self._accepting:
            while self._accept_some(_ACCEPTS_AT_STOP) == _ACCEPTS_AT_STOP:
                pass
            self._accepting = False
            self._loop.remove_reader(self._sock.fileno())
        self._resting = False

    def close(self) -> None:
        """Give up this worker's copy of the socket."""
        self._resting = False
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _on_readable(self) -> None:
        self._accept_some(_ACCEPTS_PER_EVENT)

    def _accept_some(self, most: int) -> int:
        accept = self._sock.accept
        for done in range(most):
            try:
                sock, peer = accept()
            except OSError as error:
                if error.errno in _GONE:
                    continue
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                elif error.errno != errno.EAGAIN:
                    _log.error("accept on %s failed: %s", self.local_address, error)
                    self._pause(error)
                return done
            sock.setblocking(False)
            self._on_accept(sock, peer)
        return most

    def _pause(self, error: OSError) -> None:
        if self._accepting:
            _log.warning("accepting on %s rests for %.1f s: %s", self.local_address, _PAUSE_S, error.strerror)
            self._loop.remove_reader(self._sock.fileno())
            self._accepting = False
            self._resting = True
            self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._resting:
            self._resting = False
            self.start()


def _local_address(sock: socket.socket) -> str:
    return address_text(sock.family, sock.getsockname())


def address_text(family: int, address: object) -> str:
    """A socket address as Envoy prints it: ``1.2.3.4:5``, ``[::1]:5``, or a Unix socket's path."""
    if family == socket.AF_INET and isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    if family == socket.AF_INET6 and isinstance(address, tuple):
        return f"[{address[0]}]:{address[1]}"
    if isinstance(address, bytes):
        return "@" + address[1:].decode(errors="replace")
    return str(address)

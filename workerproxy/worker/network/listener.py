"""An active listener of this worker: the listening socket's read-ready event, accept, new connections.

The socket belongs to the main process, which keeps its own copy: when this worker stops accepting, what is queued is
accepted first, and what arrives later is served by whoever reads the socket next. Envoy's name: ``ActiveTcpListener``.

Diagnostics: when descriptors or buffers run out, accepting rests and is tried again ten times a second. The log says
when that begins and, once it has gone well for a second, that it is over and how long it lasted; nothing in between.
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
_CALM_S: Final = 1.0  # so long nothing may fail before that is over: at the limit each close lets one more in
_GONE: Final = frozenset({errno.EINTR, errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN})  # the next one may be well


class ActiveListener:
    """Accepts for one listening socket; ``on_accept(sock, peer address)`` takes each new, non-blocking connection."""

    def __init__(
        self, sock: socket.socket, dispatcher: Dispatcher, on_accept: Callable[[socket.socket, object], None]
    ) -> None:
        self.sock = sock
        self.on_accept = on_accept
        self._loop = dispatcher.loop
        self._clock = dispatcher.clock
        self._reading = False
        self._resting = False  # accepting goes on after a pause
        self._failing_since = 0.0
        self._failed_last = 0.0
        self.local_address = _local_address(sock)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it

    def __repr__(self) -> str:
        state = "accepting" if self._reading else "resting" if self._resting else "stopped"
        return f"<ActiveListener {self.local_address} {state}>"

    def start(self) -> None:
        if not self._reading:
            self._resting = False
            self._reading = True
            self._loop.add_reader(self.sock.fileno(), self._on_readable)

    def stop(self) -> None:
        """Accept what is queued, then stop. The socket itself stays open in the main process."""
        if self._reading or self._resting:
            self._resting = False
            while self._accept_some(_ACCEPTS_AT_STOP) == _ACCEPTS_AT_STOP:
                pass
            if self._resting:
                _log.error("what is queued on %s is left there: accepting fails", self.local_address)
        self._stop_reading()

    def detach(self) -> socket.socket:
        """Stop at once and give the socket away; what is queued stays there."""
        self._stop_reading()
        return self.sock

    def close(self) -> None:
        """Give up this worker's copy of the socket, and leave what is queued to whoever else reads it."""
        self.detach().close()

    def _stop_reading(self) -> None:
        self._resting = False
        self._failing_since = 0.0
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.sock.fileno())

    def _on_readable(self) -> None:
        self._accept_some(_ACCEPTS_PER_EVENT)

    def _accept_some(self, most: int) -> int:
        accept = self.sock.accept
        for done in range(most):
            try:
                sock, peer = accept()
            except OSError as error:
                if error.errno in _GONE:
                    continue
                if error.errno != errno.EAGAIN:
                    self._rest(error)
                return done
            sock.setblocking(False)
            self.on_accept(sock, peer)
        return most

    # want of descriptors or buffers: EMFILE, ENFILE, ENOBUFS, ENOMEM; whatever else fails is met in the same way

    def _rest(self, error: OSError) -> None:
        now = self._failed_last = self._clock()
        if not self._failing_since:
            self._failing_since = now
            _log.warning("accepting on %s rests: %s", self.local_address, error.strerror)
        self._resting = True
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.sock.fileno())
            self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._resting:
            self.start()
            self._loop.call_later(_CALM_S, self._end_of_rests)

    def _end_of_rests(self) -> None:
        if not self._failing_since or self._clock() - self._failed_last < _CALM_S:
            return
        self._on_readable()  # tells also when nobody has come: the descriptor is asked for first
        if self._reading:
            lasted_s = self._failed_last - self._failing_since + _PAUSE_S
            self._failing_since = 0.0
            _log.warning("accepting on %s goes on after %.1f s", self.local_address, lasted_s)


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

"""A connection: one non-blocking socket, its readiness events, its write buffer. Envoy's name: ``Network::Connection``.

Knows bytes, not HTTP. Read-ready reads once and hands the bytes to ``callbacks.on_data``; a write goes to the socket at
once, and what the socket does not take waits for write-ready. Over the high watermark ``callbacks.on_above_high`` asks
whoever produces the bytes to stop, below the low one ``on_below_low`` lets it go on.

    open --close_after_flush--> flushing --(all written: shutdown)--> lingering --(peer's FIN, or timeout)--> closed
    open, flushing, lingering --close--> closed
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

_log = logging.getLogger("workerproxy.connection")

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.worker.network.dispatcher import Dispatcher, TimerQueue

READ_SIZE: Final = 65536  # bytes asked for by one read; a body's read-ahead is bounded by it
_JOIN_LIMIT: Final = 16384  # below this copying chunks together costs less than handing the kernel a vector
_VECTOR: Final = 64  # chunks of one sendmsg, well below IOV_MAX

OPEN: Final = 0
FLUSHING: Final = 1
LINGERING: Final = 2
CLOSED: Final = 3
_STATE_NAMES: Final = ("open", "flushing", "lingering", "closed")


class ConnectionCallbacks(Protocol):
    """What the owner of a connection is told."""

    def on_data(self, data: bytes) -> None:
        """Bytes were read."""

    def on_end_of_data(self) -> None:
        """The peer sent FIN: nothing more will be read."""

    def on_connection_lost(self, error: OSError) -> None:
        """The socket failed; the connection is closed already."""

    def on_closed(self) -> None:
        """A close that the owner began with ``close_after_flush`` is done."""

    def on_above_high(self) -> None: ...

    def on_below_low(self) -> None: ...


class Connection:
    """See the module. ``buffer_limit`` is the high watermark in bytes (Envoy: per_connection_buffer_limit_bytes)."""

    __slots__ = (
        "_above_high",
        "_callbacks",
        "_counted_read",
        "_counted_written",
        "_high",
        "_linger",
        "_loop",
        "_low",
        "_out",
        "_peers",
        "_reader_on",
        "_recv",
        "_send",
        "_wait_for_fin",
        "_writer_on",
        "bytes_read",
        "bytes_written",
        "error_reader",
        "fd",
        "linger_expired",
        "out_size",
        "peer_failed",
        "read_disabled",
        "sock",
        "state",
        "watching_for_leave",
    )

    def __init__(
        self, sock: socket.socket, dispatcher: Dispatcher, callbacks: ConnectionCallbacks, buffer_limit: int
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.state = OPEN
        self._loop = dispatcher.loop
        self._peers = dispatcher.peers
        self.watching_for_leave = False
        self.linger_expired = False  # the close was ours, and the peer did not answer it in time
        self._callbacks = callbacks
        self._recv = sock.recv
        self._send = sock.send
        self._high = buffer_limit
        self._low = buffer_limit // 2
        self._out: deque[bytes | memoryview] | None = None
        self.out_size = 0  # bytes waiting for write-ready
        self.bytes_read = 0
        self.bytes_written = 0
        self._counted_read = 0
        self._counted_written = 0
        self._above_high = False
        self.read_disabled = 0  # how many have asked for it and not taken it back
        self._reader_on = False
        self._writer_on = False
        self._linger: TimerQueue[Connection] | None = None
        self.peer_failed = False  # it was reset, though bytes that came before may be unread
        self.error_reader: Callable[[], None] | None = None  # who reads in our place (a splice)

    def __repr__(self) -> str:
        reading = "paused" if self.read_disabled else "reading"
        return f"<Connection fd={self.fd} {_STATE_NAMES[self.state]} {reading} out={self.out_size}>"

    # reading

    def start_reading(self) -> None:
        """Register for read-ready; once, after the connection is established."""
        if not self._reader_on and not self.read_disabled:
            self._reader_on = True
            self._loop.add_reader(self.fd, self._on_readable)
        if self._peers is not None:
            self._peers.add(self)

    def read_disable(self) -> None:
        """Stop reading; calls nest, each needs its ``read_enable`` (Envoy: readDisable)."""
        self.read_disabled += 1
        if self._reader_on:
            self._reader_on = False
            self._loop.remove_reader(self.fd)

    def read_enable(self) -> None:
        self.read_disabled -= 1
        if not self.read_disabled and self.state != CLOSED and not self._reader_on:
            self._reader_on = True
            self._loop.add_reader(self.fd, self._on_readable)
            if self.peer_failed:
                self._loop.call_soon(self._read_to_error)

    def has_unread(self) -> bool:
        """Whether bytes have come that the loop has not told of yet. Asked before an idle connection is closed."""
        if self.state != OPEN:
            return False
        try:
            return bool(self._recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _on_readable(self) -> None:
        try:
            data = self._recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if not data:
            self._on_fin()
        elif self.state == OPEN:
            self.bytes_read += len(data)
            try:
                self._callbacks.on_data(data)
            except Exception:
                self._on_bug()
        # else: the peer goes on sending to a connection that is closing; read and forget, so that no RST
        # destroys the response it has not read yet (RFC 9112 section 9.6).

    def watch_leaving(self, on: bool) -> None:
        """While reading is disabled for long: still notice that the peer leaves (Envoy: early close detection).

        For downstream connections. What the peer sent before is not read any more then.
        """
        if self._peers is not None and self.state != CLOSED and on is not self.watching_for_leave:
            self.watching_for_leave = on
            self._peers.watch_leaving(self, on)

    def on_peer_left(self) -> None:
        if self.state == OPEN:
            self.watching_for_leave = False
            self._callbacks.on_end_of_data()

    def on_peer_error(self) -> None:
        """The peer has reset the connection. What it sent before is read first; then the read that fails tells."""
        self.peer_failed = True
        if self.error_reader is not None:
            self.error_reader()
        else:
            self._read_to_error()

    def _read_to_error(self) -> None:
        size = -1
        while self._reader_on and size != self.bytes_read:
            size = self.bytes_read
            self._on_readable()

    def _on_fin(self) -> None:
        self.stop_reading()
        if self.state == LINGERING:
            self._finish()
        elif self.state == OPEN:
            try:
                self._callbacks.on_end_of_data()
            except Exception:
                self._on_bug()

    def stop_reading(self) -> None:
        """No more read events for good."""
        self.read_disabled += 1
        if self._reader_on:
            self._reader_on = False
            self._loop.remove_reader(self.fd)

    def _on_bug(self) -> None:
        """A fault of this program costs this connection, not the worker."""
        _log.exception("internal error on %r; the connection is closed", self)
        if self.state == OPEN:
            self._fail(OSError("internal error"))

    # writing

    def write(self, data: bytes) -> None:
        """Write now what the socket takes and keep the rest. Nothing happens on a connection that is closing."""
        if self._out:
            if self.state == OPEN:
                self._enqueue(data)
            return
        if self.state != OPEN:
            return
        try:
            sent = self._send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        self.bytes_written += sent
        if sent != len(data):
            self._enqueue(memoryview(data)[sent:])

    def write_many(self, chunks: list[bytes]) -> None:
        """As ``write`` for several chunks, with one system call where it fits."""
        if len(chunks) == 1:
            self.write(chunks[0])
            return
        total = sum(map(len, chunks))
        if total <= _JOIN_LIMIT or self._out or self.state != OPEN or len(chunks) > _VECTOR:
            self.write(b"".join(chunks))
            return
        try:
            sent = self.sock.sendmsg(chunks)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        self.bytes_written += sent
        if sent != total:
            for chunk in chunks:
                if sent >= len(chunk):
                    sent -= len(chunk)
                else:
                    self._enqueue(memoryview(chunk)[sent:] if sent else chunk)
                    sent = 0
                    if self.state != OPEN:
                        return

    def _enqueue(self, data: bytes | memoryview) -> None:
        if not data:
            return  # ``_on_writable`` would never be done with it
        if self._out is None:
            self._out = deque()
        self._out.append(data)
        self.out_size += len(data)
        if not self._writer_on:
            self._writer_on = True
            self._loop.add_writer(self.fd, self._on_writable)
        if self.out_size > self._high and not self._above_high:
            self._above_high = True
            self._callbacks.on_above_high()

    def _on_writable(self) -> None:
        out = self._out
        while out:
            try:
                if len(out) == 1:
                    sent = self._send(out[0])
                else:
                    sent = self.sock.sendmsg([out[i] for i in range(min(len(out), _VECTOR))])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error)
                return
            self.bytes_written += sent
            self.out_size -= sent
            if self.state == FLUSHING and self._linger is not None:
                self._linger.set(self)  # the peer takes bytes: the wait begins anew
            while sent:
                head = out[0]
                if sent >= len(head):
                    sent -= len(head)
                    out.popleft()
                else:
                    out[0] = memoryview(head)[sent:]
                    sent = 0
            if self._above_high and self.out_size <= self._low:
                self._above_high = False
                self._callbacks.on_below_low()
                if self.state == CLOSED:
                    return
        self._stop_writing()
        if self.state == FLUSHING:
            self._linger_now()

    def _stop_writing(self) -> None:
        if self._writer_on:
            self._writer_on = False
            self._loop.remove_writer(self.fd)

    def take_byte_counts(self) -> tuple[int, int]:
        """Bytes read and written since the last call."""
        counts = self.bytes_read - self._counted_read, self.bytes_written - self._counted_written
        self._counted_read, self._counted_written = self.bytes_read, self.bytes_written
        return counts

    @property
    def above_high(self) -> bool:
        return self._above_high

    # ending

    def close(self) -> None:
        """Close at once; what is not written is lost. May be called in any state, tells nobody."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        if self._reader_on:
            self._reader_on = False
            self._loop.remove_reader(self.fd)
        self._stop_writing()
        self._out = None
        self.out_size = 0
        if self._linger is not None:
            self._linger.cancel(self)
        if self._peers is not None:
            self._peers.remove(self.fd)
        self.sock.close()

    def reset(self) -> None:
        """Close so that the peer sees RST rather than an orderly end: what it got is not a whole message."""
        if self.state != CLOSED:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.close()

    def close_after_flush(self, linger: TimerQueue[Connection] | None, *, wait_for_fin: bool = True) -> None:
        """Write what is buffered, send FIN, wait for the peer's FIN, close; then ``callbacks.on_closed``.

        ``linger`` bounds both waits (Envoy: delayed_close_timeout); None bounds none, and closes as soon as all is
        written. So does ``wait_for_fin`` false, for a peer that has sent nothing which is not read.
        """
        if self.state != OPEN:
            return
        self.state = FLUSHING
        self._linger = linger
        self._wait_for_fin = wait_for_fin and linger is not None
        if not self._out:
            self._linger_now()
        elif linger is not None:
            linger.set(self)
            if self.read_disabled:
                self._resume_for_linger()

    def _linger_now(self) -> None:
        if self._linger is None or not self._wait_for_fin:
            self._finish()
            return
        if self.read_disabled:
            self._resume_for_linger()
        self.state = LINGERING
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._finish()  # the peer is gone already
            return
        self._linger.set(self)

    def _resume_for_linger(self) -> None:
        self.read_disabled = 0
        if not self._reader_on:
            self._reader_on = True
            self._loop.add_reader(self.fd, self._on_readable)

    def on_linger_timeout(self) -> None:
        """The peer did not close in time."""
        if self.state in (FLUSHING, LINGERING):
            self.linger_expired = True
            self._finish()

    def _finish(self) -> None:
        self.close()
        self._callbacks.on_closed()

    def _fail(self, error: OSError) -> None:
        closing = self.state != OPEN
        self.close()
        if closing:
            self._callbacks.on_closed()
        else:
            self._callbacks.on_connection_lost(error)


_LINGER_RESET: Final = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")


def connect_error(sock: socket.socket) -> int:
    """The outcome of a non-blocking connect (``SO_ERROR``): 0, or an errno."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def errno_text(number: int) -> str:
    return os.strerror(number)

"""Where log lines go: descriptors that can be written without ever blocking the event loop.

A sink takes bytes and says how many it took; ``BlockingIOError`` when it takes none now, ``OSError`` when it fails.
Standard output and error may be shared with other processes, so their flags are never changed: a pipe or terminal is
opened anew, a socket is written with ``MSG_DONTWAIT``, and where neither goes a thread does the blocking.
"""

from __future__ import annotations

import os
import queue
import socket
import stat
import threading
from typing import Final, Protocol

STANDARD: Final = {"/dev/stdout": 1, "/dev/stderr": 2, "/proc/self/fd/1": 1, "/proc/self/fd/2": 2}
PIPE_BUF: Final = 4096  # what is written to a pipe at once up to this size is not mixed with others' (pipe(7))
THREAD_BUFFER: Final = 256 * 1024  # bytes handed to the thread and not written yet
THREAD_JOIN_S: Final = 0.5

_OPEN_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MODE: Final = 0o644


class Sink(Protocol):
    """``atomic_bytes``: whole lines are written in pieces of at most this size; None for no limit."""

    @property
    def atomic_bytes(self) -> int | None: ...

    def write(self, data: bytes) -> int: ...

    def close(self) -> None: ...


class DescriptorSink:
    """A descriptor of our own that does not block: a regular file, or anything opened with ``O_NONBLOCK``."""

    __slots__ = ("_fd", "atomic_bytes")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.atomic_bytes = PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else None

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)


class SocketSink:
    """A socket that someone else owns, written without blocking call by call."""

    __slots__ = ("_socket", "atomic_bytes")

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self.atomic_bytes: int | None = None

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._socket.close()


class ThreadSink:
    """A descriptor that may block, written by a thread. What that cannot write is lost."""

    __slots__ = ("_fd", "_lock", "_pending", "_queue", "_thread", "atomic_bytes")

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)
        self._lock = threading.Lock()
        self._pending = 0
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.atomic_bytes: int | None = PIPE_BUF
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        with self._lock:
            if self._pending + len(data) > THREAD_BUFFER and self._pending:
                raise BlockingIOError
            self._pending += len(data)
        self._queue.put(data)
        return len(data)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(THREAD_JOIN_S)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._write_all(data)
            with self._lock:
                self._pending -= len(data)
        os.close(self._fd)

    def _write_all(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                return


def open_sink(destination: str) -> Sink:
    """Open a path for appending, or a standard stream by its path. Raises ``OSError``; ENXIO: a FIFO without reader."""
    standard = STANDARD.get(destination)
    return open_path(destination) if standard is None else open_standard(standard)


def open_path(path: str) -> Sink:
    return DescriptorSink(os.open(path, _OPEN_FLAGS, _MODE))


def open_standard(fd: int) -> Sink:
    """A sink for a descriptor that others may share."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return DescriptorSink(os.dup(fd))  # with the shared offset
    if stat.S_ISSOCK(mode):
        return SocketSink(fd)
    try:
        return DescriptorSink(os.open(f"/proc/self/fd/{fd}", _OPEN_FLAGS & ~os.O_CREAT))
    except OSError:
        return ThreadSink(fd)  # for example a terminal of another user

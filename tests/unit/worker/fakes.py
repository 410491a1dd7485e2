"""A network without a kernel: sockets, an event loop and a clock that a test moves by hand.

Handed to the worker's objects by their constructors: ``Dispatcher(loop, loop.time, network.new_socket)``. Readiness is
level-triggered as with epoll, so a callback that does not do its work is called again; ``FakeLoop.run`` says so when it
never ends. Descriptors of the fakes begin at ``FIRST_FD``; smaller ones are real and are asked with select(2).
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

FIRST_FD: Final = 1_000_000
_MOST_TURNS: Final = 20_000  # of the loop in one ``run``: more is an endless loop


class Timer:
    """What ``call_later`` gives."""

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """The part of an event loop that the worker uses. Time stands still until ``advance``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sockets: dict[int, FakeSocket] = {}
        self.readers: dict[int, Callable[[], object]] = {}
        self.writers: dict[int, Callable[[], object]] = {}
        self.timers: list[Timer] = []
        self._soon: deque[Callable[[], object]] = deque()

    # what the worker calls

    def time(self) -> float:
        return self.now

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        assert fd >= 0, "add_reader of a closed socket"
        self.readers[fd] = callback

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        assert fd >= 0, "add_writer of a closed socket"
        self.writers[fd] = callback

    def remove_reader(self, fd: int) -> bool:
        return self.readers.pop(fd, None) is not None

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    # what the test calls

    def run(self) -> None:
        """Until nothing is ready any more."""
        for _ in range(_MOST_TURNS):
            if self._soon:
                self._soon.popleft()()
            elif not self._one_event():
                return
        raise AssertionError(f"the loop never comes to rest: readers {self.readers}, writers {self.writers}")

    def advance(self, seconds: float) -> None:
        """Let time pass; timers run in their order, each at its time."""
        self.run()
        end = self.now + seconds
        while True:
            due = [timer for timer in self.timers if timer.due <= end and not timer.is_cancelled]
            if not due:
                break
            first = min(due, key=lambda timer: timer.due)
            self.timers.remove(first)
            self.now = max(self.now, first.due)
            first.callback()
            self.run()
        self.now = end

    def waiting(self) -> list[Timer]:
        """Timers that are set."""
        return [timer for timer in self.timers if not timer.is_cancelled]

    def _one_event(self) -> bool:
        readable, writable = self._real_ready()
        for fd, callback in list(self.readers.items()):
            if (self.sockets[fd].is_readable if fd >= FIRST_FD else fd in readable) and fd in self.readers:
                callback()
                return True
        for fd, callback in list(self.writers.items()):
            if (self.sockets[fd].is_writable if fd >= FIRST_FD else fd in writable) and fd in self.writers:
                callback()
                return True
        return False

    def _real_ready(self) -> tuple[list[int], list[int]]:
        reading = [fd for fd in self.readers if fd < FIRST_FD and _is_open(fd)]
        writing = [fd for fd in self.writers if fd < FIRST_FD and _is_open(fd)]
        if not reading and not writing:
            return [], []
        readable, writable, _ = select.select(reading, writing, [], 0)
        return readable, writable


def _is_open(fd: int) -> bool:
    """epoll forgets a descriptor that is closed; select does not bear it."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class FakeSocket:
    """The worker's end of a connection. ``peer`` is the other end, in the test's hands."""

    def __init__(self, network: Network, family: int = socket.AF_INET, local: Any = ("10.0.0.1", 80)) -> None:
        self.network = network
        self.family = family
        self.local = local
        self.peer = Peer(self)
        self.fd = network.add(self)
        self.is_closed = False
        self.connected_to: Any = None  # what connect was called with
        self.connecting = False
        self.connect_result = 0  # SO_ERROR
        self.options: list[tuple[int, int, Any]] = []
        # What the peer has sent and was not read: bytes, then b"" for FIN or an error.
        self.incoming: deque[bytes | OSError] = deque()

    # what the worker calls

    def fileno(self) -> int:
        return -1 if self.is_closed else self.fd

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.options.append((level, option, value))

    def getsockopt(self, level: int, option: int) -> int:
        if (level, option) == (socket.IPPROTO_IP, 21):  # IP_MINTTL: nothing has set it
            return 0
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.connect_result

    def getsockname(self) -> Any:
        return self.local

    def getpeername(self) -> Any:
        if isinstance(self.peer.send_error, OSError):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return "192.0.2.7", 5000

    def connect_ex(self, address: Any) -> int:
        self.connected_to = address
        return self.network.connect(self)

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._check_open()
        if not self.incoming:
            raise BlockingIOError
        head = self.incoming[0]
        if isinstance(head, OSError):
            raise head
        if not head:  # FIN stays
            return b""
        if flags & socket.MSG_PEEK:
            return head[:size]
        if len(head) > size:
            self.incoming[0] = head[size:]
            return head[:size]
        self.incoming.popleft()
        return head

    def send(self, data: bytes | memoryview) -> int:
        self._check_open()
        return self.peer.take_in(bytes(data))

    def sendmsg(self, chunks: list[bytes | memoryview]) -> int:
        self._check_open()
        assert len(chunks) <= os.sysconf("SC_IOV_MAX")
        return self.peer.take_in(b"".join(chunks))

    def shutdown(self, how: int) -> None:
        self._check_open()
        assert how == socket.SHUT_WR
        if self.peer.send_error is not None:
            raise self.peer.send_error
        self.peer.got_fin = True

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        assert self.fd not in self.network.loop.readers, "closed with its reader still registered"
        assert self.fd not in self.network.loop.writers, "closed with its writer still registered"
        reset = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        if any(option == socket.SO_LINGER and value == reset for _, option, value in self.options):
            self.peer.got_reset = True
        else:
            self.peer.got_fin = True

    # what the loop asks

    @property
    def is_readable(self) -> bool:
        return bool(self.incoming) and not self.is_closed

    @property
    def is_writable(self) -> bool:
        if self.connecting:
            return False
        return self.peer.window is None or self.peer.window > 0 or self.peer.send_error is not None

    def _check_open(self) -> None:
        if self.is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class Peer:
    """The far end of a ``FakeSocket``: a client, or an origin. Sending and taking run the loop."""

    def __init__(self, sock: FakeSocket) -> None:
        self.sock = sock
        self.received = b""  # and not taken yet
        self.got_fin = False
        self.got_reset = False
        self.window: int | None = None  # bytes the worker may still write before its socket is full; None: any
        self.send_error: OSError | None = None  # what the worker's next write raises

    @property
    def is_closed(self) -> bool:
        """The worker has closed its end."""
        return self.sock.is_closed

    def send(self, *pieces: bytes) -> None:
        """Each piece arrives in a read of its own."""
        for piece in pieces:
            self.sock.incoming.append(piece)
            self.sock.network.loop.run()

    def queue(self, *pieces: bytes) -> None:
        """As ``send``; they are there when the loop runs next."""
        self.sock.incoming.extend(pieces)

    def fin(self) -> None:
        self.send(b"")

    def reset(self) -> None:
        """RST: reading and writing fail."""
        self.send_error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self.sock.incoming.clear()
        self.sock.incoming.append(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
        self.sock.network.loop.run()

    def take(self) -> bytes:
        """What has arrived since the last call."""
        self.sock.network.loop.run()
        data, self.received = self.received, b""
        return data

    def open_window(self, size: int | None) -> None:
        """The peer reads: its window grows by ``size`` bytes, or without end."""
        self.window = None if size is None else (self.window or 0) + size
        self.sock.network.loop.run()

    def take_in(self, data: bytes) -> int:
        if self.send_error is not None:
            raise self.send_error
        if self.window is None:
            self.received += data
            return len(data)
        if self.window <= 0:
            raise BlockingIOError
        size = min(self.window, len(data))
        self.window -= size
        self.received += data[:size]
        return size


class Network:
    """All fake sockets of one test, and how upstream connects end."""

    def __init__(self, loop: FakeLoop) -> None:
        self.loop = loop
        self.upstream: list[FakeSocket] = []  # in the order they were made
        self.refusing: set[Any] = set()  # addresses that answer a connect with RST
        self.silent: set[Any] = set()  # addresses that do not answer
        self.unreachable: set[Any] = set()  # addresses for which connect fails at once
        self.descriptors_left: int | None = None
        self.origin_window: int | None = None  # the window of new upstream connections
        self._next_fd = FIRST_FD

    def add(self, sock: FakeSocket) -> int:
        fd = self._next_fd
        self._next_fd += 1
        self.loop.sockets[fd] = sock
        return fd

    def new_socket(self, family: int, kind: int) -> Any:
        """For ``Dispatcher``."""
        assert kind == socket.SOCK_STREAM
        if self.descriptors_left is not None:
            if not self.descriptors_left:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self.descriptors_left -= 1
        sock = FakeSocket(self, family, ("10.0.0.1", 40000 + len(self.upstream)))
        sock.connecting = True
        sock.peer.window = self.origin_window
        self.upstream.append(sock)
        return sock

    def connect(self, sock: FakeSocket) -> int:
        address = sock.connected_to
        if address in self.unreachable:
            return errno.ENETUNREACH
        if address not in self.silent:
            self.let_connect(sock)
        return errno.EINPROGRESS

    def let_connect(self, sock: FakeSocket) -> None:
        """The handshake ends; its outcome is seen when the loop runs."""
        sock.connecting = False
        if sock.connected_to in self.refusing:
            sock.connect_result = errno.ECONNREFUSED

    def origins(self) -> list[Peer]:
        """The far ends of all upstream connections that were made."""
        return [sock.peer for sock in self.upstream]

    def open_upstream(self) -> int:
        """Upstream sockets the worker has not closed."""
        return sum(not sock.is_closed for sock in self.upstream)


class FakeListeningSocket(FakeSocket):
    """``accept`` gives what ``arrive`` put there, or raises what stands in its place."""

    def __init__(self, network: Network, family: int = socket.AF_INET, local: Any = ("10.0.0.1", 80)) -> None:
        super().__init__(network, family, local)
        self.backlog: deque[tuple[FakeSocket, Any] | OSError] = deque()
        self.exhausted = False  # there are no descriptors: the kernel asks for one before it looks into the queue

    def arrive(self, address: Any = ("192.0.2.7", 5000)) -> Peer:
        """A client connects; accepted when the loop runs."""
        sock = FakeSocket(self.network, self.family, self.local)
        self.backlog.append((sock, address))
        return sock.peer

    def fail(self, number: int) -> None:
        """The next accept fails with this errno."""
        self.backlog.append(OSError(number, os.strerror(number)))

    def accept(self) -> tuple[Any, Any]:
        self._check_open()
        if self.exhausted:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not self.backlog:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        head = self.backlog.popleft()
        if isinstance(head, OSError):
            raise head
        return head

    @property
    def is_readable(self) -> bool:
        return bool(self.backlog) and not self.is_closed

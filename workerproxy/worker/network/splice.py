"""Body bytes from socket to socket through a pipe, without entering user space (splice(2)).

For bodies of known length that no filter looks at. One ``Splice`` moves a given number of bytes from one connection to
another, driven by the same two events as the copying path: source readable, sink writable. The pipe is the whole
buffer, so a slow sink stops the source by itself.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from workerproxy.worker.network.connection import Connection

PIPE_SIZE: Final = 1 << 20  # bytes; the usual limit for one pipe (fs.pipe-max-size)
_KEEP: Final = 32  # idle pipes kept for reuse by one worker
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class PipePool:
    """Pipes of one worker; a pipe is returned only when it is empty."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, int, int]] = []

    def take(self) -> tuple[int, int, int] | None:
        """``(read end, write end, capacity)``, or None when descriptors ran out: the caller copies instead."""
        if self._idle:
            return self._idle.pop()
        try:
            read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            size = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # the user's share of pipe memory is used up
            size = fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ)
        return read_end, write_end, size

    def give_back(self, pipe: tuple[int, int, int], *, empty: bool) -> None:
        if empty and len(self._idle) < _KEEP:
            self._idle.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])


class Splice:
    """Moves ``count`` bytes from ``source`` to ``sink``; then ``on_done(moved, error)``, exactly once.

    ``error`` is "" when all bytes were moved, "source" when the source ended or failed first, "sink" when the sink
    failed. While it runs, both connections' own callbacks are off: the source's reader and the sink's writer are ours.
    The sink must have an empty write buffer at the start.
    """

    __slots__ = (
        "_in_pipe",
        "_left",
        "_loop",
        "_on_done",
        "_pipe",
        "_pool",
        "_reading",
        "_sink",
        "_source",
        "_writing",
        "last_moved",
        "moved",
    )

    def __init__(
        self,
        pool: PipePool,
        pipe: tuple[int, int, int],
        loop: asyncio.AbstractEventLoop,
        source: Connection,
        sink: Connection,
        count: int,
        on_done: Callable[[int, str], None],
    ) -> None:
        self._pool = pool
        self._pipe = pipe
        self._loop = loop
        self._source = source
        self._sink = sink
        self._left = count  # still to be read from the source
        self._in_pipe = 0
        self.moved = 0  # written to the sink
        self._on_done = on_done
        self._reading = False
        self._writing = False
        self.last_moved = loop.time()  # seconds of the loop's clock

    def start(self) -> None:
        self._source.read_disable()
        self._source.error_reader = self._read_to_error
        self._watch_source()

    @property
    def running(self) -> bool:
        """Started, or about to be, and not done."""
        return self._pipe[0] >= 0

    def cancel(self) -> None:
        """Stop; ``on_done`` is not called. Nothing happens when it is done already."""
        if self._pipe[0] >= 0:
            self._release()

    def _watch_source(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._source.fd, self._on_source_readable)
            if self._source.peer_failed:
                self._loop.call_soon(self._read_to_error)

    def _read_to_error(self) -> None:
        """The source was reset: nothing will say so again, so read on until it shows."""
        left = -1
        while self._reading and left != self._left:
            left = self._left
            self._on_source_readable()

    def _on_source_readable(self) -> None:
        try:
            count = os.splice(self._source.fd, self._pipe[1], min(self._left, self._pipe[2]), flags=_FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._done("source")
            return
        if not count:
            self._done("source")
            return
        self._source.bytes_read += count
        self._left -= count
        self._in_pipe += count
        self.last_moved = self._loop.time()
        self._drain()

    def _on_sink_writable(self) -> None:
        self._drain()

    def _drain(self) -> None:
        while self._in_pipe:
            try:
                count = os.splice(self._pipe[0], self._sink.fd, self._in_pipe, flags=_FLAGS)
            except (BlockingIOError, InterruptedError):
                self._wait_for_sink()
                return
            except OSError:
                self._done("sink")
                return
            self._in_pipe -= count
            self.moved += count
            self._sink.bytes_written += count
            self.last_moved = self._loop.time()
        if not self._left:
            self._done("")
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sink.fd)
        self._watch_source()

    def _wait_for_sink(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._source.fd)
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sink.fd, self._on_sink_writable)

    def _done(self, error: str) -> None:
        self._release()
        self._on_done(self.moved, error)

    def _release(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._source.fd)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sink.fd)
        self._pool.give_back(self._pipe, empty=not self._in_pipe)
        self._pipe = (-1, -1, 0)
        self._source.error_reader = None
        self._source.read_enable()

"""One log destination: lines are buffered and written whole, at 64 KiB or after an interval.

The data path only calls ``write``, which never blocks and never raises. When the disk is full or a reader stalls, lines
are kept up to ``MAX_BUFFERED`` and then dropped whole, and counted. Several workers append to one file: each write is
one call with ``O_APPEND``, so lines are never mixed. Envoy's name: ``AccessLogFileImpl``.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from workerproxy.control.stats import Counter, Gauge, StatsGroup
from workerproxy.worker.log_sink import STANDARD, Sink, open_sink

FLUSH_BYTES: Final = 64 * 1024  # Envoy: MIN_FLUSH_SIZE
MAX_BUFFERED: Final = 1024 * 1024  # bytes kept while nothing can be written
PROMPT_S: Final = 0.1  # standard output and error are for people: their lines wait no longer
RETRY_S: Final = 0.1  # after a pipe was full
CLOSE_WAIT_S: Final = 0.5  # how long the last lines may wait for a reader
_CLOSE_POLL_S: Final = 0.01


class LogFileStats(StatsGroup):
    """``filesystem.``, over all log files. ``write_dropped`` is not Envoy's, which buffers without bound."""

    write_buffered: Counter
    write_completed: Counter
    write_failed: Counter
    write_dropped: Counter
    flushed_by_timer: Counter
    reopen_failed: Counter
    write_total_buffered: Gauge


class Timer(Protocol):
    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LogFileSettings:
    """What all log files share. ``flush_interval_s``: ``--file-flush-interval-msec``, in seconds."""

    stats: LogFileStats
    call_later: Callable[[float, Callable[[], None]], Timer]
    flush_interval_s: float


class LogFile:
    """Opens its destination when made, which raises ``OSError``; closed by ``close`` or when nobody refers to it."""

    __slots__ = (
        "__weakref__",
        "_interval_s",
        "_lines",
        "_reopen",
        "_settings",
        "_sink",
        "_size",
        "_stalled",
        "_timer",
        "destination",
    )

    def __init__(self, destination: str, settings: LogFileSettings) -> None:
        self._sink: Sink | None = None  # None: closed, or a FIFO that has no reader yet
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: Timer | None = None
        self._stalled = False
        self._reopen = False
        self._settings = settings
        self.destination = destination
        interval_s = settings.flush_interval_s
        self._interval_s = min(interval_s, PROMPT_S) if destination in STANDARD else interval_s
        try:
            self._sink = open_sink(destination)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            self._reopen = True

    def __repr__(self) -> str:
        state = "closed" if self._sink is None else "stalled" if self._stalled else "open"
        return f"<LogFile {self.destination} {state} {self._size} bytes buffered>"

    def write(self, line: bytes) -> None:
        """Take a line (with its newline) whole, or drop it whole. An empty one is no line."""
        if not line:
            return
        stats = self._settings.stats
        size = self._size + len(line)
        if size > MAX_BUFFERED and self._lines:
            stats.write_dropped += 1
            return
        stats.write_buffered += 1
        stats.write_total_buffered += len(line)
        self._lines.append(line)
        self._size = size
        if size >= FLUSH_BYTES and not self._stalled:
            self.flush()
        elif self._timer is None:
            self._timer = self._settings.call_later(self._interval_s, self._on_timer)

    def flush(self) -> None:
        """Write what is buffered, as far as it goes without waiting."""
        if self._reopen:
            self._open_again()
        self._stalled = False
        while self._lines and not self._stalled:
            self._write_chunk()

    def reopen(self) -> None:
        """Open the path anew, after the file was renamed (SIGUSR1). The old one stays in use if that fails."""
        if self.destination not in STANDARD:
            self._open_again()

    def close(self) -> None:
        """Write the last lines, waiting up to ``CLOSE_WAIT_S`` for a stalled reader, and close. May be repeated."""
        deadline = time.monotonic() + CLOSE_WAIT_S
        self.flush()
        while self._stalled and self._sink is not None and time.monotonic() < deadline:
            time.sleep(_CLOSE_POLL_S)
            self.flush()
        self._finish()

    def __del__(self) -> None:
        """No configuration writes here any more; this is the event loop's time, so nothing is waited for."""
        self.flush()
        self._finish()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_lines()
        self._drop_sink()
        self._reopen = False

    def _drop_lines(self) -> None:
        self._settings.stats.write_dropped += len(self._lines)
        self._settings.stats.write_total_buffered -= self._size
        self._lines, self._size = [], 0

    def _on_timer(self) -> None:
        self._timer = None
        if self._lines:
            self._settings.stats.flushed_by_timer += 1
            self.flush()
        if self._lines:
            self._timer = self._settings.call_later(min(self._interval_s, RETRY_S), self._on_timer)

    def _write_chunk(self) -> None:
        """One write: all lines, or as many as a pipe takes unmixed."""
        sink = self._sink
        if sink is None:
            if self._reopen:
                self._stalled = True
            else:
                self._drop_lines()  # it was closed
            return
        count = len(self._lines) if sink.atomic_bytes is None else self._fitting(sink.atomic_bytes)
        data = b"".join(self._lines[:count])
        written = self._try_write(sink, data)
        if not written:  # and stalled
            return
        self._settings.stats.write_total_buffered -= written
        self._size -= written
        self._lines[:count] = [data[written:]] if written < len(data) else []

    def _try_write(self, sink: Sink, data: bytes) -> int:
        stats = self._settings.stats
        try:
            written = sink.write(data)
        except BlockingIOError:
            self._stalled = True
            return 0
        except OSError as error:
            stats.write_failed += 1
            self._stalled = True
            if error.errno == errno.EPIPE and self.destination not in STANDARD:  # the FIFO's reader has gone
                self._drop_sink()
                self._reopen = True
            return 0
        if written < len(data):
            stats.write_failed += 1
            self._stalled = True
        else:
            stats.write_completed += 1
        return written

    def _fitting(self, limit: int) -> int:
        """How many of the first lines fit into ``limit`` bytes; at least one."""
        size = count = 0
        for line in self._lines:
            size += len(line)
            if size > limit and count:
                break
            count += 1
        return count

    def _open_again(self) -> None:
        try:
            sink = open_sink(self.destination)
        except OSError:
            self._settings.stats.reopen_failed += 1
            self._reopen = True
            return
        self._drop_sink()
        self._sink = sink
        self._reopen = False

    def _drop_sink(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None

"""A log file's surroundings for the tests of this folder: a clock that is moved by hand, statistics, readers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from workerproxy.worker.log_file import LogFile, LogFileSettings, LogFileStats


class Timer:
    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """``call_later`` of an event loop whose time only ``advance`` moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now_s + delay_s, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self.timers if timer.due_s <= self.now_s + 1e-9]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            if not timer.cancelled:
                timer.callback()

    @property
    def waiting(self) -> list[float]:
        """When the timers are due that are set now."""
        return [timer.due_s for timer in self.timers if not timer.cancelled]


class Logs:
    """Log files with a clock and statistics of their own."""

    def __init__(self, flush_interval_s: float = 10.0) -> None:
        self.clock = Clock()
        self.stats = LogFileStats()
        self.settings = LogFileSettings(self.stats, self.clock.call_later, flush_interval_s)

    def open(self, path: str | Path) -> LogFile:
        return LogFile(str(path), self.settings)


def drain(fd: int) -> bytes:
    """All that a non-blocking pipe holds."""
    data = b""
    while True:
        try:
            chunk = os.read(fd, 1 << 16)
        except BlockingIOError:
            return data
        if not chunk:
            return data
        data += chunk


def fill(fd: int) -> int:
    """Fill a pipe through a non-blocking descriptor of its own; gives the number of bytes."""
    writer = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    size = 0
    try:
        while True:
            size += os.write(writer, b"x" * 4096)
    except BlockingIOError:
        return size
    finally:
        os.close(writer)

"""Log files: when lines are written, and what happens when they cannot be."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest

from tests.unit.access_log.build import Logs, drain
from workerproxy.worker.log_file import FLUSH_BYTES, MAX_BUFFERED, RETRY_S


def test_lines_wait_for_the_interval(tmp_path: Path) -> None:
    logs = Logs(flush_interval_s=10)
    path = tmp_path / "log"
    file = logs.open(path)
    file.write(b"one\n")
    file.write(b"two\n")
    logs.clock.advance(9)
    assert path.read_bytes() == b""
    assert (logs.stats.write_buffered, logs.stats.write_total_buffered) == (2, 8)
    logs.clock.advance(1)
    assert path.read_bytes() == b"one\ntwo\n"
    stats = logs.stats
    assert (stats.flushed_by_timer, stats.write_completed, stats.write_total_buffered) == (1, 1, 0)
    assert logs.clock.waiting == []


def test_a_full_buffer_is_written_at_once(tmp_path: Path) -> None:
    logs = Logs()
    file = logs.open(tmp_path / "log")
    line = b"x" * 1023 + b"\n"
    for _ in range(FLUSH_BYTES // 1024 - 1):
        file.write(line)
    assert (tmp_path / "log").stat().st_size == 0
    file.write(line)
    assert (tmp_path / "log").stat().st_size == FLUSH_BYTES
    assert (logs.stats.write_completed, logs.stats.flushed_by_timer) == (1, 0)


def test_lines_are_appended_to_what_is_there_and_to_what_others_write(tmp_path: Path) -> None:
    logs = Logs()
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    first, second = logs.open(path), logs.open(path)
    first.write(b"1\n")
    second.write(b"2\n")
    second.flush()
    first.flush()
    assert path.read_bytes() == b"old\n2\n1\n"


def test_an_empty_line_writes_nothing(tmp_path: Path) -> None:
    logs = Logs()
    file = logs.open(tmp_path / "log")
    file.write(b"")
    file.flush()
    assert (tmp_path / "log").read_bytes() == b""
    assert logs.clock.waiting == []


def test_closing_writes_the_last_lines(tmp_path: Path) -> None:
    logs = Logs()
    file = logs.open(tmp_path / "log")
    file.write(b"last\n")
    file.close()
    file.close()
    assert (tmp_path / "log").read_bytes() == b"last\n"
    assert logs.clock.waiting == []


def test_lines_after_closing_are_dropped_and_counted(tmp_path: Path) -> None:
    logs = Logs()
    file = logs.open(tmp_path / "log")
    file.close()
    file.write(b"late\n")
    logs.clock.advance(10)
    assert (tmp_path / "log").read_bytes() == b""
    assert (logs.stats.write_dropped, logs.stats.write_total_buffered) == (1, 0)
    assert logs.clock.waiting == []


def descriptors_of(path: Path) -> int:
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(link) == str(path) for link in links)


def test_a_file_that_nobody_refers_to_is_closed(tmp_path: Path) -> None:
    logs = Logs()
    file = logs.open(tmp_path / "log")
    file.write(b"line\n")
    logs.clock.advance(10)
    assert descriptors_of(tmp_path / "log") == 1
    reference = weakref.ref(file)
    del file
    gc.collect()
    assert reference() is None
    assert descriptors_of(tmp_path / "log") == 0


def test_reopening_follows_the_path(tmp_path: Path) -> None:
    logs = Logs()
    path = tmp_path / "log"
    file = logs.open(path)
    file.write(b"before\n")
    file.flush()
    path.rename(tmp_path / "log.1")
    file.write(b"after\n")
    file.reopen()
    file.flush()
    assert (tmp_path / "log.1").read_bytes() == b"before\n"
    assert path.read_bytes() == b"after\n"


def test_reopening_that_fails_keeps_the_old_file_and_is_tried_again(tmp_path: Path) -> None:
    logs = Logs()
    folder = tmp_path / "folder"
    folder.mkdir()
    file = logs.open(folder / "log")
    moved = tmp_path / "moved"
    folder.rename(moved)
    file.reopen()
    assert logs.stats.reopen_failed == 1
    file.write(b"to the old\n")
    file.flush()
    assert logs.stats.reopen_failed == 2
    assert (moved / "log").read_bytes() == b"to the old\n"
    folder.mkdir()
    file.write(b"to the new\n")
    file.flush()
    assert (folder / "log").read_bytes() == b"to the new\n"


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Logs().open(tmp_path / "nowhere" / "log")


def test_a_full_disk_is_counted_and_survived() -> None:
    logs = Logs()
    file = logs.open("/dev/full")
    file.write(b"line\n")
    logs.clock.advance(10)
    stats = logs.stats
    assert (stats.write_failed, stats.write_completed, stats.write_total_buffered) == (1, 0, 5)
    assert logs.clock.waiting == [logs.clock.now_s + RETRY_S]
    line = b"x" * 1023 + b"\n"
    for _ in range(MAX_BUFFERED // 1024 + 10):
        file.write(line)
    assert stats.write_total_buffered <= MAX_BUFFERED
    assert stats.write_dropped == 11
    assert stats.write_failed == 1, "a full buffer is not tried line by line"
    logs.clock.advance(RETRY_S)
    assert stats.write_failed == 2


def test_a_pipe_that_is_full_holds_nothing_up_and_loses_no_line_in_the_middle(tmp_path: Path) -> None:
    logs = Logs()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        file = logs.open(fifo)
        written = 0
        for number in range(20_000):
            file.write(b"line %d %s\n" % (number, b"." * 100))
            written += 1
        assert logs.stats.write_dropped > 0
        received = drain(reader)
        for _ in range(1000):
            logs.clock.advance(RETRY_S)
            received += drain(reader)
            if not logs.stats.write_total_buffered:
                break
        lines = received.splitlines()
        assert received.endswith(b"\n")
        assert len(lines) == written - logs.stats.write_dropped
        numbers = [int(line.split()[1]) for line in lines]
        assert numbers == sorted(numbers)
        assert all(line.endswith(b" " + b"." * 100) for line in lines)
        assert logs.stats.write_total_buffered == 0
        file.close()
    finally:
        os.close(reader)


def test_a_fifo_without_reader_is_waited_for(tmp_path: Path) -> None:
    logs = Logs()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    file = logs.open(fifo)
    file.write(b"early\n")
    logs.clock.advance(10)
    assert logs.stats.write_total_buffered == 6
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        logs.clock.advance(RETRY_S)
        assert drain(reader) == b"early\n"
    finally:
        os.close(reader)
    file.write(b"nobody there\n")
    file.flush()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        logs.clock.advance(RETRY_S + 10)
        assert drain(reader) == b"nobody there\n"
        file.close()
    finally:
        os.close(reader)


def test_closing_waits_a_little_for_a_stalled_reader_and_no_longer(tmp_path: Path) -> None:
    logs = Logs()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        file = logs.open(fifo)
        for _ in range(2000):
            file.write(b"x" * 99 + b"\n")
        buffered = logs.stats.write_total_buffered
        assert buffered > 0
        file.close()
        assert logs.stats.write_dropped == buffered // 100
        assert logs.stats.write_total_buffered == 0
    finally:
        os.close(reader)

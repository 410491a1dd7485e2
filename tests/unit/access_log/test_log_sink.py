"""Standard streams are written without blocking and without changing them for others."""

from __future__ import annotations

import os
import pty
import socket
import stat
import threading
from pathlib import Path

import pytest

from tests.unit.access_log.build import drain, fill
from workerproxy.worker.log_sink import PIPE_BUF, THREAD_BUFFER, SocketSink, ThreadSink, open_sink, open_standard


def test_a_pipe_that_others_share_stays_blocking_for_them() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    sink = open_standard(writer)
    try:
        assert sink.atomic_bytes == PIPE_BUF
        assert sink.write(b"line\n") == 5
        assert drain(reader) == b"line\n"
        fill(writer)
        with pytest.raises(BlockingIOError):
            sink.write(b"line\n")
        assert os.get_blocking(writer)
    finally:
        sink.close()
        assert stat.S_ISFIFO(os.fstat(writer).st_mode), "the shared descriptor is still open"
        os.close(reader)
        os.close(writer)


def test_a_terminal_is_opened_anew() -> None:
    controller, terminal = pty.openpty()
    sink = open_standard(terminal)
    try:
        sink.write(b"line\n")
        assert os.read(controller, 100) == b"line\r\n"
        assert os.get_blocking(terminal)
    finally:
        sink.close()
        os.close(controller)
        os.close(terminal)


def test_a_regular_file_keeps_its_shared_offset(tmp_path: Path) -> None:
    path = tmp_path / "out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"before\n")
    sink = open_standard(fd)
    sink.write(b"line\n")
    sink.close()
    os.write(fd, b"after\n")
    os.close(fd)
    assert path.read_bytes() == b"before\nline\nafter\n"


def test_a_socket_is_written_without_blocking() -> None:
    here, there = socket.socketpair()
    with here, there:
        sink = open_standard(here.fileno())
        assert isinstance(sink, SocketSink)
        assert sink.write(b"line\n") == 5
        assert there.recv(100) == b"line\n"
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                sink.write(b"x" * 1000)
        assert os.get_blocking(here.fileno())
        sink.close()
        assert here.send(b"") == 0


def test_the_thread_takes_what_may_block_up_to_a_bound() -> None:
    reader, writer = os.pipe()
    sink = ThreadSink(writer)
    piece = b"x" * 4095 + b"\n"
    taken = 0
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            taken += sink.write(piece)
    assert THREAD_BUFFER - len(piece) <= taken <= THREAD_BUFFER + (1 << 20)
    received = bytearray()

    def read_all() -> None:
        while len(received) < taken:
            received.extend(os.read(reader, 1 << 16))

    consumer = threading.Thread(target=read_all)
    consumer.start()
    consumer.join(10)
    sink.close()
    assert len(received) == taken
    os.close(reader)
    os.close(writer)


def test_the_thread_survives_a_reader_that_has_gone() -> None:
    reader, writer = os.pipe()
    sink = ThreadSink(writer)
    os.close(reader)
    assert sink.write(b"lost\n") == 5
    assert sink.write(b"lost\n") == 5
    sink.close()
    assert not sink._thread.is_alive()
    os.close(writer)


def test_paths_are_created_for_the_owner_to_write_and_all_to_read(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "log"))
    sink.close()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o644 & ~mask

"""Bytes that go from socket to socket through a pipe: real sockets and pipes, with the loop in the test's hands."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.unit.worker.fakes import FakeLoop
from tests.unit.worker.network.test_connection import Owner
from workerproxy.worker.network.connection import OPEN, Connection
from workerproxy.worker.network.dispatcher import Dispatcher
from workerproxy.worker.network.splice import PipePool, Splice


class CountingPool(PipePool):
    """A pool that knows how many pipes are out, and forgets none."""

    def __init__(self) -> None:
        super().__init__()
        self.out = 0
        self.dropped = 0

    def take(self) -> tuple[int, int, int] | None:
        self.out += 1
        return super().take()

    def give_back(self, pipe: tuple[int, int, int], *, empty: bool) -> None:
        self.out -= 1
        self.dropped += not empty
        super().give_back(pipe, empty=empty)

    def close(self) -> None:
        for read_end, write_end, _ in self._idle:
            os.close(read_end)
            os.close(write_end)


class Bench:
    """Two connections, with the far ends in the test's hands, and a splice from the first to the second."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.dispatcher = Dispatcher(cast(Any, self.loop), self.loop.time)
        self.pool = CountingPool()
        self.ends: list[tuple[int, str]] = []
        self.splices: list[Splice] = []
        self.owner = Owner()
        ours, self.sender = socket.socketpair()
        self.source = self._connection(ours)
        ours, self.receiver = socket.socketpair()
        self.sink = self._connection(ours)
        self.sender.setblocking(False)
        self.receiver.setblocking(False)
        self.source.start_reading()

    def _connection(self, sock: socket.socket) -> Connection:
        sock.setblocking(False)
        return Connection(sock, self.dispatcher, self.owner, 1 << 20)

    def splice(self, count: int) -> Splice:
        pipe = self.pool.take()
        assert pipe is not None
        made = Splice(
            self.pool,
            pipe,
            cast(Any, self.loop),
            self.source,
            self.sink,
            count,
            lambda moved, error: self.ends.append((moved, error)),
        )
        self.splices.append(made)
        made.start()
        return made

    def push(self, data: bytes) -> None:
        """Send all of it, letting the loop run whenever the socket is full and the receiver reads nothing."""
        while data:
            try:
                data = data[self.sender.send(data) :]
            except BlockingIOError:
                self.loop.run()
                data = data[self.sender.send(data) :]
        self.loop.run()

    def fill(self, data: bytes) -> int:
        """Send until nothing more goes in; gives how much that was."""
        sent = 0
        while sent < len(data):
            try:
                sent += self.sender.send(data[sent : sent + 50_000])
            except BlockingIOError:
                moved = self.source.bytes_read
                self.loop.run()
                if self.source.bytes_read == moved:
                    break
        self.loop.run()
        return sent

    def received(self) -> bytes:
        data = b""
        while True:
            self.loop.run()
            try:
                piece = self.receiver.recv(1 << 20)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece

    def close(self) -> None:
        for splice in self.splices:
            splice.cancel()
        self.source.close()
        self.sink.close()
        self.sender.close()
        self.receiver.close()
        self.pool.close()
        assert not self.loop.readers
        assert not self.loop.writers


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def pattern(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def test_all_bytes_arrive_and_it_says_so_once(bench: Bench) -> None:
    splice = bench.splice(100_000)
    assert splice.running
    sent = pattern(100_000)
    got = b""
    for at in range(0, len(sent), 10_000):
        bench.push(sent[at : at + 10_000])
        got += bench.received()
    assert got == sent
    assert bench.ends == [(100_000, "")]
    assert not splice.running
    assert splice.moved == 100_000
    assert bench.source.bytes_read == bench.sink.bytes_written == 100_000
    assert bench.pool.out == bench.pool.dropped == 0


def test_bytes_behind_the_last_one_are_left_to_the_source(bench: Bench) -> None:
    bench.splice(1000)
    bench.push(pattern(1000) + b"next message")
    assert bench.received() == pattern(1000)
    assert bench.ends == [(1000, "")]
    assert bench.owner.events == [b"next message"]


def test_a_sink_that_is_full_stops_the_source_and_goes_on_later(bench: Bench) -> None:
    size = 8 << 20
    bench.splice(size)
    sent = pattern(size)
    at = bench.fill(sent)
    assert 0 < at < size
    assert bench.ends == []
    assert bench.source.fd not in bench.loop.readers
    assert bench.sink.fd in bench.loop.writers
    got = bench.received()
    assert got == sent[:at]
    assert bench.source.fd in bench.loop.readers
    assert bench.sink.fd not in bench.loop.writers
    while at < size:
        at += bench.fill(sent[at:])
        got += bench.received()
    assert got == sent
    assert bench.ends == [(size, "")]


def test_a_source_that_ends_too_early(bench: Bench) -> None:
    bench.splice(1000)
    bench.push(pattern(400))
    bench.sender.close()
    assert bench.received() == pattern(400)
    assert bench.ends == [(400, "source")]
    assert bench.pool.out == 0
    bench.loop.run()
    assert bench.owner.events == ["end"]  # the source reads again, and sees it too


def test_a_sink_that_fails(bench: Bench) -> None:
    bench.splice(1000)
    bench.receiver.close()
    bench.push(pattern(400))
    assert bench.ends == [(0, "sink")]
    assert bench.pool.out == 0
    assert bench.pool.dropped == 1  # a pipe with bytes in it is never used again


def test_a_splice_that_is_cancelled_says_nothing_and_gives_all_back(bench: Bench) -> None:
    splice = bench.splice(8 << 20)
    bench.fill(pattern(8 << 20))
    assert bench.sink.fd in bench.loop.writers
    splice.cancel()
    splice.cancel()
    assert bench.ends == []
    assert not splice.running
    assert bench.pool.out == 0
    assert bench.sink.fd not in bench.loop.writers
    assert bench.source.fd in bench.loop.readers
    assert not bench.source.read_disabled
    assert bench.source.state == bench.sink.state == OPEN
    bench.loop.run()
    assert bench.owner.events  # it reads as before


def test_a_splice_that_is_cancelled_before_anything_came(bench: Bench) -> None:
    bench.splice(10).cancel()
    assert bench.pool.dropped == 0
    bench.push(b"x")
    assert bench.owner.events == [b"x"]


def test_it_knows_when_it_last_moved_something(bench: Bench) -> None:
    splice = bench.splice(1000)
    began = splice.last_moved
    bench.loop.advance(5)
    assert splice.last_moved == began
    bench.push(b"x")
    assert splice.last_moved == began + 5


def test_pipes_are_used_again_and_not_without_end() -> None:
    pool = CountingPool()
    pipes = [pool.take() for _ in range(40)]
    for pipe in pipes:
        assert pipe is not None
        assert pipe[2] >= 4096
        pool.give_back(pipe, empty=True)
    assert len(pool._idle) == 32
    again = pool.take()
    assert again in pipes
    assert again is not None
    pool.give_back(again, empty=True)
    pool.close()

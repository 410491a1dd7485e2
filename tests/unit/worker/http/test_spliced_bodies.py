"""Large bodies that go from socket to socket: real sockets below the whole data plane."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.unit.worker.proxy import Proxy, head_and_body

SIZE = 3 << 20


def pattern(size: int = SIZE) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


class Real:
    """A proxy whose client and origin are socket pairs."""

    def __init__(self, **options: Any) -> None:
        self.proxy = Proxy(splice=True, **options)
        self.client, ours = socket.socketpair()
        ours.setblocking(False)
        self.client.setblocking(False)
        self.origin, self._upstream = socket.socketpair()
        self.origin.setblocking(False)
        self.proxy.dispatcher.new_socket = self._new_socket
        self.proxy.accept(ours)
        self.open = [self.client, self.origin, ours, self._upstream]

    def _new_socket(self, family: int, kind: int) -> socket.socket:
        return cast(socket.socket, Connected(self._upstream))

    def read(self, sock: socket.socket) -> bytes:
        """What is there now."""
        data = b""
        while True:
            self.proxy.loop.run()
            try:
                piece = sock.recv(1 << 20)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece

    def send(self, sock: socket.socket, data: bytes, reader: socket.socket) -> bytes:
        """Send all of it while the other side reads; gives what that got."""
        got = b""
        while data:
            try:
                data = data[sock.send(data) :]
            except BlockingIOError:
                got += self.read(reader)
        return got + self.read(reader)

    def close(self) -> None:
        self.proxy.listener.close()
        for host in self.proxy.cluster.hosts:
            host.pool.close_idle()
        for sock in self.open:
            sock.close()
        assert self.proxy.events_left() == {}


class Connected:
    """A connected Unix socket that takes a connect and TCP's options."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if level == socket.SOL_SOCKET:
            self._sock.setsockopt(level, option, value)

    def connect_ex(self, address: Any) -> int:
        return 0

    def getsockname(self) -> tuple[str, int]:
        return ("10.0.0.1", 40000)


@pytest.fixture
def real() -> Iterator[Real]:
    made = Real()
    yield made
    made.close()


def test_a_large_response_is_spliced(real: Real) -> None:
    real.client.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    real.proxy.loop.run()
    assert real.read(real.origin).startswith(b"GET / HTTP/1.1")
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE
    got = real.send(real.origin, head + pattern(), real.client)
    assert head_and_body(got)[2] == pattern()
    (info,) = real.proxy.log.infos
    assert info.bytes_sent == SIZE
    assert real.proxy.manager.pipes._idle  # a pipe was used
    real.client.send(b"GET /again HTTP/1.1\r\nhost: h\r\n\r\n")
    assert real.read(real.origin).startswith(b"GET /again HTTP/1.1")
    assert real.proxy.cluster.stats.upstream_cx_total == 1


def test_a_large_request_is_spliced(real: Real) -> None:
    head = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % SIZE
    got = real.send(real.client, head, real.origin)
    got += real.send(real.client, pattern(), real.origin)
    assert head_and_body(got)[2] == pattern()
    assert real.proxy.manager.pipes._idle
    answer = real.send(real.origin, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", real.client)
    assert answer.endswith(b"ok")
    (info,) = real.proxy.log.infos
    assert info.bytes_received == SIZE
    real.client.send(b"GET /again HTTP/1.1\r\nhost: h\r\n\r\n")
    assert real.read(real.origin).startswith(b"GET /again HTTP/1.1")


@pytest.mark.parametrize("ending", ["client", "origin"])
def test_a_spliced_response_that_is_cut_short_leaves_nothing(real: Real, ending: str) -> None:
    real.client.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    real.proxy.loop.run()
    real.read(real.origin)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE
    got = real.send(real.origin, head + pattern(200_000), real.client)
    (real.client if ending == "client" else real.origin).close()
    if ending == "client":
        for _ in range(3):
            try:
                real.origin.send(pattern(100_000))
            except OSError:
                break
            real.proxy.loop.run()
    real.proxy.loop.advance(3)
    assert len(head_and_body(got)[2]) == 200_000
    (info,) = real.proxy.log.infos
    assert info.bytes_sent >= 200_000
    assert not real.proxy.listener.connections
    assert real.proxy.upstream_left() == {}
    assert real.proxy.events_left() == {}


@pytest.mark.parametrize("ending", ["client", "origin"])
def test_a_spliced_request_that_is_cut_short_leaves_nothing(real: Real, ending: str) -> None:
    head = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % SIZE
    real.send(real.client, head, real.origin)
    got = real.send(real.client, pattern(200_000), real.origin)
    assert len(got) == 200_000
    (real.client if ending == "client" else real.origin).close()
    if ending == "origin":
        for _ in range(3):
            try:
                real.client.send(pattern(100_000))
            except OSError:
                break
            real.proxy.loop.run()
        assert real.read(real.client).startswith(b"HTTP/1.1 503 ")
        real.client.close()
    real.proxy.loop.advance(3)
    assert len(real.proxy.log.infos) == 1
    assert not real.proxy.listener.connections
    assert real.proxy.upstream_left() == {}
    assert real.proxy.events_left() == {}


def test_a_body_that_moves_is_not_idle() -> None:
    """A regression: a transfer longer than the stream idle timeout was cut off when it was spliced."""
    real = Real(hcm={"stream_idle_timeout": "10s"})
    real.client.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    real.proxy.loop.run()
    real.read(real.origin)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (100_000 * 10)
    got = real.send(real.origin, head, real.client)
    for _ in range(10):
        real.proxy.loop.advance(8)
        got += real.send(real.origin, pattern(100_000), real.client)
    assert len(head_and_body(got)[2]) == 1_000_000
    real.close()


def test_a_body_that_stops_moving_is_idle() -> None:
    real = Real(hcm={"stream_idle_timeout": "10s"})
    real.client.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    real.proxy.loop.run()
    real.read(real.origin)
    real.send(real.origin, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE + pattern(100_000), real.client)
    real.proxy.loop.advance(21)
    assert real.proxy.log.infos[0].response_code_details == "stream_idle_timeout"
    real.client.close()
    real.proxy.loop.advance(2)
    assert not real.proxy.listener.connections
    assert real.proxy.upstream_left() == {}
    real.close()

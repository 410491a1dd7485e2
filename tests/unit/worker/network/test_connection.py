"""A connection's buffer, watermarks, read-disabling and the states of its end."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.fakes import FakeLoop, FakeSocket, Network, Peer
from workerproxy.worker.network import connection as module
from workerproxy.worker.network.connection import CLOSED, FLUSHING, LINGERING, OPEN, Connection
from workerproxy.worker.network.dispatcher import Dispatcher, TimerQueue


class Owner:
    """Keeps what a connection tells it."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_data(self, data: bytes) -> None:
        self.events.append(data)

    def on_end_of_data(self) -> None:
        self.events.append("end")

    def on_connection_lost(self, error: OSError) -> None:
        self.events.append(error.errno)

    def on_closed(self) -> None:
        self.events.append("closed")

    def on_above_high(self) -> None:
        self.events.append("high")

    def on_below_low(self) -> None:
        self.events.append("low")


class Bench:
    """One connection with its owner and peer."""

    def __init__(self, limit: int = 100, window: int | None = None) -> None:
        self.loop = FakeLoop()
        self.network = Network(self.loop)
        self.dispatcher = Dispatcher(cast(Any, self.loop), self.loop.time)
        self.owner = Owner()
        self.sock = FakeSocket(self.network)
        self.peer: Peer = self.sock.peer
        self.peer.window = window
        self.connection = Connection(cast(Any, self.sock), self.dispatcher, self.owner, limit)
        self.linger: TimerQueue[Connection] = self.dispatcher.timers(1.0, Connection.on_linger_timeout)
        self.connection.start_reading()

    @property
    def events(self) -> list[Any]:
        return self.owner.events


# reading


def test_each_read_is_handed_on_and_counted() -> None:
    bench = Bench()
    bench.peer.send(b"ab", b"cd")
    assert bench.events == [b"ab", b"cd"]
    assert bench.connection.bytes_read == 4


def test_one_read_is_bounded() -> None:
    bench = Bench()
    bench.peer.send(b"x" * (module.READ_SIZE + 1))
    assert [len(data) for data in bench.events] == [module.READ_SIZE, 1]


def test_fin_is_told_once_and_no_event_stays_registered() -> None:
    bench = Bench()
    bench.peer.fin()
    assert bench.events == ["end"]
    assert not bench.loop.readers
    assert bench.connection.state == OPEN


def test_a_reset_closes_and_tells_why() -> None:
    bench = Bench()
    bench.peer.reset()
    assert bench.events == [errno.ECONNRESET]
    assert bench.connection.state == CLOSED
    assert bench.sock.is_closed


def test_read_disable_nests() -> None:
    bench = Bench()
    bench.connection.read_disable()
    bench.connection.read_disable()
    bench.peer.send(b"a")
    assert bench.events == []
    bench.connection.read_enable()
    bench.loop.run()
    assert bench.events == []
    assert bench.connection.read_disabled
    bench.connection.read_enable()
    bench.loop.run()
    assert bench.events == [b"a"]


def test_reading_may_be_disabled_before_it_starts() -> None:
    bench = Bench()
    other = Connection(cast(Any, FakeSocket(bench.network)), bench.dispatcher, bench.owner, 100)
    other.read_disable()
    other.start_reading()
    assert other.fd not in bench.loop.readers
    other.read_enable()
    assert other.fd in bench.loop.readers


def test_reading_does_not_come_back_after_fin() -> None:
    bench = Bench()
    bench.connection.read_disable()
    bench.connection.read_enable()
    bench.peer.fin()
    bench.connection.read_disable()
    bench.connection.read_enable()
    bench.loop.run()
    assert bench.events == ["end"]


def test_a_fault_in_the_owner_costs_this_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    def fails(data: bytes) -> None:
        raise ZeroDivisionError

    bench.owner.on_data = fails  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        bench.peer.send(b"a")
    assert bench.connection.state == CLOSED
    assert bench.events == [None]
    assert "ZeroDivisionError" in caplog.text


# writing


def test_a_write_goes_out_at_once() -> None:
    bench = Bench()
    bench.connection.write(b"ab")
    bench.connection.write_many([b"cd", b"ef"])
    assert bench.peer.received == b"abcdef"
    assert bench.connection.bytes_written == 6
    assert not bench.loop.writers


def test_what_the_socket_does_not_take_waits_for_it() -> None:
    bench = Bench(window=3)
    bench.connection.write(b"abcde")
    bench.connection.write(b"fg")
    assert bench.peer.received == b"abc"
    assert bench.connection.out_size == 4
    bench.peer.open_window(2)
    assert bench.peer.received == b"abcde"
    bench.peer.open_window(None)
    assert bench.peer.received == b"abcdefg"
    assert bench.connection.out_size == 0
    assert bench.connection.bytes_written == 7
    assert not bench.loop.writers


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 7, 5000, 20_000]), min_size=1, max_size=5), max_size=6),
    st.lists(st.integers(0, 30_000), max_size=8),
)
def test_bytes_keep_their_order_however_the_socket_takes_them(writes: list[list[int]], windows: list[int]) -> None:
    bench = Bench(limit=1 << 30, window=0)
    sent = b""
    for number, sizes in enumerate(writes):
        chunks = [bytes([number * 16 + at]) * size for at, size in enumerate(sizes)]
        sent += b"".join(chunks)
        if windows:
            bench.peer.open_window(windows.pop())
        bench.connection.write_many(chunks)
        assert bench.connection.out_size + len(bench.peer.received) == len(sent)
    for window in windows:
        bench.peer.open_window(window)
    bench.peer.open_window(None)
    assert bench.peer.received == sent
    assert bench.connection.bytes_written == len(sent)
    assert not bench.loop.writers


def test_more_chunks_than_one_vector_takes() -> None:
    bench = Bench(limit=1 << 30, window=0)
    for number in range(200):
        bench.connection.write(b"%03d" % number)
    bench.connection.write_many([b"x" * 200] * 200)
    bench.peer.open_window(None)
    assert bench.peer.received == b"".join(b"%03d" % number for number in range(200)) + b"x" * 40_000


def test_a_failed_write_closes_and_tells_why() -> None:
    bench = Bench()
    bench.peer.send_error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    bench.connection.write(b"a")
    assert bench.events == [errno.EPIPE]
    assert bench.connection.state == CLOSED


@pytest.mark.parametrize("size", [1, 20_000])
def test_a_write_that_fails_later_closes_and_tells_why(size: int) -> None:
    bench = Bench(limit=1 << 30, window=1)
    bench.connection.write_many([b"a" * size, b"b" * size])
    bench.peer.send_error = ConnectionResetError(errno.ECONNRESET, "reset")
    bench.loop.run()
    assert bench.events == [errno.ECONNRESET]
    assert bench.connection.out_size == 0


def test_nothing_is_written_on_a_closed_connection() -> None:
    bench = Bench()
    bench.connection.close()
    bench.connection.write(b"a")
    bench.connection.write_many([b"a" * 20_000, b"b"])
    assert bench.peer.received == b""
    assert bench.events == []


# watermarks


def test_the_owner_hears_of_a_full_and_an_emptied_buffer_once_each() -> None:
    bench = Bench(limit=100, window=0)
    bench.connection.write(b"x" * 100)
    assert bench.events == []  # at the limit is not above it
    bench.connection.write(b"x")
    bench.connection.write(b"x" * 50)
    assert bench.events == ["high"]
    assert bench.connection.above_high
    bench.peer.open_window(100)
    assert bench.events == ["high"]
    bench.peer.open_window(1)
    assert bench.events == ["high", "low"]  # half of the limit is left
    assert not bench.connection.above_high
    bench.connection.write(b"x" * 51)
    assert bench.events == ["high", "low", "high"]


def test_a_large_vector_is_above_the_limit_once() -> None:
    bench = Bench(limit=100, window=10)
    bench.connection.write_many([b"x" * 10_000, b"y" * 10_000])
    assert bench.events == ["high"]
    assert bench.connection.out_size == 19_990


def test_the_owner_may_close_when_the_buffer_is_full() -> None:
    bench = Bench(limit=100, window=10)
    bench.owner.on_above_high = bench.connection.close  # type: ignore[method-assign]
    bench.connection.write_many([b"x" * 10_000, b"y" * 10_000])
    assert bench.connection.state == CLOSED
    assert bench.connection.out_size == 0


def test_the_owner_may_close_or_write_when_the_buffer_has_emptied() -> None:
    bench = Bench(limit=100, window=0)
    bench.owner.on_below_low = lambda: bench.connection.write(b"more")  # type: ignore[method-assign]
    bench.connection.write(b"x" * 101)
    bench.peer.open_window(None)
    assert bench.peer.received == b"x" * 101 + b"more"
    bench.peer.window = 0
    bench.owner.on_below_low = bench.connection.close  # type: ignore[method-assign]
    bench.connection.write(b"x" * 101)
    bench.peer.open_window(60)
    assert bench.connection.state == CLOSED


# the end


def test_close_loses_what_is_not_written_and_tells_nobody() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"lost")
    bench.connection.close()
    bench.connection.close()
    assert bench.events == []
    assert bench.sock.is_closed
    assert not bench.loop.readers
    assert not bench.loop.writers


def test_reset_sends_rst() -> None:
    bench = Bench()
    bench.connection.reset()
    assert bench.peer.got_reset
    assert not bench.peer.got_fin


def test_closing_waits_for_the_peers_fin() -> None:
    bench = Bench()
    bench.connection.close_after_flush(bench.linger)
    assert bench.connection.state == LINGERING
    assert bench.peer.got_fin
    assert not bench.sock.is_closed
    bench.peer.send(b"ignored")
    bench.peer.fin()
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_closing_waits_no_longer_than_the_timeout() -> None:
    bench = Bench()
    bench.connection.close_after_flush(bench.linger)
    bench.loop.advance(1.1)
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_closing_flushes_first_and_sends_fin_after_the_last_byte() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"abc")
    bench.connection.close_after_flush(bench.linger)
    assert bench.connection.state == FLUSHING
    bench.connection.write(b"too late")
    bench.peer.open_window(2)
    assert not bench.peer.got_fin
    bench.peer.open_window(None)
    assert bench.peer.received == b"abc"
    assert bench.connection.state == LINGERING
    assert bench.peer.got_fin


def test_a_peer_that_takes_bytes_slowly_is_not_cut_off() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"x" * 10)
    bench.connection.close_after_flush(bench.linger)
    for _ in range(9):
        bench.loop.advance(0.9)
        bench.peer.open_window(1)
    assert not bench.sock.is_closed
    bench.peer.open_window(1)
    assert bench.peer.received == b"x" * 10
    assert bench.connection.state == LINGERING


def test_a_peer_that_takes_nothing_is_cut_off() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"x")
    bench.connection.close_after_flush(bench.linger)
    bench.loop.advance(1.1)
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_without_a_timeout_it_closes_as_soon_as_all_is_written() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"x")
    bench.connection.close_after_flush(None)
    assert not bench.sock.is_closed
    bench.peer.open_window(None)
    assert bench.sock.is_closed
    assert bench.peer.received == b"x"
    assert bench.events == ["closed"]


def test_without_waiting_for_fin_it_closes_as_soon_as_all_is_written() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"x")
    bench.connection.close_after_flush(bench.linger, wait_for_fin=False)
    assert not bench.sock.is_closed
    bench.peer.open_window(None)
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_without_waiting_for_fin_a_peer_that_takes_nothing_is_cut_off_too() -> None:
    """A regression: it held its descriptor for as long as it liked."""
    bench = Bench(window=0)
    bench.connection.write(b"x")
    bench.connection.close_after_flush(bench.linger, wait_for_fin=False)
    bench.loop.advance(1.1)
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_an_empty_chunk_that_has_to_wait_does_not_stop_the_worker() -> None:
    """A regression: the write-ready callback never returned."""
    bench = Bench(limit=1 << 30, window=1)
    bench.connection.write_many([b"x" * 20_000, b""])
    bench.connection.write(b"")
    bench.peer.open_window(None)
    assert len(bench.peer.received) == 20_000
    assert not bench.loop.writers


@pytest.mark.parametrize("disabled", [1, 2])
def test_closing_reads_on_even_if_reading_was_disabled(disabled: int) -> None:
    bench = Bench()
    for _ in range(disabled):
        bench.connection.read_disable()
    bench.connection.close_after_flush(bench.linger)
    bench.peer.fin()
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_the_peers_fin_while_flushing_ends_the_wait_after_it() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"x")
    bench.connection.close_after_flush(bench.linger)
    bench.peer.fin()
    assert not bench.sock.is_closed
    bench.peer.open_window(None)
    assert bench.peer.received == b"x"
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_a_failure_while_closing_is_a_close() -> None:
    bench = Bench(window=0)
    bench.connection.write(b"x")
    bench.connection.close_after_flush(bench.linger)
    bench.peer.reset()
    assert bench.sock.is_closed
    assert bench.events == ["closed"]
    bench.loop.advance(5)
    assert bench.events == ["closed"]


def test_a_peer_that_is_gone_already_when_fin_is_sent() -> None:
    bench = Bench()
    bench.peer.send_error = OSError(errno.ENOTCONN, "not connected")
    bench.connection.close_after_flush(bench.linger)
    assert bench.sock.is_closed
    assert bench.events == ["closed"]


def test_closing_twice_is_closing_once() -> None:
    bench = Bench()
    bench.connection.close_after_flush(bench.linger)
    bench.connection.close_after_flush(None)
    assert bench.connection.state == LINGERING
    bench.connection.close()
    bench.connection.close_after_flush(bench.linger)
    bench.loop.advance(5)
    assert bench.events == []


def test_what_a_connection_is_doing_is_readable() -> None:
    bench = Bench(window=0)
    assert repr(bench.connection) == f"<Connection fd={bench.sock.fd} open reading out=0>"
    bench.connection.write(b"x")
    bench.connection.read_disable()
    assert repr(bench.connection) == f"<Connection fd={bench.sock.fd} open paused out=1>"


def test_connect_error_reads_the_sockets_error() -> None:
    bench = Bench()
    bench.sock.connect_result = errno.ECONNREFUSED
    assert module.connect_error(cast(socket.socket, bench.sock)) == errno.ECONNREFUSED
    assert module.errno_text(errno.ECONNREFUSED) == "Connection refused"

"""Accepting: how many at once, resting when descriptors run out, and what stays after a stop."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any, cast

import pytest

from tests.unit.worker.fakes import FakeListeningSocket, FakeLoop, Network
from workerproxy.worker.network.dispatcher import Dispatcher
from workerproxy.worker.network.listener import ActiveListener, address_text


class Bench:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.network = Network(self.loop)
        self.sock = FakeListeningSocket(self.network)
        self.accepted: list[object] = []
        dispatcher = Dispatcher(cast(Any, self.loop), self.loop.time)
        self.listener = ActiveListener(cast(Any, self.sock), dispatcher, lambda sock, peer: self.accepted.append(peer))

    def arrive(self, count: int) -> None:
        for number in range(count):
            self.sock.arrive(number)


def test_connections_that_arrive_are_accepted_in_order() -> None:
    bench = Bench()
    bench.arrive(3)
    bench.loop.run()
    assert bench.accepted == []
    bench.listener.start()
    bench.listener.start()
    bench.arrive(200)
    bench.loop.run()
    assert bench.accepted == [*range(3), *range(200)]
    assert repr(bench.listener) == "<ActiveListener 10.0.0.1:80 accepting>"


def test_accepted_sockets_inherit_no_delay() -> None:
    bench = Bench()
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in bench.sock.options


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EBADMSG])
def test_accepting_rests_when_it_fails_for_want_of_something(number: int, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.listener.start()
    bench.sock.fail(number)
    bench.arrive(1)
    with caplog.at_level(logging.CRITICAL):
        bench.loop.run()
        assert bench.accepted == []
        assert not bench.loop.readers
        bench.loop.advance(0.2)
    assert bench.accepted == [0]


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.ENETDOWN])
def test_a_client_that_has_left_the_queue_stops_nobody(number: int) -> None:
    bench = Bench()
    bench.listener.start()
    bench.sock.fail(number)
    bench.arrive(2)
    bench.loop.run()
    assert bench.accepted == [0, 1]
    assert bench.loop.readers


def test_a_stop_accepts_what_is_queued_and_no_more() -> None:
    bench = Bench()
    bench.listener.start()
    bench.arrive(1000)
    bench.listener.stop()
    assert len(bench.accepted) == 1000
    bench.arrive(1)
    bench.loop.run()
    assert len(bench.accepted) == 1000
    assert not bench.sock.is_closed
    bench.listener.stop()
    bench.listener.start()
    bench.loop.run()
    assert len(bench.accepted) == 1001


def test_a_stop_is_not_ended_by_a_client_that_has_left_the_queue() -> None:
    """A regression: what was queued behind it was not accepted."""
    bench = Bench()
    bench.listener.start()
    bench.arrive(1)
    bench.sock.fail(errno.ECONNABORTED)
    bench.arrive(2)
    bench.listener.stop()
    assert bench.accepted == [0, 0, 1]


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_stop_while_accepting_rests_is_not_undone(when: str, caplog: pytest.LogCaptureFixture) -> None:
    """A regression: when the rest was over it accepted again."""
    bench = Bench()
    bench.listener.start()
    bench.sock.fail(errno.EMFILE)
    with caplog.at_level(logging.CRITICAL):
        if when == "before":
            bench.loop.run()
        bench.listener.stop()
        bench.arrive(1)
        bench.loop.advance(1)
    assert bench.accepted == []
    assert not bench.loop.readers


def test_a_start_after_a_rest_registers_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.listener.start()
    bench.sock.fail(errno.EMFILE)
    with caplog.at_level(logging.CRITICAL):
        bench.loop.run()
        bench.listener.stop()
        bench.listener.start()
        bench.arrive(1)
        bench.loop.advance(1)
    assert bench.accepted == [0]


def test_a_close_while_accepting_rests(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.listener.start()
    bench.sock.fail(errno.EMFILE)
    with caplog.at_level(logging.CRITICAL):
        bench.loop.run()
        bench.listener.close()
        bench.loop.advance(1)
    assert bench.sock.is_closed
    assert not bench.loop.readers


@pytest.mark.parametrize(
    ("family", "address", "text"),
    [
        (socket.AF_INET, ("1.2.3.4", 5), "1.2.3.4:5"),
        (socket.AF_INET6, ("::1", 5, 0, 0), "[::1]:5"),
        (socket.AF_UNIX, "/run/x", "/run/x"),
        (socket.AF_UNIX, b"\0name", "@name"),
        (socket.AF_UNIX, "", ""),
    ],
)
def test_addresses_are_printed_as_envoy_prints_them(family: int, address: object, text: str) -> None:
    assert address_text(family, address) == text

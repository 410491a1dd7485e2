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


def test_however_often_it_is_tried_the_log_says_when_a_rest_begins_and_how_long_it_lasted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.listener.start()
    tries = 30
    for _ in range(tries):
        bench.sock.fail(errno.EMFILE)
    bench.arrive(2)
    with caplog.at_level(logging.INFO, "workerproxy"):
        bench.loop.advance(2.95)
        assert [record.getMessage() for record in caplog.records] == [
            "accepting on 10.0.0.1:80 rests: Too many open files"
        ]
        assert len(bench.sock.backlog) == 2  # it was tried ten times a second and no more often
        bench.loop.advance(0.1)
        assert bench.accepted == [0, 1]
        bench.loop.advance(3)
    assert [record.getMessage() for record in caplog.records[1:]] == ["accepting on 10.0.0.1:80 goes on after 3.0 s"]
    assert len(bench.loop.waiting()) == 0


def test_one_that_gets_in_now_and_then_does_not_end_a_rest(caplog: pytest.LogCaptureFixture) -> None:
    """At the limit each connection that closes lets another one in."""
    bench = Bench()
    bench.listener.start()
    with caplog.at_level(logging.INFO, "workerproxy"):
        for _ in range(20):
            bench.sock.fail(errno.EMFILE)
            bench.arrive(1)
            bench.loop.advance(0.5)
        assert len(bench.accepted) == 20
        assert len(caplog.records) == 1
        bench.loop.advance(2)
    assert caplog.records[1].getMessage() == "accepting on 10.0.0.1:80 goes on after 9.6 s"


def test_a_rest_is_over_only_when_there_are_descriptors_again(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody comes any more: that alone says nothing."""
    bench = Bench()
    bench.listener.start()
    bench.sock.exhausted = True
    bench.arrive(1)
    with caplog.at_level(logging.INFO, "workerproxy"):
        bench.loop.run()
        bench.sock.backlog.clear()
        bench.loop.advance(10)
        assert len(caplog.records) == 1
        bench.sock.exhausted = False
        bench.loop.advance(2)
    assert caplog.records[1].getMessage().startswith("accepting on 10.0.0.1:80 goes on after ")


def test_a_later_want_of_descriptors_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.listener.start()
    with caplog.at_level(logging.INFO, "workerproxy"):
        for _ in range(2):
            bench.sock.fail(errno.EMFILE)
            bench.loop.advance(10)
    assert len(caplog.records) == 4


def test_what_cannot_be_accepted_at_a_stop_is_said(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.listener.start()
    bench.sock.fail(errno.EMFILE)
    bench.arrive(1)
    with caplog.at_level(logging.ERROR, "workerproxy"):
        bench.listener.stop()
    assert caplog.records[0].getMessage() == "what is queued on 10.0.0.1:80 is left there: accepting fails"
    assert bench.accepted == []


def test_a_stop_during_a_rest_tries_once_more(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.listener.start()
    bench.sock.fail(errno.EMFILE)
    bench.arrive(3)
    with caplog.at_level(logging.CRITICAL):
        bench.loop.run()
        bench.listener.stop()
    assert bench.accepted == [0, 1, 2]


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

"""Accepting connections, and resting when there are no descriptors left."""

from __future__ import annotations

import errno
import socket
from typing import Any, cast

from tests.unit.worker.fakes import FIRST_FD, FakeLoop
from workerproxy.worker.network.dispatcher import Dispatcher
from workerproxy.worker.network.listener import ActiveListener


class ListeningSocket:
    """Gives what is in ``queue``: connections, or the number of an error; then there is nothing to accept."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.queue: list[Any] = []
        self.closed = False

    def fileno(self) -> int:
        return -1 if self.closed else FIRST_FD

    def accept(self) -> tuple[Any, object]:
        if not self.queue:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        found = self.queue.pop(0)
        if isinstance(found, int):
            raise OSError(found, "no")
        return found, ("10.0.0.2", 4000)

    def getsockname(self) -> tuple[str, int]:
        return ("10.0.0.1", 80)

    @property
    def is_readable(self) -> bool:
        return bool(self.queue)

    @property
    def is_writable(self) -> bool:
        return False

    def setblocking(self, flag: bool) -> None: ...

    def setsockopt(self, level: int, option: int, value: int) -> None: ...

    def close(self) -> None:
        self.closed = True


class Bench:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.sock = ListeningSocket()
        self.loop.sockets[self.sock.fileno()] = cast(Any, self.sock)
        self.accepted: list[Any] = []
        dispatcher = Dispatcher(cast(Any, self.loop), self.loop.time)
        self.listener = ActiveListener(cast(Any, self.sock), dispatcher, lambda sock, peer: self.accepted.append(sock))
        self.listener.start()

    def arrive(self, *what: Any) -> None:
        self.sock.queue += what
        self.loop.run()

    def is_watched(self) -> bool:
        return FIRST_FD in self.loop.readers


def connection() -> ListeningSocket:
    return ListeningSocket()


def test_all_that_is_queued_is_accepted() -> None:
    bench = Bench()
    three = [connection() for _ in range(3)]
    bench.arrive(*three)
    assert bench.accepted == three


def test_a_connection_that_is_gone_already_costs_nothing() -> None:
    bench = Bench()
    bench.arrive(errno.ECONNABORTED)
    assert bench.is_watched()


def test_without_descriptors_accepting_rests_and_goes_on() -> None:
    bench = Bench()
    late = connection()
    bench.arrive(errno.EMFILE, late)
    assert not bench.is_watched()
    bench.loop.advance(0.2)
    assert bench.is_watched()
    assert bench.accepted == [late]


def test_a_listener_stopped_while_it_rests_stays_stopped() -> None:
    bench = Bench()
    bench.arrive(errno.EMFILE)
    bench.listener.stop()
    bench.loop.advance(0.2)
    assert not bench.is_watched()


def test_a_listener_that_runs_out_of_descriptors_while_stopping_stays_stopped() -> None:
    bench = Bench()
    bench.sock.queue += [connection(), errno.EMFILE]
    bench.listener.stop()
    bench.loop.advance(0.2)
    assert not bench.is_watched()


def test_a_listener_closed_while_it_rests_stays_closed() -> None:
    bench = Bench()
    bench.arrive(errno.EMFILE)
    bench.listener.close()
    bench.loop.advance(0.2)
    assert not bench.is_watched()
    assert bench.sock.closed

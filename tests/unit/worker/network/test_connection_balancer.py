"""``exact_balance``: several balancers in one process, over real sockets and one board."""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import pytest

from tests.unit.worker.fakes import FakeLoop
from workerproxy.control.board import BoardOwner, LimitsBoard, board_bytes
from workerproxy.worker.network.connection_balancer import ConnectionBalancer, Share

SLOT = 17
ROWS = 8  # of the board; the workers' are the first ones
USED = SLOT + 256


class Worker:
    """A balancer, and the connections of listener ``l`` that ended up here."""

    def __init__(self, lab: Lab, row: int) -> None:
        self.lab = lab
        self.row = row
        self.loop = FakeLoop()
        self.connections: list[socket.socket] = []
        self.balancer = ConnectionBalancer(
            cast(Any, self.loop), LimitsBoard(lab.memory, row, ROWS), lab.board_fd, self._take_over
        )
        self.share: Share = self.balancer.share("l", SLOT)
        self.share.begin(0)

    def _take_over(self, name: str, sock: socket.socket) -> None:
        assert name == "l"
        self.share.opened()
        self.connections.append(sock)

    def accept(self, count: int = 1) -> None:
        for _ in range(count):
            ours, theirs = socket.socketpair()
            self.lab.clients.append(ours)
            if not self.share.hand_over(theirs):
                self.connections.append(theirs)

    def close(self, count: int) -> None:
        for _ in range(count):
            self.connections.pop().close()
            self.share.closed()

    def run(self) -> None:
        self.loop.run()

    def die(self) -> None:
        """All that a process has is gone, and the main process has noticed."""
        self.balancer.others, others = {}, self.balancer.others
        for sock in (*others.values(), *self.balancer._receiving.values(), *self.connections):
            sock.close()
        self.balancer._receiving.clear()
        self.lab.owner.clear_row(self.row, USED)


class Lab:
    """The main process's side. ``queues``: row -> both ends of where its worker is sent connections."""

    def __init__(self) -> None:
        self.board_fd = os.memfd_create("board")
        os.ftruncate(self.board_fd, board_bytes(ROWS))
        self.memory = mmap.mmap(self.board_fd, board_bytes(ROWS))
        self.owner = BoardOwner(self.memory)
        self.clients: list[socket.socket] = []
        self.queues: dict[int, tuple[socket.socket, socket.socket]] = {}
        self.workers: dict[int, Worker] = {}

    def start(self, count: int) -> list[Worker]:
        made = [self.add() for _ in range(count)]
        self.group()
        return made

    def add(self) -> Worker:
        row = self.owner.take_row()
        if row not in self.queues:
            self.queues[row] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker = self.workers[row] = Worker(self, row)
        return worker

    def group(self, *members: Worker, told: tuple[Worker, ...] = ()) -> None:
        """Tell the members, or all, and whoever else is to be told."""
        members = members or tuple(self.workers.values())
        for worker in (*members, *told):
            sending = [self.queues[member.row][1].dup() for member in members]
            worker.balancer.join([member.row for member in members], self.queues[worker.row][0].dup(), sending)

    def run(self) -> None:
        for worker in self.workers.values():
            worker.run()

    def counts(self) -> list[int]:
        return [len(worker.connections) for worker in self.workers.values()]

    def close(self) -> None:
        for worker in self.workers.values():
            for sock in worker.connections:
                sock.close()
            worker.balancer.close()
        for pair in self.queues.values():
            for sock in pair:
                sock.close()
        for sock in self.clients:
            sock.close()
        os.close(self.board_fd)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


@pytest.mark.parametrize("prompt", [True, False])
def test_none_of_four_workers_has_more_than_one_above_the_mean_of_50_connections(lab: Lab, prompt: bool) -> None:
    """Whether what is handed over is taken at once, or all of it is still on the way."""
    workers = lab.start(4)
    for number in range(50):
        workers[number % 2].accept()
        if prompt:
            lab.run()
    lab.run()
    assert sorted(lab.counts()) == [12, 12, 13, 13]
    assert workers[0].share.loads() == dict(enumerate(lab.counts()))
    assert repr(workers[0].balancer) == "<ConnectionBalancer row 0, others [1, 2, 3]>"
    assert repr(workers[0].share) == f"<Share l {lab.counts()[0]} open, loads {workers[0].share.loads()}>"


def test_connections_that_close_make_room_where_they_were(lab: Lab) -> None:
    workers = lab.start(4)
    workers[0].accept(40)
    lab.run()
    workers[2].close(7)
    workers[3].close(3)
    workers[0].accept(10)
    lab.run()
    assert lab.counts() == [10, 10, 10, 10]


def test_a_connection_that_was_handed_over_is_the_one_that_was_accepted(lab: Lab) -> None:
    first, second = lab.start(2)
    first.accept(2)
    second.run()
    second.connections[0].sendall(b"hello")
    assert lab.clients[1].recv(9) == b"hello"


def test_the_worker_itself_comes_first_then_the_lowest_row(lab: Lab) -> None:
    workers = lab.start(3)
    for expected in ([0, 0, 1], [1, 0, 1], [1, 1, 1], [1, 1, 2]):
        workers[2].accept()
        lab.run()
        assert lab.counts() == expected


def test_alone_or_without_a_group_it_serves_what_it_accepts(lab: Lab) -> None:
    worker = lab.add()
    worker.accept()
    lab.group()
    worker.accept()
    assert len(worker.connections) == 2
    assert worker.share.loads() == {0: 2}


def test_a_worker_that_does_not_know_the_listener_yet_is_sent_nothing(lab: Lab) -> None:
    first, second = lab.start(2)
    second.share.end()
    first.accept(4)
    lab.run()
    assert lab.counts() == [4, 0]
    second.share.begin(0)
    first.accept(4)
    lab.run()
    assert lab.counts() == [4, 4]


def test_a_worker_that_leaves_takes_what_was_sent_and_gets_nothing_more(lab: Lab) -> None:
    first, second, third = lab.start(3)
    first.accept(6)
    lab.group(first, second, told=(third,))
    assert len(third.connections) == 2
    third.accept()
    assert len(third.connections) == 3
    first.accept(6)
    lab.run()
    assert lab.counts() == [5, 5, 3]
    late = lab.queues[2][1].dup()  # somebody has not been told yet
    second.balancer.others[2] = late
    ours, theirs = socket.socketpair()
    assert second.balancer.send(2, 9, b"l", theirs)
    lab.clients += [ours, theirs]
    third.run()
    assert len(third.connections) == 4


def test_a_new_worker_gets_what_comes_until_it_has_as_many(lab: Lab) -> None:
    workers = lab.start(2)
    workers[0].accept(10)
    lab.run()
    lab.add()
    lab.group()
    workers[1].accept(5)
    lab.run()
    assert lab.counts() == [5, 5, 5]


def test_a_worker_that_died_is_sent_nothing_until_its_successor_is_there(lab: Lab) -> None:
    workers = lab.start(4)
    workers[0].accept(40)
    lab.run()
    workers[3].die()
    workers[0].accept(3)
    lab.run()
    assert lab.counts()[:3] == [11, 11, 11]
    lab.owner.free_row(3)
    lab.add()
    lab.group()
    workers[0].accept(11)
    lab.run()
    assert lab.counts() == [11, 11, 11, 11]


def test_what_was_sent_to_a_worker_that_died_is_taken_by_its_successor(lab: Lab) -> None:
    """The main process keeps both ends of the queue."""
    first, second = lab.start(2)
    first.accept(6)
    assert lab.counts() == [3, 0]
    second.die()
    lab.owner.free_row(1)
    lab.add()
    lab.group()
    lab.run()
    assert lab.counts() == [3, 3]
    first.accept(4)
    lab.run()
    assert lab.counts() == [5, 5]


def test_the_count_of_a_worker_that_dies_again_and_again_stays_right(lab: Lab) -> None:
    workers = lab.start(3)
    for _ in range(5):
        for _ in range(2):
            workers[0].accept(7)
            workers[2].accept(4)
            lab.run()
        workers[2].die()
        lab.owner.free_row(2)
        workers[2] = lab.add()
        lab.group()
        workers[1].accept(3)
        lab.run()
    first, second, third = lab.counts()
    assert workers[0].share.loads() == {0: first, 1: second, 2: third}
    workers[1].accept(2 * max(lab.counts()) - third - min(first, second))
    lab.run()
    assert max(lab.counts()) - min(lab.counts()) <= 1


def test_what_cannot_be_handed_over_is_served_where_it_was_accepted(lab: Lab) -> None:
    first, second = lab.start(2)
    first.balancer.others[1].close()
    first.accept(4)
    lab.run()
    assert lab.counts() == [4, 0]
    assert second.share.loads() == {0: 4, 1: 0}
    del first.balancer.others[1]


def test_full_queues_lose_nothing(lab: Lab) -> None:
    workers = lab.start(2)
    sender = workers[0].balancer.others[1]
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there can be
    workers[0].accept(100)
    taken = len(workers[0].connections)
    assert taken > 50
    lab.run()
    assert lab.counts() == [taken, 100 - taken]
    assert workers[0].share.loads() == dict(enumerate(lab.counts()))
    for _ in range(2 * taken - 100):
        workers[0].accept()
        lab.run()
    assert lab.counts() == [taken, taken]


def test_counters_that_wrap_around_do_no_harm(lab: Lab) -> None:
    first, second = lab.start(2)
    top = (1 << 31) - 2
    first.share._write(1, top, 0)
    second.share._write(0, 0, top)
    for _ in range(10):
        first.accept()
    assert first.share.loads() == {0: 5, 1: 5}
    lab.run()
    assert first.share.loads() == {0: 5, 1: 5}


def test_a_listener_whose_name_is_too_long_for_a_packet_is_served_here(lab: Lab) -> None:
    first, _ = lab.start(2)
    first.share._listener = b"l" * 5000
    first.accept(2)
    assert lab.counts() == [2, 0]


def test_a_connection_for_which_there_is_no_descriptor_waits(lab: Lab) -> None:
    first, second = lab.start(2)
    first.accept(4)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd) for fd in os.listdir("/proc/self/fd")) + 1
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, before[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            while True:
                fillers.append(os.dup(0))
        second.run()
        assert second.connections == []
        os.close(fillers.pop())
        second.loop.advance(0.2)
        assert len(second.connections) == 1  # and none was lost for want of room
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in fillers:
            os.close(fd)
    second.loop.advance(0.2)
    assert len(second.connections) == 2


def test_a_queue_that_nobody_can_write_to_any_more_is_closed(lab: Lab) -> None:
    worker = lab.add()
    receiving, sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker.balancer.join([worker.row], receiving, [sending])
    worker.run()
    assert receiving.fileno() == -1
    assert not worker.loop.readers


def test_a_second_copy_of_the_same_queue_is_closed(lab: Lab) -> None:
    (worker,) = lab.start(1)
    lab.group()
    assert len(worker.loop.readers) == 1


HOLDER = (
    "import fcntl, os, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 1, 17); print(flush=True); sys.stdin.read()"
)


def test_nobody_waits_long_for_a_lock_whose_holder_is_stopped(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = lab.start(2)
    argv = [sys.executable, "-c", HOLDER, str(lab.board_fd)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[lab.board_fd]) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        with pytest.raises(BlockingIOError):
            fcntl.lockf(lab.board_fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, SLOT)
        assert not first.balancer.lock(SLOT)
        first.accept(4)
        holder.stdin.close()
        holder.wait()
    lab.run()
    assert lab.counts() == [2, 2]
    assert first.balancer.lock(SLOT)
    first.balancer.unlock(SLOT)


def test_what_does_not_arrive_is_said(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    _, second = lab.start(2)
    lab.queues[1][1].send(b"\x01\x00\x00\x00\x01\x00\x00\x00l")
    with caplog.at_level(logging.ERROR, "workerproxy"):
        second.run()
    assert caplog.records[0].getMessage() == "listener l: a connection that was handed over did not arrive"


def test_loads_never_decrease_by_what_is_on_the_way(lab: Lab) -> None:
    """Neither before nor after a connection arrives is it counted twice, or not at all."""
    workers = lab.start(3)
    sums = [0]
    for _ in range(12):
        workers[0].accept()
        sums.append(sum(workers[1].share.loads().values()))
        workers[1].run()
        assert sum(workers[1].share.loads().values()) == sums[-1]
    assert all(after - before == 1 for before, after in pairwise(sums))

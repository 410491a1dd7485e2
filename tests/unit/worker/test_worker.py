"""A worker's life over the control pipe, with a data plane that writes down what it is told."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from setproctitle import getproctitle

from workerproxy.control import messages as m
from workerproxy.control.board import board_bytes
from workerproxy.control.channel import Channel
from workerproxy.control.listen_filter import SETTLE_S
from workerproxy.worker.context import Leftovers, Refused, WorkerContext
from workerproxy.worker.worker import EXIT_FAILED, EXIT_OK, EXIT_PROTOCOL, Worker

BIRTH = m.Birth(
    worker_id=0,
    row=1,
    rows=2,
    provisional=False,
    concurrency=2,
    drain_time_s=1,
    drain_strategy="gradual",
    file_flush_interval_ms=1000,
    log_level="off",
    component_log_levels={},
    log_format="%v",
    log_format_given=False,
    log_format_escaped=False,
    log_path="",
)


class FakeDataPlane:
    """``told`` is every call in order. ``refuse``: why the next prepare fails; ``broken``: commit raises."""

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.told: list[tuple[Any, ...]] = []
        self.refuse = ""
        self.broken = False
        self.active = 0
        self.sockets: dict[tuple[int, int], socket.socket] = {}

    def prepare(self, message: m.Prepare, bootstrap: Any) -> None:
        if self.refuse:
            raise Refused(self.refuse)
        self.told.append(("prepare", message.version, bootstrap.node.id, message.hosts, message.slots, message.binds))

    def commit(self, version: int) -> Leftovers:
        if self.broken:
            raise RuntimeError("commit is broken")
        self.told.append(("commit", version))
        return Leftovers(3, 4)

    def abort(self, version: int) -> None:
        self.told.append(("abort", version))

    def set_board_rows(self, rows: int) -> None:
        self.told.append(("rows", rows))

    def add_socket(self, bind: int, index: int, sock: socket.socket) -> None:
        self.told.append(("socket", bind, index))
        self.sockets[bind, index] = sock

    def release_socket(self, bind: int, index: int) -> None:
        self.told.append(("release", bind, index))
        self.sockets.pop((bind, index)).close()

    def refuse_new(self) -> None:
        self.told.append(("refuse new",))

    def update_hosts(self, cluster: str, hosts: Any) -> None:
        self.told.append(("hosts", cluster, hosts))

    def balance_group(self, rows: Sequence[int], receiving: socket.socket, sending: Sequence[socket.socket]) -> None:
        self.told.append(("balance", list(rows), len(sending)))
        for sock in (receiving, *sending):
            sock.close()

    def take_handed_over(self) -> None: ...

    def probe(self, sock: socket.socket) -> None:
        self.told.append(("probe",))
        sock.sendall(b"probed")
        sock.close()

    def start_drain(self, seconds: float, gradual: bool, listeners: Collection[str]) -> None:
        self.told.append(("drain", seconds, gradual, list(listeners)))

    def end_drain(self) -> None:
        self.told.append(("end drain",))

    def stop_accepting(self, binds: Collection[int] | None) -> None:
        self.told.append(("stop accepting", binds))
        for key in [key for key in self.sockets if binds is None or key[0] in binds]:
            self.sockets.pop(key).close()

    def active_connections(self) -> int:
        return self.active

    def close_all(self) -> None:
        self.told.append(("close all",))

    def reopen_logs(self) -> None:
        self.told.append(("reopen",))

    def flush_logs(self) -> None:
        self.told.append(("flush",))

    def cluster_report(self) -> list[dict[str, Any]]:
        return [{"name": "c", "hosts": []}]


class Loop(asyncio.SelectorEventLoop):
    """The worker stops its loop in the end; here main's side runs on the same one, so that is only written down."""

    stopped: asyncio.Event | None = None

    def stop(self) -> None:
        if self.stopped is not None and not self.stopped.is_set():
            self.stopped.set()
        else:
            super().stop()


class Lab:
    """A worker and the main process's end of its pipe."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        self.heard: list[m.Message] = []
        self.stopped = asyncio.Event()
        assert isinstance(loop, Loop)
        loop.stopped = self.stopped
        self.main = Channel(ours, loop, lambda message, _: self.heard.append(message), lambda why: None)
        self.planes: list[FakeDataPlane] = []
        self.worker = Worker(theirs, loop, self._make)

    def _make(self, context: WorkerContext) -> FakeDataPlane:
        self.planes.append(FakeDataPlane(context))
        return self.planes[-1]

    @property
    def plane(self) -> FakeDataPlane:
        return self.planes[0]

    async def born(self) -> Lab:
        fds = [os.memfd_create("segment"), os.memfd_create("board")]
        os.ftruncate(fds[0], 1 << 20)
        os.ftruncate(fds[1], board_bytes(2))
        self.main.send(m.Birth(**{name: getattr(BIRTH, name) for name in BIRTH.__slots__}, fds=fds))
        for fd in fds:
            os.close(fd)
        await self.ask(m.Heartbeat())
        return self

    async def serving(self) -> Lab:
        await self.born()
        await self.ask(m.Prepare(1, b"", {}, {}, {}))
        await self.ask(m.Commit(1))
        self.plane.told.clear()
        return self

    def send_socket(self, bind: int, index: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.main.send(m.ListenerSockets([bind], [index], fds=[listener.fileno()]))

    async def ask(self, message: m.Message) -> m.Message:
        return await asyncio.wait_for(self.main.ask(message), 5)

    async def heard_of(self, message: m.Message) -> None:
        async with asyncio.timeout(5):
            while message not in self.heard:
                await asyncio.sleep(0.01)

    async def end(self) -> int:
        await asyncio.wait_for(self.stopped.wait(), 5)
        self.main.close()
        return self.worker._exit_code


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(test())


def test_a_configuration_is_prepared_and_committed_with_all_that_belongs_to_it() -> None:
    async def test() -> None:
        lab = await Lab().born()
        context = lab.plane.context
        assert (context.worker_id, context.board.row, context.board.rows) == (0, 1, 2)
        lab.send_socket(7, 1)
        config = bootstrap_pb2.Bootstrap()
        config.node.id = "x"
        hosts, slots, binds = {"c": [("::1", 1, 0)]}, {"c/default/requests": 3}, {"l": [7]}
        assert await lab.ask(m.Prepare(1, config.SerializeToString(), hosts, slots, binds)) == m.Prepared(1)
        assert await lab.ask(m.Commit(1)) == m.Committed(1, 3, 4)
        assert lab.plane.told == [
            ("socket", 7, 1),
            ("prepare", 1, "x", hosts, slots, binds),
            ("commit", 1),
        ]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK
        lab.plane.sockets[7, 1].close()

    run(test)


def test_a_refused_configuration_is_answered_with_the_reason_and_nothing_else_happens() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        lab.plane.refuse = "cluster c: no such thing"
        assert await lab.ask(m.Prepare(2, b"", {}, {}, {})) == m.Refused(2, "cluster c: no such thing")
        assert isinstance(await lab.ask(m.Prepare(3, b"\xff\xff", {}, {}, {})), m.Refused)
        await lab.ask(m.Abort(2))
        assert lab.plane.told == [("abort", 2)]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)


def test_sockets_come_and_go_while_it_serves() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        for index in range(3):
            lab.send_socket(7, index)
        lab.send_socket(8, 0)
        assert await lab.ask(m.ReleaseSockets([7, 7], [0, 2])) == m.Done()
        assert list(lab.plane.sockets) == [(7, 1), (8, 0)]
        assert await lab.ask(m.StopAccepting([7])) == m.Done()
        assert list(lab.plane.sockets) == [(8, 0)]
        assert lab.plane.told[-1] == ("stop accepting", [7])
        assert repr(lab.worker) == "<Worker serving>"
        await lab.ask(m.StopAccepting([8]))
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)


def test_a_worker_that_is_to_leave_tells_what_is_left_until_nothing_is() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        lab.plane.active = 14
        assert await lab.ask(m.Retire()) == m.Done()
        assert repr(lab.worker) == "<Worker draining>"
        assert getproctitle() == "workerproxy: worker 0 (draining, 14 connections)"
        await lab.ask(m.Retire())
        lab.plane.active = 0
        await lab.heard_of(m.Draining(0))
        assert lab.heard == [m.Draining(14), m.Draining(0)]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK
        assert lab.plane.told == [("close all",), ("flush",)]

    run(test)


def test_a_worker_without_connections_says_so_when_it_is_told_to_leave() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        await lab.ask(m.Retire())
        await lab.heard_of(m.Draining(0))
        assert not lab.stopped.is_set()
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK
        assert lab.heard == [m.Draining(0)]

    run(test)


def test_a_worker_that_is_to_leave_still_obeys_and_takes_no_new_socket() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        lab.send_socket(7, 0)
        await lab.ask(m.Retire())
        lab.send_socket(8, 0)
        await lab.ask(m.Prepare(2, b"", {}, {}, {}))
        await lab.ask(m.Abort(2))
        await lab.ask(m.Prepare(3, b"", {}, {}, {}))
        assert isinstance(await lab.ask(m.Commit(3)), m.Committed)
        await lab.ask(m.BoardRows(5))
        await lab.ask(m.Drain(1.0, False, []))
        await lab.ask(m.EndDrain())
        await lab.ask(m.ReleaseSockets([7], [0]))
        await lab.ask(m.StopAccepting([8]))
        assert [call[0] for call in lab.plane.told] == [
            *("socket", "prepare", "abort", "prepare", "commit", "rows", "drain", "end drain", "release"),
            "stop accepting",
        ]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)


def test_a_probe_is_handed_on_in_every_state() -> None:
    async def test() -> None:
        lab = await Lab().born()
        for change in (None, m.Commit(1), m.Retire()):
            if isinstance(change, m.Commit):
                await lab.ask(m.Prepare(1, b"", {}, {}, {}))
            if change is not None:
                await lab.ask(change)
            ours, theirs = socket.socketpair()
            lab.main.send(m.Probe(fds=[theirs.fileno()]))
            theirs.close()
            await lab.ask(m.Heartbeat())
            assert ours.recv(9) == b"probed"
            ours.close()
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)


def test_a_drain_is_handed_on_and_can_be_taken_back() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        await lab.ask(m.Drain(600.0, True, ["a"]))
        await lab.ask(m.EndDrain())
        assert lab.plane.told == [("drain", 600.0, True, ["a"]), ("end drain",)]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)


@pytest.mark.parametrize("message", [m.Commit(1), m.Drain(1.0, False, []), m.FlushStats()])
def test_a_message_out_of_place_ends_the_worker(message: m.Message) -> None:
    async def test() -> None:
        lab = Lab()
        lab.main.send(message)
        assert await lab.end() == EXIT_PROTOCOL

    run(test)


def test_a_commit_that_fails_ends_the_worker_and_is_not_answered() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        lab.plane.broken = True
        question = lab.main.ask(m.Commit(2))
        assert await lab.end() == EXIT_FAILED
        assert question.exception() is not None

    run(test)


def test_without_the_main_process_it_finishes_what_it_has_and_leaves() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        lab.plane.active = 1
        lab.main.close()
        async with asyncio.timeout(5):
            while ("stop accepting", None) not in lab.plane.told:
                await asyncio.sleep(0.01)
        assert lab.plane.told == [("drain", 1.0, False, []), ("refuse new",), ("stop accepting", None)]
        assert not lab.stopped.is_set()
        lab.plane.active = 0
        assert await lab.end() == EXIT_OK

    run(test)


def test_without_the_main_process_handshakes_that_were_under_way_come_to_their_end_first() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        began = asyncio.get_running_loop().time()
        lab.main.close()
        assert await lab.end() == EXIT_OK
        assert asyncio.get_running_loop().time() - began >= SETTLE_S - 0.01
        assert ("stop accepting", None) in lab.plane.told

    run(test)


def test_without_the_main_process_it_leaves_after_the_drain_time_at_latest() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        lab.plane.active = 1
        lab.main.close()
        assert await lab.end() == EXIT_OK
        assert ("close all",) in lab.plane.told

    run(test)


def test_questions_are_answered() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        assert await lab.ask(m.FlushStats()) == m.StatsFlushed()
        assert await lab.ask(m.ReopenLogs()) == m.Done()
        assert await lab.ask(m.SetLogLevel("off", {})) == m.Done()
        assert await lab.ask(m.ReportClusters()) == m.ClusterReport([{"name": "c", "hosts": []}])
        lab.main.send(m.HostsUpdate("c", [("::1", 1, 0)]))
        await lab.ask(m.FlushStats())
        assert lab.plane.told == [("reopen",), ("hosts", "c", [("::1", 1, 0)])]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)

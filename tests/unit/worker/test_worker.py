"""A worker's life over the control pipe, with a data plane that writes down what it is told."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2

from workerproxy.control import messages as m
from workerproxy.control.board import board_bytes
from workerproxy.control.channel import Channel
from workerproxy.worker.context import Refused, WorkerContext
from workerproxy.worker.worker import EXIT_FAILED, EXIT_OK, EXIT_PROTOCOL, Worker

BIRTH = m.Birth(
    worker_id=0,
    concurrency=2,
    drain_time_s=1,
    drain_strategy="gradual",
    file_flush_interval_ms=1000,
    log_level="off",
    component_log_levels={},
    log_format="%v",
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
        self.sockets: list[socket.socket] = []

    def prepare(self, version: int, bootstrap: Any, hosts: Any, slots: Any) -> None:
        if self.refuse:
            raise Refused(self.refuse)
        self.told.append(("prepare", version, bootstrap.node.id, hosts, slots))

    def commit(self, version: int) -> None:
        if self.broken:
            raise RuntimeError("commit is broken")
        self.told.append(("commit", version))

    def abort(self, version: int) -> None:
        self.told.append(("abort", version))

    def add_listener_socket(self, listener_name: str, sock: socket.socket) -> None:
        self.told.append(("socket", listener_name))
        self.sockets.append(sock)

    def update_hosts(self, cluster: str, hosts: Any) -> None:
        self.told.append(("hosts", cluster, hosts))

    def start_drain(self, seconds: float, gradual: bool) -> None:
        self.told.append(("drain", seconds, gradual))

    def end_drain(self) -> None:
        self.told.append(("end drain",))

    def stop_accepting(self) -> None:
        self.told.append(("stop accepting", [sock.fileno() >= 0 for sock in self.sockets]))

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
        await self.ask(m.Prepare(1, b"", {}, {}))
        await self.ask(m.Commit(1))
        self.plane.told.clear()
        return self

    async def ask(self, message: m.Message) -> m.Message:
        return await asyncio.wait_for(self.main.ask(message), 5)

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
        assert (lab.plane.context.worker_id, lab.plane.context.board.workers) == (0, 2)
        listener = socket.create_server(("127.0.0.1", 0))
        lab.main.send(m.ListenerSockets(["l"], fds=[listener.fileno()]))
        listener.close()
        config = bootstrap_pb2.Bootstrap()
        config.node.id = "x"
        prepare = m.Prepare(1, config.SerializeToString(), {"c": [("::1", 1, 0)]}, {"c/default/requests": 3})
        assert await lab.ask(prepare) == m.Prepared(1)
        assert await lab.ask(m.Commit(1)) == m.Committed(1)
        assert lab.plane.told == [
            ("socket", "l"),
            ("prepare", 1, "x", {"c": [("::1", 1, 0)]}, {"c/default/requests": 3}),
            ("commit", 1),
        ]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK
        lab.plane.sockets[0].close()

    run(test)


def test_a_refused_configuration_is_answered_with_the_reason_and_nothing_else_happens() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        lab.plane.refuse = "cluster c: no such thing"
        assert await lab.ask(m.Prepare(2, b"", {}, {})) == m.Refused(2, "cluster c: no such thing")
        assert isinstance(await lab.ask(m.Prepare(3, b"\xff\xff", {}, {})), m.Refused)
        await lab.ask(m.Abort(2))
        assert lab.plane.told == [("abort", 2)]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)


def test_the_listening_sockets_are_closed_after_what_was_queued_is_accepted() -> None:
    async def test() -> None:
        lab = await Lab().born()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            lab.main.send(m.ListenerSockets(["l"], fds=[listener.fileno()]))
        await lab.ask(m.Prepare(1, b"", {}, {}))
        await lab.ask(m.Commit(1))
        lab.plane.active = 2
        await lab.ask(m.StopAccepting())
        assert ("stop accepting", [True]) in lab.plane.told
        assert lab.plane.sockets[0].fileno() < 0
        lab.plane.active = 0
        async with asyncio.timeout(5):
            while m.Draining(0) not in lab.heard:
                await asyncio.sleep(0.01)
        assert lab.heard == [m.Draining(2), m.Draining(0)]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK
        assert lab.plane.told[-2:] == [("close all",), ("flush",)]

    run(test)


def test_idle_connections_are_left_alone_at_first_and_a_drain_can_be_taken_back() -> None:
    async def test() -> None:
        lab = await Lab().serving()
        await lab.ask(m.Drain(600.0, False))
        assert lab.plane.told == [("drain", 0.0, True)]
        await lab.ask(m.EndDrain())
        await lab.ask(m.Drain(600.0, True))
        assert lab.plane.told[1:] == [("end drain",), ("drain", 600.0, True)]
        lab.main.send(m.Stop())
        assert await lab.end() == EXIT_OK

    run(test)


@pytest.mark.parametrize("message", [m.Commit(1), m.Drain(1.0, False), m.FlushStats()])
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
            while ("drain", 0.0, True) not in lab.plane.told:
                await asyncio.sleep(0.01)
        assert not lab.stopped.is_set()
        lab.plane.active = 0
        assert await lab.end() == EXIT_OK

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

"""The program that takes over, as the one that runs sees it: what is handed over, and the way out when it serves.

One conversation over a connected socket, whoever opened it: ``upgrade`` started the successor, or it came through
``hot_restart``'s Unix socket. Nothing is given up before the successor says ``TakenOver``; until then this process goes
on as if nothing had happened, and so it does when the successor fails or ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from workerproxy.control import messages as m
from workerproxy.control.channel import Channel
from workerproxy.control.hot_restart import HOT_RESTART_VERSION

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server
    from workerproxy.main_thread.worker_slot import WorkerSlot

_log = logging.getLogger("workerproxy.main")

REPORT_INTERVAL_S: Final = 1.0


class Successor:
    """``done`` has the outcome: None when it has taken over, or why it has not."""

    def __init__(self, server: Server, sock: socket.socket, on_taken_over: Callable[[], None]) -> None:
        self._server = server
        self._on_taken_over = on_taken_over
        loop = asyncio.get_running_loop()
        self._channel = Channel(sock, loop, self._on_message, self._on_closed)
        self._told: set[int] = set()  # rows of workers the successor counts
        self._tasks: set[asyncio.Task[None]] = set()
        self.done: asyncio.Future[str | None] = loop.create_future()
        self.pid = 0

    def close(self) -> None:
        self._channel.close()
        for task in self._tasks:
            task.cancel()

    def _on_message(self, message: m.Message, request_id: int) -> None:
        if isinstance(message, m.AskHandOver):
            self._hand_over(message, request_id)
        elif isinstance(message, m.TakenOver):
            self._spawn(self._taken_over(message, request_id))
        elif isinstance(message, m.TakeOverFailed):
            self._fail(message.why)
        elif isinstance(message, m.NewRows):
            self._server.supervisor.tell_all(m.BoardRows(message.rows))
        elif isinstance(message, m.EndOld):
            self._server.operations.hurry(now=message.now)

    def _on_closed(self, why: str) -> None:
        self._fail("it ended before it was ready")

    def refuse(self, why: str) -> None:
        """It is not to take over any more."""
        self._fail(why)

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self._channel.send(m.RefusedHandOver(why))  # should it be there: without this it would go on alone
            self.done.set_result(why)
            self._channel.close()

    def _hand_over(self, asked: m.AskHandOver, request_id: int) -> None:
        server = self._server
        if asked.version != HOT_RESTART_VERSION:
            why = f"it speaks version {asked.version} of the hand-over, not {HOT_RESTART_VERSION}"
            self._channel.send(m.RefusedHandOver(why), request_id)
            self._fail(why)
            return
        for listener in server.listeners.active.values():
            for bind in listener.binds:
                fds = [sock.fileno() for sock in bind.sockets]
                self._channel.send(m.OldSockets(listener.name, bind.shared, bind.pipe_path, fds=fds))
        admin = server.admin.current
        if admin is not None:
            self._channel.send(m.OldAdmin(admin.pipe_path, admin.configured, fds=[admin.sock.fileno()]))
        for slot in server.supervisor.running():
            self._told.add(slot.row)
            self._channel.send(m.OldWorker(slot.row, slot.pid, fds=[slot.segment_fd] if asked.stats else []))
        stats = server.store.base().to_json() if asked.stats else b""
        self._channel.send(
            m.HandOver(
                os.getpid(),
                server.epoch,
                len(server.supervisor.slots),
                server.first_started_at,
                server.configuration.slots.known(),
                stats,
                fds=[server.board_fd],
            ),
            request_id,
        )

    async def _taken_over(self, message: m.TakenOver, request_id: int) -> None:
        server = self._server
        if self.done.done():
            return
        if server.drain.state != "running":
            self._fail("the running program is stopping")
            return
        server.supervisor.on_left = self._worker_left
        server.supervisor.tell_all(m.BoardRows(message.rows))
        await server.operations.let_go(message.addresses)
        self._on_taken_over()
        self._channel.send(m.Done(), request_id)
        self.done.set_result(None)
        while not self._channel.closed:
            self._channel.send(m.OldConnections(server.supervisor.connections()))
            await asyncio.sleep(REPORT_INTERVAL_S)

    def _worker_left(self, slot: WorkerSlot) -> None:
        if slot.row in self._told:
            self._told.discard(slot.row)
            self._channel.send(m.OldWorkerGone(slot.row))

    def _spawn(self, coroutine: object) -> None:
        task = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

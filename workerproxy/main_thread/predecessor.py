"""The program that ran before, as the one that takes over sees it: what it hands over, and how it leaves.

Asked before anything is opened: listening sockets with what is queued on them, the admin socket, the limits board with
the rows of workers that still run, their statistics, and what was counted before. Nothing is taken away by asking: the
predecessor goes on as it is until it hears ``TakenOver``, and if this process ends before, it goes on for good.

The predecessor is reached through a descriptor it started this process with (``upgrade``), or through its Unix socket
(``hot_restart``, Envoy's way).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import mmap
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from workerproxy.control import messages as m
from workerproxy.control.channel import MAX_FDS, Channel, ChannelClosedError, FrameDecoder, encode_frame
from workerproxy.control.hot_restart import HOT_RESTART_VERSION
from workerproxy.control.messages import ProtocolError
from workerproxy.control.stats_segment import StatValues
from workerproxy.main_thread.admin.server import AdminSocket

if TYPE_CHECKING:
    from workerproxy.control.board import BoardOwner
    from workerproxy.control.stats_segment import StatsReader
    from workerproxy.main_thread.listener_manager import ListenerManager
    from workerproxy.main_thread.stats_store import StatsStore

_log = logging.getLogger("workerproxy.main")

FD_VARIABLE: Final = "WORKERPROXY_PREDECESSOR_FD"  # in the environment of a program that is started by its predecessor
HAND_OVER_TIMEOUT_S: Final = 10.0
TAKE_OVER_TIMEOUT_S: Final = 30.0
_READ: Final = 1 << 16
_FD_SPACE: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class HandOverError(Exception):
    """The predecessor cannot be asked, or refuses; the text says why."""


class PredecessorGoneError(HandOverError):
    """It has ended in the middle of it."""


@dataclass(slots=True)
class Inheritance:
    """What was handed over."""

    end: m.HandOver
    sockets: list[m.OldSockets] = field(default_factory=list)
    admin: m.OldAdmin | None = None
    workers: list[m.OldWorker] = field(default_factory=list)

    def admin_socket(self) -> AdminSocket | None:
        if self.admin is None:
            return None
        (fd,) = self.admin.fds
        return AdminSocket.given(_listening(fd), self.admin.configured, self.admin.pipe)


class Predecessor:
    """``sock`` is connected to it. ``ask`` first, ``attach`` when the loop runs, ``taken_over`` when this serves."""

    def __init__(self, sock: socket.socket, *, started_this: bool = False) -> None:
        """``started_this``: it started this program itself, with its own command line."""
        self._sock = sock
        self.started_this = started_this
        self._decoder = FrameDecoder()
        self._channel: Channel | None = None
        self._readers: dict[int, StatsReader] = {}  # row -> statistics of a worker that still runs
        self._rows: set[int] = set()
        self._board: BoardOwner | None = None
        self._store: StatsStore | None = None
        self._on_gone: Callable[[], None] = lambda: None
        self.gone = asyncio.Event()  # it has ended
        self.refuses = ""  # why it does not want to be followed any more
        self.inheritance: Inheritance
        self.connections = 0  # downstream, that it still has
        self.pid = 0

    @classmethod
    def from_environment(cls, environment: os._Environ[str]) -> Predecessor | None:
        """The program that started this one to take over; None when it was started otherwise."""
        text = environment.pop(FD_VARIABLE, "")
        if not text.isdigit():
            return None
        with contextlib.suppress(OSError):
            return cls(socket.socket(fileno=int(text)), started_this=True)
        return None

    # --- before anything is opened

    def ask(self, *, stats: bool) -> Inheritance:
        """Blocks until everything has come. Raises ``HandOverError``."""
        sock = self._sock
        sock.settimeout(HAND_OVER_TIMEOUT_S)
        sockets: list[m.OldSockets] = []
        workers: list[m.OldWorker] = []
        admin: m.OldAdmin | None = None
        try:
            sock.sendall(encode_frame(m.AskHandOver(HOT_RESTART_VERSION, stats), 1))
            end: m.HandOver | None = None
            while end is None:
                for message in self._receive():
                    if isinstance(message, m.OldSockets):
                        sockets.append(message)
                    elif isinstance(message, m.OldWorker):
                        workers.append(message)
                    elif isinstance(message, m.OldAdmin):
                        admin = message
                    elif isinstance(message, m.RefusedHandOver):
                        raise HandOverError(message.why)
                    elif isinstance(message, m.HandOver):
                        end = message
            self.pid = end.pid
            self.inheritance = Inheritance(end, sockets, admin, workers)
            return self.inheritance
        except (OSError, ProtocolError) as error:
            raise HandOverError(f"the running program does not hand over: {error}") from None

    def _receive(self) -> list[m.Message]:
        data, ancillary, _, _ = self._sock.recvmsg(_READ, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise HandOverError("the running program has ended")
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        return [frame.message for frame in self._decoder.feed(data, fds.tolist())]

    def fail(self, why: str) -> None:
        """This program cannot serve: say so, before it ends."""
        with contextlib.suppress(OSError, ProtocolError):
            self._sock.setblocking(True)
            self._sock.sendall(encode_frame(m.TakeOverFailed(why)))

    def give_sockets(self, listeners: ListenerManager) -> None:
        for one in self.inheritance.sockets:
            listeners.give([_listening(fd) for fd in one.fds], shared=one.shared, listener=one.listener)

    def board(self) -> tuple[int, mmap.mmap]:
        """Descriptor and mapping of the limits board, as ``machine.memory_file`` gives them."""
        (fd,) = self.inheritance.end.fds
        return fd, mmap.mmap(fd, os.fstat(fd).st_size)

    def join(self, board: BoardOwner, store: StatsStore) -> None:
        """Count in the workers that still run: their rows of the board, their statistics. Raises ``HandOverError``."""
        self._board, self._store = board, store
        try:
            if self.inheritance.end.stats:
                store.inherit(StatValues.from_json(self.inheritance.end.stats))
            for worker in self.inheritance.workers:
                board.reserve_row(worker.row)
        except ValueError as error:
            raise HandOverError(f"the running program hands over what cannot be: {error}") from None
        for worker in self.inheritance.workers:
            self._rows.add(worker.row)
            for fd in worker.fds:
                self._readers[worker.row] = store.attach(mmap.mmap(fd, os.fstat(fd).st_size))
                os.close(fd)

    # --- while both run

    def attach(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[], None]) -> None:
        """``on_gone()`` once, when it has ended."""
        self._on_gone = on_gone
        self._channel = Channel(self._sock, loop, self._on_message, self._on_closed, decoder=self._decoder)

    async def taken_over(self, addresses: list[str], rows: int) -> None:
        """This program serves. Returns when the predecessor listens no more.

        Raises ``PredecessorGoneError``, and ``HandOverError`` when it does not want to be followed.
        """
        if self._channel is None:
            raise HandOverError("not attached")
        try:
            await asyncio.wait_for(self._channel.ask(m.TakenOver(addresses, rows)), TAKE_OVER_TIMEOUT_S)
        except TimeoutError:
            raise HandOverError(f"the predecessor has not let go within {TAKE_OVER_TIMEOUT_S:g} s") from None
        except ChannelClosedError as error:
            if self.refuses:
                raise HandOverError(self.refuses) from None
            raise PredecessorGoneError(str(error)) from None

    def say_rows(self, rows: int) -> None:
        self._send(m.NewRows(rows))

    def hurry(self, *, now: bool) -> None:
        self._send(m.EndOld(now))

    @property
    def alive(self) -> bool:
        return self._channel is not None and not self._channel.closed

    def _send(self, message: m.Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _on_message(self, message: m.Message, request_id: int) -> None:
        if isinstance(message, m.OldWorkerGone):
            self._worker_gone(message.row)
        elif isinstance(message, m.RefusedHandOver):
            self.refuses = message.why
        elif isinstance(message, m.OldConnections):
            self.connections = message.active

    def _on_closed(self, why: str) -> None:
        _log.info("the predecessor (pid %d) has ended", self.pid)
        for row in list(self._rows):
            self._worker_gone(row)
        self.connections = 0
        self.gone.set()
        self._on_gone()

    def _worker_gone(self, row: int) -> None:
        if row not in self._rows:
            return
        self._rows.discard(row)
        reader = self._readers.pop(row, None)
        if reader is not None and self._store is not None:
            self._store.retire(reader)
        if self._board is not None:
            self._board.free_row(row)


def seconds_since(started_at: float) -> float:
    return max(0.0, time.monotonic() - started_at)


def _listening(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock

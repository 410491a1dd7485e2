"""``exact_balance``: an accepted connection goes to the worker that has the fewest of its listener's connections.

Envoy's name: ``ExactConnectionBalancerImpl``. The worker that accepts chooses, and hands the socket over with
SCM_RIGHTS on a Unix socket of packets (``control.messages.BalanceGroup``). How many a worker has is read from the
limits board: of each listener there are ``MAX_ROWS`` slots, one for each worker, and a worker writes in its own row

    slot of itself      how many of its connections are open, and that it takes part
    slot of worker t    how many it has sent to t, and the number of the last that it got from t

so that worker t's load is what is open there, and what was sent there and has not arrived. All these are single writes,
and nothing has to be acknowledged. To choose and to count what was chosen is one step under a lock: two workers never
take the same one for the least loaded. The lock (fcntl, a byte of the board's file) ends with its process, and nobody
waits long for it: when its holder is stopped, the choice is made without.

A worker that dies has its row cleared by the main process, so it takes no part until its successor says so. When
handing over fails, because a queue is full or its reader gone, the worker that has accepted serves the connection.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from workerproxy.control.board import MAX_SLOTS

if TYPE_CHECKING:
    import asyncio

    from workerproxy.control.board import LimitsBoard

_log = logging.getLogger("workerproxy.conn_handler")

_PRESENT: Final = 1 << 40  # added to the count of a worker's open connections: it takes part
# Two counters in one number, so that it is written as one: sent << 32 | received. They wrap around.
_COUNTER: Final = (1 << 31) - 1
_HALF: Final = 1 << 30

_PACKET: Final = struct.Struct("=HHI")  # row of the receiver, row of the sender, number; the listener's name follows
_PACKET_BYTES: Final = 4096
_RIGHTS_BYTES: Final = socket.CMSG_LEN(array.array("i").itemsize)
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_TRIES: Final = 20  # for the lock, with a pause after each
_PAUSE_S: Final = 0.000_05
_REST_S: Final = 0.1  # how long reading rests when there are no descriptors

Deliver = Callable[[str, socket.socket], None]  # the listener's name and a connection that was handed over


class ConnectionBalancer:
    """One per worker. ``board_fd``: the board's file, for the lock; -1: go without."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, board: LimitsBoard, board_fd: int, on_handed_over: Deliver
    ) -> None:
        self.board = board
        self.row = board.row
        self.others: dict[int, socket.socket] = {}  # row -> where that worker is sent connections
        self.is_member = False
        self._loop = loop
        self._board_fd = board_fd
        self._on_handed_over = on_handed_over
        self._shares: dict[str, Share] = {}
        self._receiving: dict[int, socket.socket] = {}  # inode -> where others send connections to
        self._spare = -1  # a descriptor in reserve: one that comes without room for it would be lost

    def __repr__(self) -> str:
        return f"<ConnectionBalancer row {self.row}, others {sorted(self.others)}>"

    def share(self, listener: str, slot: int) -> Share:
        """The balance of a listener, whose slots begin at ``slot``. The same for the same, over reloads too."""
        share = self._shares.get(listener)
        if share is None or share.slot != slot:
            share = self._shares[listener] = Share(self, listener, slot)
        return share

    def join(self, rows: Sequence[int], receiving: socket.socket, sending: Sequence[socket.socket]) -> None:
        """These workers hand connections among each other from now on; takes over the sockets.

        Without this worker among them it hands on nothing more, and goes on to take what it is sent.
        """
        self.leave()
        members = dict(zip(rows, sending, strict=True))
        if self.row in rows:
            members.pop(self.row).close()
            self.others = members
            self.is_member = True
            self._show()
        else:
            for sock in sending:
                sock.close()
        inode = os.fstat(receiving.fileno()).st_ino
        if inode in self._receiving:
            receiving.close()
        else:
            receiving.setblocking(False)
            self._receiving[inode] = receiving
            self._loop.add_reader(receiving.fileno(), partial(self._receive, receiving))
        if not self.is_member:
            self.take_all()

    def leave(self) -> None:
        """Hand on nothing more, and say so to the others."""
        for sock in self.others.values():
            sock.close()
        self.others = {}
        self.is_member = False
        self._show()

    def _show(self) -> None:
        for share in self._shares.values():
            share.show()

    def take_all(self) -> None:
        """Take every connection that others have sent."""
        for sock in list(self._receiving.values()):
            while self._receive(sock):
                pass

    def close(self) -> None:
        self.leave()
        for sock in self._receiving.values():
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._receiving.clear()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    # handing over

    def lock(self, byte: int) -> bool:
        """Take the lock, if it is to be had in a moment."""
        if self._board_fd < 0:
            return False
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._board_fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except OSError:
                time.sleep(_PAUSE_S)
            else:
                return True
        return False

    def unlock(self, byte: int) -> None:
        fcntl.lockf(self._board_fd, fcntl.LOCK_UN, 1, byte)

    def send(self, row: int, number: int, listener: bytes, sock: socket.socket) -> bool:
        """Send a connection to the worker of this row; False when it is not to be had."""
        packet = _PACKET.pack(row, self.row, number) + listener
        if len(packet) > _PACKET_BYTES:
            return False
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))
        try:
            self.others[row].sendmsg([packet], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            _log.debug("no connection is handed to the worker of row %d: %s", row, error.strerror)
            return False
        return True

    # being handed to

    def _receive(self, receiving: socket.socket) -> bool:
        """Take one connection; False when there is none."""
        if not self._make_room(receiving):
            return False
        os.close(self._spare)
        self._spare = -1
        try:
            packet, ancillary, _, _ = receiving.recvmsg(_PACKET_BYTES, _RIGHTS_BYTES, _FLAGS)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            _log.error("no more connections can be handed to this worker: %s", error)
            packet, ancillary = b"", []
        if not packet:
            self._forget(receiving)
            return False
        row, sender, number = _PACKET.unpack_from(packet)
        name = packet[_PACKET.size :].decode()
        share = self._shares.get(name)
        if share is not None and row == self.row:
            share.on_received(sender, number)
        if ancillary:
            (fd,) = array.array("i", ancillary[0][2])
            self._on_handed_over(name, socket.socket(fileno=fd))
        else:
            _log.error("listener %s: a connection that was handed over did not arrive", name)
        return True

    def _make_room(self, receiving: socket.socket) -> bool:
        """Whether there is a descriptor left. If not, what is sent stays in the queue for a while."""
        if self._spare < 0:
            try:
                self._spare = os.dup(receiving.fileno())
            except OSError:
                self._loop.remove_reader(receiving.fileno())
                self._loop.call_later(_REST_S, partial(self._read_again, receiving))
                return False
        return True

    def _read_again(self, receiving: socket.socket) -> None:
        if receiving.fileno() >= 0:
            self._loop.add_reader(receiving.fileno(), partial(self._receive, receiving))

    def _forget(self, receiving: socket.socket) -> None:
        """Nobody can send any more."""
        self._receiving = {inode: sock for inode, sock in self._receiving.items() if sock is not receiving}
        self._loop.remove_reader(receiving.fileno())
        receiving.close()


class Share:
    """What one worker knows of the balance of one listener."""

    def __init__(self, balancer: ConnectionBalancer, listener: str, slot: int) -> None:
        board = balancer.board
        self.slot = slot
        self._balancer = balancer
        self._listener = listener.encode()
        self._row = board.row
        self._cells = board.cells
        self._open = board.cell(slot + board.row)
        self._wanted = False
        # Whoever had this row before is gone, and so is what it has counted; go on where others believe it to be.
        for row in range(board.rows):
            if row != board.row:
                sent, received = self._counters(row, board.row)
                self._write(row, received, sent)

    def __repr__(self) -> str:
        return f"<Share {self._listener.decode()} {self._open.value % _PRESENT} open, loads {self.loads()}>"

    # what the listener calls

    def begin(self, connections: int) -> None:
        """The listener has so many connections and is balanced from now on."""
        self._wanted = True
        self._open.set(connections)
        self.show()

    def end(self) -> None:
        """The listener is no longer balanced."""
        self._wanted = False
        self.show()

    def opened(self) -> None:
        self._open.increment()

    def closed(self) -> None:
        self._open.decrement()

    def hand_over(self, sock: socket.socket) -> bool:
        """Give the connection to the worker that has the fewest. False: serve it here, it is counted already."""
        balancer = self._balancer
        if not balancer.others:
            self._open.increment()
            return False
        locked = balancer.lock(self.slot)
        row = self._least_loaded()
        number = 0
        if row == self._row:
            self._open.increment()
        else:
            number = self._add_to_sent(row, 1)
        if locked:
            balancer.unlock(self.slot)
        if row == self._row:
            return False
        if balancer.send(row, number, self._listener, sock):
            sock.close()
            return True
        self._add_to_sent(row, -1)
        self._open.increment()
        return False

    # what the balancer calls

    def show(self) -> None:
        """Say on the board whether this worker takes part."""
        present = _PRESENT if self._wanted and self._balancer.is_member else 0
        self._open.set(self._open.value % _PRESENT + present)

    def on_received(self, row: int, number: int) -> None:
        """The worker of this row has sent us its connection of this number."""
        sent, _ = self._counters(self._row, row)
        self._write(row, sent, number)

    # the board

    def loads(self) -> dict[int, int]:
        """Row -> connections, of the workers that take part."""
        rows = max(self._balancer.board.rows, self._row + 1, *(row + 1 for row in self._balancer.others))
        cells = self._cells
        of_themselves = cells[self.slot : rows * MAX_SLOTS : MAX_SLOTS + 1].tolist()
        present = [row for row, value in enumerate(of_themselves) if value >= _PRESENT >> 1]
        loads: dict[int, int] = {}
        for row in present:
            load = of_themselves[row] - _PRESENT
            sent = cells[self.slot + row : rows * MAX_SLOTS : MAX_SLOTS]
            start = row * MAX_SLOTS + self.slot
            received = cells[start : start + rows]
            for sender in present:
                if sender != row:
                    on_the_way = ((sent[sender] >> 32) - received[sender]) & _COUNTER
                    if on_the_way < _HALF:
                        load += on_the_way
            loads[row] = load
        return loads

    def _least_loaded(self) -> int:
        """This worker before others, and the lowest row before others."""
        loads = self.loads()
        best = self._row
        if best in loads:
            least = loads[best]
            for row in sorted(self._balancer.others):
                load = loads.get(row)
                if load is not None and load < least:
                    best, least = row, load
        return best

    def _counters(self, row: int, other: int) -> tuple[int, int]:
        """What the worker of ``row`` has sent to the other, and the number of the last it has received from there."""
        value = self._cells[row * MAX_SLOTS + self.slot + other]
        return value >> 32, value & _COUNTER

    def _write(self, other: int, sent: int, received: int) -> None:
        self._cells[self._row * MAX_SLOTS + self.slot + other] = (sent & _COUNTER) << 32 | received & _COUNTER

    def _add_to_sent(self, row: int, count: int) -> int:
        sent, received = self._counters(self._row, row)
        self._write(row, sent + count, received)
        return (sent + count) & _COUNTER

"""The workers among which connections of ``exact_balance`` listeners are handed (``listener.v3.Listener``).

Each place has a pair of connected sockets: its worker reads the one, all others write to the other. Both stay open in
the main process, so that what was handed to a worker that dies is read by its successor, as with accept queues.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from workerproxy.control import messages as m

if TYPE_CHECKING:
    from workerproxy.main_thread.worker_slot import WorkerSlot


def wants_exact_balance(listeners: Iterable[Any]) -> bool:
    """Whether any of these ``listener.v3.Listener`` asks for it."""
    return any(one.connection_balance_config.HasField("exact_balance") for one in listeners)


def balance_messages(
    members: Sequence[WorkerSlot], told: Iterable[WorkerSlot]
) -> Iterator[tuple[WorkerSlot, m.BalanceGroup]]:
    """What each worker is told when these are the members; one that is told and is no member hands on no more."""
    for slot in members:
        _ends(slot)
    sending = [_ends(slot)[1].fileno() for slot in members]
    rows = [slot.row for slot in members]
    for slot in told:
        yield slot, m.BalanceGroup(rows, fds=[_ends(slot)[0].fileno(), *sending])


def _ends(slot: WorkerSlot) -> tuple[socket.socket, socket.socket]:
    if slot.balance is None:
        receiving, sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        receiving.setblocking(False)
        sending.setblocking(False)
        slot.balance = receiving, sending
    return slot.balance

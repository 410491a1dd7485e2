"""New worker processes for old ones, one by one: for changed Python code, without a new main process.

For each worker in turn: a second process with its number is started, beside it. It gets the active configuration and
must answer a probe, one request through its whole data path. Only then it gets the listening sockets, the old worker
gives them up, and leaves within the drain time. When a new worker is of no use the roll ends there: it is dismissed,
and the old one goes on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from workerproxy.control import messages as m
from workerproxy.main_thread.worker_slot import SERVING, WorkerError, WorkerSlot

if TYPE_CHECKING:
    from workerproxy.main_thread.supervisor import Supervisor

_log = logging.getLogger("workerproxy.main")

BIRTH_TIMEOUT_S: Final = 60.0
PROBE_TIMEOUT_S: Final = 5.0
_PROBE: Final = b"GET /probe HTTP/1.1\r\nhost: workerproxy\r\nconnection: close\r\n\r\n"
_MAX_ANSWER: Final = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class RollResult:
    """``lines``: what happened, worker by worker. Not ``ok``: the last line says why it ended early."""

    ok: bool
    lines: list[str] = field(default_factory=list)


class Roll:
    """One at a time."""

    def __init__(self, supervisor: Supervisor, lock: asyncio.Lock) -> None:
        self._supervisor = supervisor
        self._lock = lock

    async def run(self, drain: m.Drain) -> RollResult:
        """All workers, in order of their numbers. Never raises for what a worker does."""
        async with self._lock:
            lines: list[str] = []
            self._supervisor.hurry_leaving()
            for worker_id in range(len(self._supervisor.slots)):
                if worker_id >= len(self._supervisor.slots):
                    break  # there are fewer now
                old = self._supervisor.slots[worker_id]
                old_pid = old.pid
                try:
                    new = await self._successor(worker_id)
                except (WorkerError, OSError) as error:
                    why = f"worker {worker_id}: {error}; the roll ends here, the old worker goes on"
                    _log.error("roll: %s", why)
                    return RollResult(False, [*lines, why])
                if self._supervisor.stopping:
                    self._supervisor.dismiss(new)
                    return RollResult(False, [*lines, f"worker {worker_id}: the process is stopping"])
                self._supervisor.take_over(new, drain)
                lines.append(f"worker {worker_id}: pid {old_pid} -> {new.pid}")
                await self._supervisor.balance_group_told()
                _log.info("roll: worker %d is now pid %d", worker_id, new.pid)
            return RollResult(True, lines)

    async def _successor(self, worker_id: int) -> WorkerSlot:
        """A worker that has the active configuration and has answered a probe. Raises ``WorkerError``, ``OSError``."""
        supervisor = self._supervisor
        slot = supervisor.new_worker(worker_id)
        try:
            await slot.ask(m.Heartbeat(), BIRTH_TIMEOUT_S)
            await supervisor.bring_up_to_date(slot)
            await probe(slot)
            if slot.state != SERVING:
                raise WorkerError(f"it is {slot.state}, not serving")
        except BaseException:
            supervisor.dismiss(slot)
            raise
        return slot


async def probe(slot: WorkerSlot) -> None:
    """One request through the worker's data path, over a pair of sockets. Raises ``WorkerError``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        slot.tell(m.Probe(fds=[theirs.fileno()]))
    finally:
        theirs.close()
    try:
        answer = await asyncio.wait_for(_talk(ours), PROBE_TIMEOUT_S)
    except TimeoutError:
        raise WorkerError(f"it did not answer the probe within {PROBE_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise WorkerError(f"it did not answer the probe: {error.strerror or error}") from None
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise WorkerError(f"it answered the probe with {answer.partition(bytes([13]))[0][:80]!r}")


async def _talk(sock: socket.socket) -> bytes:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    try:
        writer.write(_PROBE)
        return await reader.read(_MAX_ANSWER)
    finally:
        writer.close()

"""How a listener ends: handshakes are ignored, what is queued is accepted, sockets are closed, connections finish.

Called by ``reload`` for listeners that are gone from the configuration, by ``drain`` when the process ends, and by
``POST /drain_listeners``. Nobody is reset: the kernel ignores new handshakes first, those under way come to their end
(``SETTLE_S``), every worker accepts what is queued and closes its copies, and the last copy is closed here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from workerproxy.control.listen_filter import SETTLE_S
from workerproxy.main_thread.worker_slot import WorkerError

if TYPE_CHECKING:
    from workerproxy.main_thread.listener_manager import Listener, ListenerManager, ListenerPlan
    from workerproxy.main_thread.listener_sockets import Bind
    from workerproxy.main_thread.stored_sockets import StoredSockets
    from workerproxy.main_thread.supervisor import Supervisor
    from workerproxy.main_thread.worker_slot import WorkerSlot

_log = logging.getLogger("workerproxy.main")

ACCEPT_TIMEOUT_S: Final = 5.0  # for a worker to say that it has accepted what was queued


class ListenerDrain:
    """Of one main process. ``drain_time_s``: how long connections of a removed listener may take."""

    def __init__(
        self, listeners: ListenerManager, supervisor: Supervisor, stored: StoredSockets, drain_time_s: float
    ) -> None:
        self._listeners = listeners
        self._supervisor = supervisor
        self._stored = stored
        self._drain_time_s = drain_time_s
        self._tasks: set[asyncio.Task[None]] = set()

    def describe(self, plan: ListenerPlan, connections: int, streams: int) -> list[str]:
        """What a reload's answer says of what drains."""
        within = f"within {self._drain_time_s:g} s"
        lines = [f"listener {one.name!r} on {', '.join(one.addresses)} drains {within}" for one in plan.removed]
        if connections:
            lines.append(f"{connections} connections of removed listeners end {within}")
        if streams:
            lines.append(f"{streams} streams on removed routes or clusters end {within}")
        return lines

    def removed(self, plan: ListenerPlan) -> None:
        """A configuration without these listeners is active; handshakes on ``plan.gone`` are ignored already."""
        if plan.removed:
            self._stored.forget(plan.gone)
            self._spawn(self._remove(plan.removed, plan.gone))

    async def _remove(self, listeners: list[Listener], gone: list[Bind]) -> None:
        await asyncio.sleep(SETTLE_S)
        await self._close(gone)
        await asyncio.sleep(max(0.0, self._drain_time_s - SETTLE_S))
        self._listeners.drained(listeners)

    async def stop(self, listeners: Iterable[Listener], *, ending: bool = False) -> None:
        """They accept what is queued, and nothing more; their connections go on. Returns when it is so.

        ``ending``: so does this process, perhaps to be started again, and what systemd has stored it may keep. The
        sockets of a socket unit are left as they are, since a client that waits there starts the next process.
        """
        binds = self._listeners.stop(listeners)
        left = [bind for bind in binds if bind.of_unit]
        if left:
            self._supervisor.release_binds([bind.bind_id for bind in left])
            self._listeners.close(left)
        binds = [bind for bind in binds if bind not in left]
        if binds:
            if not ending:
                self._stored.forget(binds)
            self._listeners.refuse_new(binds)
            await asyncio.sleep(SETTLE_S)
            await self._close(binds)

    async def _close(self, binds: list[Bind]) -> None:
        ids = [bind.bind_id for bind in binds]
        await asyncio.gather(*(self._stop_accepting(slot, ids) for slot in self._supervisor.running()))
        self._listeners.close(binds)

    async def _stop_accepting(self, slot: WorkerSlot, binds: list[int]) -> None:
        pid = slot.pid
        try:
            await slot.stop_accepting(binds, ACCEPT_TIMEOUT_S)
        except WorkerError as error:
            _log.warning("%s", error)
            if slot.pid == pid:
                slot.kill()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

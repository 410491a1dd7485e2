"""The way out: readiness fails, nothing new is accepted, what is in flight finishes, the process ends.

Begun by SIGTERM, SIGINT or ``POST /quitquitquit`` (which waits for nobody, as Envoy's does). The listening sockets are
closed here first and by the workers after they have accepted what is queued, so no client is left waiting in a queue
that nobody reads. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from workerproxy.control import messages as m
from workerproxy.main_thread.worker_slot import WorkerError

if TYPE_CHECKING:
    from workerproxy.main_thread.listener_sockets import ListenerSockets
    from workerproxy.main_thread.supervisor import Supervisor
    from workerproxy.main_thread.worker_slot import WorkerSlot

_log = logging.getLogger("workerproxy.main")

ACCEPT_TIMEOUT_S: Final = 5.0  # for a worker to say that it has stopped accepting
STOP_TIMEOUT_S: Final = 2.0  # for a worker to end after Stop; then it is killed

# States, in the order of life.
RUNNING: Final = "running"
DRAINING: Final = "draining"
STOPPING: Final = "stopping"  # workers are told to end
STOPPED: Final = "stopped"  # terminal

TRANSITIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        RUNNING: {"asked": DRAINING, "at once": STOPPING},
        DRAINING: {"asked": STOPPING, "at once": STOPPING, "drained": STOPPING, "time is up": STOPPING},
        STOPPING: {"asked": STOPPING, "at once": STOPPING, "ended": STOPPED},
        STOPPED: {},
    }
)


class Drain:
    """``stopped`` is set when no worker is left. ``on_begin()`` is called once, when readiness must fail."""

    def __init__(
        self,
        supervisor: Supervisor,
        listeners: Sequence[ListenerSockets],
        drain_time_s: float,
        on_begin: Callable[[], None],
    ) -> None:
        self._supervisor = supervisor
        self._listeners = listeners
        self._drain_time_s = drain_time_s
        self._on_begin = on_begin
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.stopped = asyncio.Event()
        self.state = RUNNING

    def __repr__(self) -> str:
        return f"<Drain {self.state}>"

    def _move(self, event: str) -> None:
        self.state = TRANSITIONS[self.state].get(event, self.state)

    def ask(self) -> None:
        """Drain and stop; asked again, stop at once."""
        if self.state in (DRAINING, STOPPING):
            _log.warning("asked again: ending at once")
            self._hurry.set()
        self._move("asked")
        self._begin()

    def stop_at_once(self) -> None:
        self._hurry.set()
        self._move("at once")
        self._begin()

    def _begin(self) -> None:
        if self._task is None:
            self._supervisor.stop_restarting()
            self._on_begin()
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            if self.state == DRAINING:
                await self._until_hurried(self._drain())
            self._move("drained")
            await self._stop()
        finally:
            self._supervisor.kill_all()
            self._move("ended")
            self.stopped.set()

    async def _until_hurried(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for the work, the drain time, or a second signal, whichever comes first."""
        task: asyncio.Future[object] = asyncio.ensure_future(work)
        hurry: asyncio.Future[object] = asyncio.ensure_future(self._hurry.wait())
        done, _ = await asyncio.wait({task, hurry}, timeout=self._drain_time_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            left = sum(slot.pulse.active for slot in self._supervisor.running())
            _log.warning("the drain time of %g s is over; closing %d connections", self._drain_time_s, left)
            self._move("time is up")
        for other in (task, hurry):
            other.cancel()
        await asyncio.gather(task, hurry, return_exceptions=True)

    async def _drain(self) -> None:
        slots = self._supervisor.running()
        _log.info("draining %d workers for at most %g s", len(slots), self._drain_time_s)
        self._supervisor.tell_all(m.Drain(self._drain_time_s, False))
        await self.stop_listening()
        while any(slot.pid and slot.pulse.active != 0 for slot in slots):
            self._supervisor.changed.clear()
            await self._supervisor.changed.wait()

    async def stop_listening(self) -> None:
        """Close the listening sockets here, then have the workers accept what is queued and close them too."""
        for listener in self._listeners:
            listener.close()
        await asyncio.gather(*(self._stop_accepting(slot) for slot in self._supervisor.running()))

    async def _stop_accepting(self, slot: WorkerSlot) -> None:
        slot.pulse.active = -1  # not known until it says so
        try:
            await slot.stop_accepting(ACCEPT_TIMEOUT_S)
        except WorkerError as error:
            _log.warning("%s", error)
            slot.kill()

    async def _stop(self) -> None:
        self._supervisor.tell_all(m.Stop())
        for listener in self._listeners:
            listener.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_TIMEOUT_S
        while self._supervisor.running() and loop.time() < deadline:
            self._supervisor.changed.clear()
            try:
                await asyncio.wait_for(self._supervisor.changed.wait(), deadline - loop.time())
            except TimeoutError:
                break
        for slot in self._supervisor.running():
            _log.warning("worker %d (pid %d) does not end; it is killed", slot.worker_id, slot.pid)
            slot.kill()

"""The way out: readiness fails, nothing new is accepted, what is in flight finishes, the process ends.

Begun by SIGTERM, SIGINT or ``POST /quitquitquit`` (which waits for nobody, as Envoy's does). With ``--drain-grace-s``
everything goes on for a while first, so that load balancers see the failing readiness. Then clients are told to close,
and the listeners end as ``listener_drain`` says, so no client is left waiting in a queue that nobody reads. A second
signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from workerproxy.control import messages as m
from workerproxy.main_thread.supervisor import RETIRE_TIMEOUT_S, STOP_TIMEOUT_S
from workerproxy.main_thread.worker_slot import WorkerError

if TYPE_CHECKING:
    from workerproxy.main_thread.listener_drain import ListenerDrain
    from workerproxy.main_thread.listener_manager import ListenerManager
    from workerproxy.main_thread.supervisor import Supervisor
    from workerproxy.main_thread.worker_slot import WorkerSlot

_log = logging.getLogger("workerproxy.main")

# States, in the order of life.
RUNNING: Final = "running"
GRACE: Final = "grace"  # readiness fails, everything else goes on
DRAINING: Final = "draining"
STOPPING: Final = "stopping"  # workers are told to end
STOPPED: Final = "stopped"  # terminal

TRANSITIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        RUNNING: {"asked": GRACE, "handed over": DRAINING, "at once": STOPPING},
        GRACE: {"asked": STOPPING, "at once": STOPPING, "grace is over": DRAINING},
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
        listeners: ListenerManager,
        listener_drain: ListenerDrain,
        drain_time_s: float,
        grace_s: float,
        on_begin: Callable[[], None],
    ) -> None:
        self._supervisor = supervisor
        self._listeners = listeners
        self._listener_drain = listener_drain
        self._drain_time_s = drain_time_s
        self._grace_s = grace_s
        self._on_begin = on_begin
        self._task: asyncio.Task[None] | None = None
        self.hurried = asyncio.Event()
        self._handed_over: m.Drain | None = None
        self.let_go = asyncio.Event()  # set when no worker reads a listening socket any more
        self.stopped = asyncio.Event()
        self.state = RUNNING

    def __repr__(self) -> str:
        return f"<Drain {self.state}>"

    def _move(self, event: str) -> None:
        self.state = TRANSITIONS[self.state].get(event, self.state)

    def ask(self) -> None:
        """Drain and stop; asked again, stop at once."""
        if self.state in (GRACE, DRAINING, STOPPING):
            _log.warning("asked again: ending at once")
            self.hurried.set()
        self._move("asked")
        self._begin()

    def stop_at_once(self) -> None:
        self.hurried.set()
        self._move("at once")
        self._begin()

    def handed_over(self, drain: m.Drain) -> None:
        """A successor serves on the same sockets: the workers leave, and then this process does."""
        self._handed_over = drain
        self._move("handed over")
        self._begin()

    def _begin(self) -> None:
        if self._task is None:
            self._supervisor.stop_restarting()
            self._on_begin()
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            if self.state == GRACE:
                await self._until_hurried(asyncio.sleep(self._grace_s), self._grace_s + 1.0)
                self._move("grace is over")
            if self.state == DRAINING:
                in_time = await self._until_hurried(self._drain(), self._drain_time_s)
                if not in_time:
                    left = self._supervisor.connections()
                    _log.warning("the drain time of %g s is over; closing %d connections", self._drain_time_s, left)
                    self._move("time is up")
            self._move("drained")
            await self._stop()
        except Exception:
            _log.exception("the drain failed; ending")
        finally:
            self._supervisor.kill_all()
            self._move("ended")
            self.let_go.set()
            self.stopped.set()

    async def _until_hurried(self, work: Coroutine[Any, Any, None], timeout_s: float) -> bool:
        """Wait for the work, the time, or a second signal, whichever comes first; False when it was the time."""
        task: asyncio.Future[object] = asyncio.ensure_future(work)
        hurry: asyncio.Future[object] = asyncio.ensure_future(self.hurried.wait())
        done, _ = await asyncio.wait({task, hurry}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for other in (task, hurry):
            other.cancel()
        await asyncio.gather(task, hurry, return_exceptions=True)
        return bool(done)

    async def _drain(self) -> None:
        supervisor = self._supervisor
        slots = supervisor.running()
        _log.info("draining %d workers for at most %g s", len(slots), self._drain_time_s)
        if self._handed_over is None:
            supervisor.share_out()  # what a worker that has just died left queued is for the others
            supervisor.tell_all(m.Drain(self._drain_time_s, False, []))
            await self._listener_drain.stop(list(self._listeners.active.values()), ending=True)
        else:
            supervisor.give_sockets_away()
            supervisor.tell_all(self._handed_over)
            # First nobody accepts and hands on any more, then all leave.
            await asyncio.gather(*(self._do(slot, slot.release_all(RETIRE_TIMEOUT_S)) for slot in slots))
        await asyncio.gather(*(self._do(slot, slot.retire(RETIRE_TIMEOUT_S)) for slot in slots))
        self.let_go.set()
        while any(slot.pid and slot.pulse.active != 0 for slot in slots):
            supervisor.changed.clear()
            await supervisor.changed.wait()

    async def _do(self, slot: WorkerSlot, asked: Coroutine[Any, Any, None]) -> None:
        """Wait for what a worker was asked; one that does not do it is killed."""
        pid = slot.pid
        try:
            await asked
        except WorkerError as error:
            _log.warning("%s", error)
            if slot.pid == pid:
                slot.kill()

    async def _stop(self) -> None:
        self._supervisor.tell_all(m.Stop())
        self._listeners.close_all()
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

"""All workers: starts them, brings a successor up when one ends, throttles a crash loop, has more or fewer of them.

Policy is in ``restart_policy``, mechanism in ``worker_process``, one place's state in ``worker_slot``, who reads which
socket in ``socket_shares``, the pulse in ``watchdog``. A successor gets the configuration that is active when it is
ready for one; when another became active meanwhile, it gets that too, so a worker that dies in the middle of a reload
ends up on the right version.

``slots`` are the places that serve, by number. ``leaving`` are those whose worker was told to go: it reads no listening
socket, finishes its connections within the drain time, and is not replaced.

Diagnostics: ``server.worker_restarts``, and one log line per death with the reason and when the successor starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from workerproxy.control import messages as m
from workerproxy.main_thread.balance_group import balance_messages
from workerproxy.main_thread.socket_shares import SocketName, shares
from workerproxy.main_thread.watchdog import Watchdog
from workerproxy.main_thread.worker_process import describe_status
from workerproxy.main_thread.worker_slot import (
    DRAINING,
    EMPTY,
    SERVING,
    SlotSettings,
    WorkerError,
    WorkerRefusedError,
    WorkerSlot,
    WorkerTimeoutError,
)

if TYPE_CHECKING:
    from workerproxy.control.board import BoardOwner
    from workerproxy.main_thread.configuration import Configuration
    from workerproxy.main_thread.listener_manager import ListenerManager
    from workerproxy.main_thread.stats import ServerStats

_log = logging.getLogger("workerproxy.main")

MAX_WORKERS: Final = 128  # half of the board's rows, so that all can be rolled at once
GROUP_TIMEOUT_S: Final = 2.0  # for a worker to say that it knows among whom connections are handed
RETIRE_TIMEOUT_S: Final = 5.0
STOP_TIMEOUT_S: Final = 2.0  # for a worker to end after Stop; then it is killed


class Supervisor:
    """Made before the first worker; ``start`` begins, ``stop_restarting`` is the beginning of the end."""

    def __init__(
        self,
        workers: int,
        settings: SlotSettings,
        configuration: Configuration,
        listeners: ListenerManager,
        board: BoardOwner,
        stats: ServerStats,
        affinity: Callable[[int], set[int] | None] = lambda worker_id: None,
    ) -> None:
        """``affinity(worker_id)``: the processors a worker is bound to, None for all."""
        self._settings = settings
        self._configuration = configuration
        self._listeners = listeners
        self._board = board
        self._stats = stats
        self._affinity = affinity
        self._restarting = True
        self._rows_said = 0
        self._given_away = False  # another program reads the sockets
        self._group_told: asyncio.Future[list[None]] | None = None  # done when all know the latest group
        self._tasks: set[asyncio.Task[None]] = set()
        self.watchdog = Watchdog(settings.store.own, self._on_hung)
        self.on_rows: Callable[[int], None] = lambda rows: None  # further rows are to be summed up
        self.on_left: Callable[[WorkerSlot], None] = lambda slot: None  # its row is free
        self.changed = asyncio.Event()  # set at every death and every drained worker
        self.leaving: list[WorkerSlot] = []
        self.slots = [self._new_slot(number) for number in range(workers)]

    def __repr__(self) -> str:
        return f"<Supervisor {self.slots!r} leaving={self.leaving!r}>"

    def _new_slot(self, worker_id: int) -> WorkerSlot:
        return WorkerSlot(worker_id, self._board.take_row(), self._settings, self._on_death, self._on_drained)

    # --- start and end

    def start(self) -> None:
        """Start all processes. They have no configuration yet; ``reload`` gives them the first one."""
        for slot in self.slots:
            self._start(slot)

    def _start(self, slot: WorkerSlot) -> None:
        if self.stopping:
            raise WorkerError("the process is stopping")
        slot.start()
        processors = self._affinity(slot.worker_id)
        if processors is not None:
            with contextlib.suppress(OSError):  # it has ended, which is noticed elsewhere
                os.sched_setaffinity(slot.pid, processors)
        self.watchdog.watch(slot)
        self.say_rows()

    def stop_restarting(self) -> None:
        """From now on a worker that ends stays away, and no other one is started."""
        self._restarting = False

    @property
    def stopping(self) -> bool:
        return not self._restarting

    def everyone(self) -> list[WorkerSlot]:
        return [*self.slots, *self.leaving]

    def running(self) -> list[WorkerSlot]:
        return [slot for slot in self.everyone() if slot.pid]

    def serving(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if slot.state == SERVING]

    def useful(self) -> list[WorkerSlot]:
        """Those that have work: they serve, or finish what they began."""
        return [slot for slot in self.everyone() if slot.state in (SERVING, DRAINING)]

    def connections(self) -> int:
        """Downstream connections of all workers, as the last heartbeats said."""
        return sum(max(slot.pulse.active, 0) for slot in self.everyone())

    def kill_all(self) -> None:
        for slot in self.everyone():
            slot.kill()

    def cancel_tasks(self) -> None:
        self.watchdog.stop()
        for task in self._tasks:
            task.cancel()

    # --- talking to all

    def tell_all(self, message: m.Message) -> None:
        for slot in self.running():
            slot.tell(message)

    async def ask_all(self, message: m.Message, timeout_s: float) -> dict[int, m.Message | WorkerError]:
        """Ask every worker that runs; the answers, or what went wrong, by row. Takes at most ``timeout_s``."""
        return await self.ask_each(self.running(), message, timeout_s)

    async def ask_each(
        self, slots: Iterable[WorkerSlot], message: m.Message, timeout_s: float
    ) -> dict[int, m.Message | WorkerError]:
        asked = list(slots)
        answers = await asyncio.gather(*(slot.ask(message, timeout_s) for slot in asked), return_exceptions=True)
        result: dict[int, m.Message | WorkerError] = {}
        for slot, answer in zip(asked, answers, strict=True):
            if isinstance(answer, m.Message | WorkerError):
                result[slot.row] = answer
            else:
                raise answer
        return result

    def update_hosts(self, cluster: str, hosts: m.Hosts) -> None:
        for slot in self.everyone():
            slot.update_hosts(cluster, hosts)

    # --- who reads which socket, who counts in which row, who is handed connections

    def share_out(self) -> None:
        """Give every listening socket a reader. Ask again whenever a worker or a bind comes or goes.

        Workers that serve read all sockets. One that starts has its share already, and reads it when it serves: only
        then the others let go of it. So a socket is never without a reader while any worker serves.
        """
        if self._given_away:
            return
        binds = self._listeners.binds
        rows = [(bind.bind_id, len(bind.sockets), bind.shared) for bind in binds.values()]
        there = [slot for slot in self.slots if slot.pid and not slot.throttled and slot.state != DRAINING]
        serving = [slot for slot in there if slot.state == SERVING and not slot.hung]
        now = shares(rows, [slot.worker_id for slot in serving])
        soon = shares(rows, [slot.worker_id for slot in there])
        for slot in there:
            wanted = (now if slot in serving else soon)[slot.worker_id] if not slot.hung else set()
            missing = sorted(wanted - slot.held)
            slot.give_sockets({name: self._descriptor(name) for name in missing})
        if serving:
            for slot in self.everyone():
                mine = now if slot in serving else soon
                own = mine.get(slot.worker_id, set()) if slot in there and not slot.hung else set()
                slot.release_sockets(sorted(slot.held - own))
        for bind in binds.values():
            bind.steer(len(serving) or len(there))
        self.say_balance_group()

    def give_sockets_away(self) -> None:
        """Another program reads all of them: no worker gets any from now on, whatever it was doing."""
        self._given_away = True

    def _descriptor(self, name: SocketName) -> int:
        return self._listeners.binds[name.bind_id].sockets[name.position].fileno()

    def release_binds(self, binds: Iterable[int]) -> None:
        """Have nobody read these any more: they were opened for a configuration that was refused."""
        gone = set(binds)
        for slot in self.everyone():
            slot.release_sockets(sorted(name for name in slot.held if name.bind_id in gone))

    def say_rows(self) -> None:
        """Tell all how many rows of the board there are to sum up, when that has changed."""
        rows = self._board.rows
        if rows != self._rows_said:
            self._rows_said = rows
            self.tell_all(m.BoardRows(rows))
            self.on_rows(rows)

    def say_balance_group(self) -> None:
        """Tell all among whom connections are handed, where a listener asks for that."""
        config = self._configuration.active
        if config is None or not config.exact_balance:
            return
        members = [slot for slot in self.serving() if not slot.hung]
        told = [self._ask_quietly(slot, message) for slot, message in balance_messages(members, self.useful())]
        self._group_told = asyncio.gather(*told)

    async def _ask_quietly(self, slot: WorkerSlot, message: m.Message) -> None:
        with contextlib.suppress(WorkerError):  # it has ended, or is slow to say that it has heard
            await slot.ask(message, GROUP_TIMEOUT_S)

    async def balance_group_told(self) -> None:
        """Return when nobody hands connections to a worker that is no longer in the group."""
        if self._group_told is not None:
            await self._group_told

    # --- death and succession

    def _on_death(self, slot: WorkerSlot, status: int, lifetime_s: float) -> None:
        self._board.clear_row(slot.row, self._configuration.slots.used)
        self.changed.set()
        why = describe_status(status)
        if not self._restarting:
            self.on_left(slot)
        if slot in self.leaving:
            self.leaving.remove(slot)
            self._give_up(slot)
            _log.log(logging.INFO if status == 0 else logging.ERROR, "worker %d has left: %s", slot.worker_id, why)
            return
        if not self._restarting:
            _log.log(logging.INFO if status == 0 else logging.ERROR, "worker %d ended: %s", slot.worker_id, why)
            self.share_out()  # what waits in its queues is for those that are left
            return
        if slot not in self.slots:
            return  # it was to take over in a roll, which sees for itself that it has ended
        if self._configuration.active is None:
            _log.error("worker %d ended before it was ready: %s", slot.worker_id, why)
            return
        pause = slot.policy.pause_after(lifetime_s)
        slot.throttled = pause > 0
        self._stats.worker_restarts += 1
        _log.error(
            "worker %d ended after %.1f s: %s; its successor starts %s",
            slot.worker_id,
            lifetime_s,
            why,
            f"in {pause:g} s" if pause else "at once",
        )
        self.share_out()
        self._spawn(self._succeed(slot, pause))

    def _on_hung(self, slot: WorkerSlot, hung: bool) -> None:
        """It does not answer, or does so again: what waits for it is for the others meanwhile."""
        slot.hung = hung
        self.share_out()

    def _give_up(self, slot: WorkerSlot) -> None:
        slot.give_up()
        self._board.free_row(slot.row)
        self.say_rows()

    def _on_drained(self, slot: WorkerSlot) -> None:
        _log.debug("worker %d has no connection left", slot.worker_id)
        self.changed.set()

    async def _succeed(self, slot: WorkerSlot, pause_s: float) -> None:
        """Start a successor and give it the active configuration."""
        await asyncio.sleep(pause_s)
        if not self._restarting or slot.state != EMPTY or slot not in self.slots:
            return
        pid = 0
        try:
            self._start(slot)
            pid = slot.pid
            await self._bring_up(slot)
        except OSError as error:
            _log.error("worker %d cannot be started: %s", slot.worker_id, error)
            self._spawn(self._succeed(slot, max(slot.policy.pause_after(0.0), 0.1)))
        except WorkerError as error:
            if slot in self.slots and slot.pid == pid:
                _log.error("the successor of worker %d is of no use: %s", slot.worker_id, error)
                slot.kill()  # its death brings the next one
        else:
            _log.info("worker %d (pid %d) serves version %d", slot.worker_id, slot.pid, slot.version)

    async def _bring_up(self, slot: WorkerSlot) -> None:
        """From a process that has just been started to a worker that serves. Raises ``WorkerError``."""
        slot.throttled = False
        self.share_out()
        await self.bring_up_to_date(slot)
        self.share_out()
        await self.balance_group_told()

    async def bring_up_to_date(self, slot: WorkerSlot) -> None:
        """Prepare and commit the active configuration, and again if another has become active. ``WorkerError``."""
        async with slot.lock:
            while (active := self._configuration.active) is not None and slot.version != active.version:
                await slot.prepare(active)
                await slot.commit(active)

    def catch_up(self) -> None:
        """A configuration became active: workers that were not asked to prepare it get it now."""
        for slot in self.running():
            self._spawn(self._catch_up(slot, slot.pid))

    async def _catch_up(self, slot: WorkerSlot, pid: int) -> None:
        try:
            await self.bring_up_to_date(slot)
        except (WorkerTimeoutError, WorkerRefusedError) as error:
            if slot in self.leaving:
                _log.info("%s; it leaves with the configuration it has", error)
            elif slot.pid == pid:
                _log.error("%s; it is replaced", error)
                slot.kill()
        except WorkerError as error:
            _log.debug("%s", error)  # it has ended; its successor is brought up to date anyway

    # --- more, fewer, others

    async def grow(self, workers: int) -> None:
        """Have so many places, all serving. Raises ``OSError``, ``WorkerError``, ``ListenError``: as many as before."""
        self._listeners.grow(workers)
        added = [self._new_slot(number) for number in range(len(self.slots), workers)]
        self.slots += added
        try:
            for slot in added:
                self._start(slot)
            results = await asyncio.gather(*(self._bring_up(slot) for slot in added), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            for slot in added:
                self.dismiss(slot)
            raise

    def dismiss(self, slot: WorkerSlot) -> None:
        """Do without a worker at once: it never served, or is of no use."""
        if slot in self.slots:
            self.slots.remove(slot)
        if slot.pid:
            self.leaving.append(slot)
            slot.kill()
        else:
            self._give_up(slot)
        self.share_out()

    def shrink(self, workers: int, drain: m.Drain) -> None:
        """Have only the first so many places; the others' workers leave."""
        going, self.slots = self.slots[workers:], self.slots[:workers]
        self._listeners.workers = workers
        for slot in going:
            self.retire(slot, drain)

    def new_worker(self, worker_id: int) -> WorkerSlot:
        """A second worker with a number that has one, for a roll; it has a process and reads nothing yet.

        Raises ``OSError``.
        """
        slot = self._new_slot(worker_id)
        try:
            self._start(slot)
        except BaseException:
            self._give_up(slot)
            raise
        return slot

    def take_over(self, successor: WorkerSlot, drain: m.Drain) -> None:
        """The successor serves in the place of the worker with its number, which leaves."""
        old = self.slots[successor.worker_id]
        self.slots[successor.worker_id] = successor
        self.retire(old, drain)

    def retire(self, slot: WorkerSlot, drain: m.Drain) -> None:
        """Have a worker leave: it is no longer in ``slots``, others read its sockets."""
        if not slot.pid:
            self._give_up(slot)
            self.share_out()
            return
        self.leaving.append(slot)
        self.share_out()
        self._spawn(self._see_off(slot, drain))

    async def _see_off(self, slot: WorkerSlot, drain: m.Drain) -> None:
        """From the first word to its end, within the drain time."""
        pid = slot.pid
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain.seconds
        _log.info("worker %d (pid %d) leaves within %g s", slot.worker_id, pid, drain.seconds)
        try:
            slot.tell(drain)
            await self.balance_group_told()
            await slot.retire(RETIRE_TIMEOUT_S)
            while slot.pid == pid and slot.pulse.active != 0 and loop.time() < deadline:
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), deadline - loop.time())
            if slot.pid == pid and slot.pulse.active > 0:
                _log.warning(
                    "worker %d: the drain time of %g s is over; closing %d connections",
                    slot.worker_id,
                    drain.seconds,
                    slot.pulse.active,
                )
            slot.tell(m.Stop())
            ended = loop.time() + STOP_TIMEOUT_S
            while slot.pid == pid and loop.time() < ended:
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), ended - loop.time())
        except WorkerError as error:
            _log.warning("%s", error)
        if slot.pid == pid:
            _log.warning("worker %d (pid %d) does not end; it is killed", slot.worker_id, pid)
            slot.kill()

    def hurry_leaving(self) -> None:
        """Those that have been leaving for long get a successor generation: they tell every client to close now."""
        for slot in self.leaving:
            slot.tell(m.Drain(0.0, False, []))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


__all__ = ["Supervisor", "WorkerError"]

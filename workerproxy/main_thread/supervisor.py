"""All workers: starts them, brings a successor up when one ends, throttles a crash loop, listens to their pulse.

Policy is in ``restart_policy``, mechanism in ``worker_process``, one place's state in ``worker_slot``. A successor gets
the configuration that is active when it is ready for one; when another became active meanwhile, it gets that too, so a
worker that dies in the middle of a reload ends up on the right version.

Diagnostics: ``server.worker_restarts``, and one log line per death with the reason and when the successor starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from workerproxy.control import messages as m
from workerproxy.main_thread.stats import WatchdogStats
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
    from workerproxy.main_thread.stats import ServerStats

_log = logging.getLogger("workerproxy.main")

BIRTH_TIMEOUT_S: Final = 60.0  # for a new process to read its first message
HEARTBEAT_INTERVAL_S: Final = 1.0
MISS_S: Final = 0.2  # envoy.config.bootstrap.v3.Watchdog.miss_timeout
MEGA_MISS_S: Final = 1.0  # megamiss_timeout


class Supervisor:
    """Made before the first worker; ``start`` begins, ``stop_restarting`` is the beginning of the end."""

    def __init__(
        self,
        workers: int,
        settings: SlotSettings,
        configuration: Configuration,
        board: BoardOwner,
        stats: ServerStats,
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._board = board
        self._stats = stats
        self._restarting = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_watchdogs = settings.store.own.group("workers", WatchdogStats)
        self.changed = asyncio.Event()  # set at every death and every drained worker
        self.slots = [WorkerSlot(number, settings, self._on_death, self._on_drained) for number in range(workers)]

    def __repr__(self) -> str:
        return f"<Supervisor {self.slots!r}>"

    # --- start and end

    def start(self) -> None:
        """Start all processes. They have no configuration yet; ``reload`` gives them the first one."""
        for slot in self.slots:
            slot.start()
            self._watch(slot)

    def stop_restarting(self) -> None:
        """From now on a worker that ends stays away."""
        self._restarting = False

    def running(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if slot.pid]

    def serving(self) -> list[WorkerSlot]:
        return [slot for slot in self.slots if slot.state == SERVING]

    def useful(self) -> list[WorkerSlot]:
        """Those that have work: they serve, or finish what they began."""
        return [slot for slot in self.slots if slot.state in (SERVING, DRAINING)]

    def kill_all(self) -> None:
        for slot in self.slots:
            slot.kill()

    def cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    # --- talking to all

    def tell_all(self, message: m.Message) -> None:
        for slot in self.running():
            slot.tell(message)

    async def ask_all(self, message: m.Message, timeout_s: float) -> dict[int, m.Message | WorkerError]:
        """Ask every worker that runs; the answers, or what went wrong, by worker. Takes at most ``timeout_s``."""
        return await self.ask_each(self.running(), message, timeout_s)

    async def ask_each(
        self, slots: Iterable[WorkerSlot], message: m.Message, timeout_s: float
    ) -> dict[int, m.Message | WorkerError]:
        asked = list(slots)
        answers = await asyncio.gather(*(slot.ask(message, timeout_s) for slot in asked), return_exceptions=True)
        result: dict[int, m.Message | WorkerError] = {}
        for slot, answer in zip(asked, answers, strict=True):
            if isinstance(answer, m.Message | WorkerError):
                result[slot.worker_id] = answer
            else:
                raise answer
        return result

    def update_hosts(self, cluster: str, hosts: m.Hosts) -> None:
        for slot in self.slots:
            slot.update_hosts(cluster, hosts)

    # --- death and succession

    def _on_death(self, slot: WorkerSlot, status: int, lifetime_s: float) -> None:
        self._board.clear_worker(slot.worker_id, self._configuration.slots.used)
        self.changed.set()
        why = describe_status(status)
        if not self._restarting:
            _log.log(logging.INFO if status == 0 else logging.ERROR, "worker %d ended: %s", slot.worker_id, why)
            return
        if self._configuration.active is None:
            _log.error("worker %d ended before it was ready: %s", slot.worker_id, why)
            return
        pause = slot.policy.pause_after(lifetime_s)
        self._stats.worker_restarts += 1
        _log.error(
            "worker %d ended after %.1f s: %s; its successor starts %s",
            slot.worker_id,
            lifetime_s,
            why,
            f"in {pause:g} s" if pause else "at once",
        )
        self._spawn(self._succeed(slot, pause))

    def _on_drained(self, slot: WorkerSlot) -> None:
        _log.debug("worker %d has no connection left", slot.worker_id)
        self.changed.set()

    async def _succeed(self, slot: WorkerSlot, pause_s: float) -> None:
        """Start a successor and give it the active configuration."""
        await asyncio.sleep(pause_s)
        if not self._restarting or slot.state != EMPTY:
            return
        try:
            slot.start()
            self._watch(slot)
            await self.bring_up_to_date(slot)
        except OSError as error:
            _log.error("worker %d cannot be started: %s", slot.worker_id, error)
            self._spawn(self._succeed(slot, slot.policy.pause_after(0.0)))
        except WorkerError as error:
            _log.error("the successor of worker %d is of no use: %s", slot.worker_id, error)
            slot.kill()  # its death brings the next one
        else:
            _log.info("worker %d (pid %d) serves version %d", slot.worker_id, slot.pid, slot.version)

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
            if slot.pid == pid:
                _log.error("%s; it is replaced", error)
                slot.kill()
        except WorkerError as error:
            _log.debug("%s", error)  # it has ended; its successor is brought up to date anyway

    # --- pulse

    def _watch(self, slot: WorkerSlot) -> None:
        stats = self._settings.store.own.group(f"server.worker_{slot.worker_id}", WatchdogStats)
        self._spawn(self._listen_to_pulse(slot, slot.pid, stats))

    async def _listen_to_pulse(self, slot: WorkerSlot, pid: int, stats: WatchdogStats) -> None:
        """Ask for a sign of life again and again until this process has ended; count the late ones.

        The first answer comes when the worker has been born, which may take as long as it takes.
        """
        both = (stats, self._all_watchdogs)
        try:
            await slot.ask(m.Heartbeat(), BIRTH_TIMEOUT_S)
        except WorkerTimeoutError as error:
            _log.error("%s; it is replaced", error)
            slot.kill()
            return
        except WorkerError:
            return  # it has ended, which is noticed elsewhere
        while slot.pid == pid:
            question = asyncio.ensure_future(slot.ask(m.Heartbeat(), 3600.0))
            done, _ = await asyncio.wait({question}, timeout=MISS_S)
            if not done:
                for group in both:
                    group.watchdog_miss += 1
                done, _ = await asyncio.wait({question}, timeout=MEGA_MISS_S - MISS_S)
            if not done:
                for group in both:
                    group.watchdog_mega_miss += 1
                _log.warning("worker %d (pid %d) has not answered for %g s", slot.worker_id, pid, MEGA_MISS_S)
            try:
                answer = await question
            except WorkerError:
                return
            if isinstance(answer, m.HeartbeatAck) and slot.pid == pid:
                slot.pulse.lag_ms, slot.pulse.active = answer.lag_ms, answer.active
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


__all__ = ["Supervisor", "WorkerError"]

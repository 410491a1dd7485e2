"""The pulse of every worker: asked for over the control pipe, late answers counted, a hung worker shown and replaced.

A worker answers between two events, so what blocks its loop shows here: an endless loop, a blocking call in a filter, a
stopped process. After ``megamiss_timeout`` its stack is logged (faulthandler, from a signal handler that needs no
cooperation of the interpreter); after ``kill_timeout`` it is killed, and its successor serves what waits in
its accept queues. Envoy's names: ``Watchdog``, ``GuardDog``.

Reads of ``bootstrap.v3.Bootstrap``: watchdogs.worker_watchdog and watchdogs.main_thread_watchdog (or the older
``watchdog``, for both): miss_timeout, megamiss_timeout, kill_timeout, max_kill_timeout_jitter.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil

from workerproxy.control import messages as m
from workerproxy.main_thread.stats import WatchdogStats, WorkerStats
from workerproxy.main_thread.worker_slot import WorkerError, WorkerTimeoutError

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import StatsWriter
    from workerproxy.main_thread.worker_slot import WorkerSlot

_log = logging.getLogger("workerproxy.main")

BIRTH_TIMEOUT_S: Final = 60.0  # for a new process to read its first message
INTERVAL_S: Final = 0.5  # between an answer and the next question
STACK_S: Final = 0.2  # for a hung worker to write its stack
# Envoy never kills when nothing is said, since that would end all of it. Here it costs one worker, which does nothing
# anyway.
DEFAULT_KILL_S: Final = 30.0
_DEFAULT_MISS_S: Final = 0.2
_DEFAULT_MEGA_MISS_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class WatchdogSettings:
    """``bootstrap.v3.Watchdog``, in seconds; ``kill_s`` 0: never."""

    miss_s: float = _DEFAULT_MISS_S
    mega_miss_s: float = _DEFAULT_MEGA_MISS_S
    kill_s: float = DEFAULT_KILL_S
    kill_jitter_s: float = 0.0

    @classmethod
    def of_workers(cls, bootstrap: Any) -> WatchdogSettings:
        return cls._of(bootstrap, "worker_watchdog")

    @classmethod
    def of_main(cls, bootstrap: Any) -> WatchdogSettings:
        return cls._of(bootstrap, "main_thread_watchdog")

    @classmethod
    def _of(cls, bootstrap: Any, which: str) -> WatchdogSettings:
        if bootstrap.HasField("watchdogs") and bootstrap.watchdogs.HasField(which):
            config = getattr(bootstrap.watchdogs, which)
        elif bootstrap.HasField("watchdog"):
            config = bootstrap.watchdog
        else:
            return cls()
        miss = _seconds(config, "miss_timeout", _DEFAULT_MISS_S)
        return cls(
            miss,
            max(miss, _seconds(config, "megamiss_timeout", _DEFAULT_MEGA_MISS_S)),
            _seconds(config, "kill_timeout", DEFAULT_KILL_S),
            _seconds(config, "max_kill_timeout_jitter", 0.0),
        )


class Watchdog:
    """Watches processes from birth to death; ``settings`` may change at any time."""

    def __init__(self, stats: StatsWriter, on_hung: Callable[[WorkerSlot, bool], None]) -> None:
        """``on_hung(slot, True)`` after ``megamiss_timeout``, with False when it answers after all."""
        self._on_hung = on_hung
        self.settings = WatchdogSettings()
        self.main_settings = WatchdogSettings()
        self._stats = stats
        self._of_all = stats.group("workers", WatchdogStats)
        self._of_main = stats.group("server.main_thread", WatchdogStats)
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.TimerHandle | None = None

    def configure(self, bootstrap: Any) -> None:
        """A configuration became active."""
        self.settings = WatchdogSettings.of_workers(bootstrap)
        self.main_settings = WatchdogSettings.of_main(bootstrap)

    def watch(self, slot: WorkerSlot) -> None:
        """Listen to the process that fills this place now, until it has ended."""
        task = asyncio.ensure_future(self._listen(slot, slot.pid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def watch_main(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count how often the main process's own loop is late."""
        due = loop.time() + INTERVAL_S

        def look() -> None:
            late = loop.time() - due
            self._of_main.watchdog_miss += late > self.main_settings.miss_s
            self._of_main.watchdog_mega_miss += late > self.main_settings.mega_miss_s
            self.watch_main(loop)

        self._main = loop.call_at(due, look)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._main is not None:
            self._main.cancel()

    async def _listen(self, slot: WorkerSlot, pid: int) -> None:
        """Ask again and again. The first answer comes when the worker has been born, which may take its time."""
        mine = self._stats.group(f"server.worker_{slot.worker_id}", WorkerStats)
        try:
            await slot.ask(m.Heartbeat(), BIRTH_TIMEOUT_S)
        except WorkerTimeoutError as error:
            _log.error("%s; it is replaced", error)
            slot.kill()
            return
        except WorkerError:
            return  # it has ended, which is noticed elsewhere
        while slot.pid == pid:
            question = asyncio.ensure_future(slot.ask(m.Heartbeat(), 10 * 365 * 86400.0))
            try:
                answer = await self._await(question, slot, pid, mine)
            except WorkerError:
                return
            finally:
                question.cancel()
            if isinstance(answer, m.HeartbeatAck) and slot.pid == pid:
                slot.pulse.lag_ms = answer.lag_ms
                if slot.pulse.active >= 0:  # else it tells itself how many are left
                    slot.pulse.active = answer.active
                mine.loop_lag_ms = round(answer.lag_ms)
                mine.loop_delay_ms.record(round(answer.lag_ms))
            await asyncio.sleep(INTERVAL_S)

    async def _await(
        self, question: asyncio.Future[m.Message], slot: WorkerSlot, pid: int, mine: WorkerStats
    ) -> m.Message | None:
        """The answer, however late; None when there was none and the worker was killed."""
        settings = self.settings
        if await _answered(question, settings.miss_s):
            return question.result()
        self._count("watchdog_miss", mine)
        if await _answered(question, settings.mega_miss_s - settings.miss_s):
            return question.result()
        self._count("watchdog_mega_miss", mine)
        asked_at = asyncio.get_running_loop().time() - settings.mega_miss_s
        self._on_hung(slot, True)
        await self._show(slot, pid, settings)
        jitter = random.random() * settings.kill_jitter_s
        while not question.done():
            settings = self.settings  # a reload may have changed them
            waited = asyncio.get_running_loop().time() - asked_at
            mine.loop_lag_ms = round(waited * 1000)
            slot.pulse.lag_ms = waited * 1000
            if settings.kill_s and waited >= settings.kill_s + jitter:
                _log.error(
                    "worker %d (pid %d) has not answered for %.1f s; it is killed and replaced",
                    slot.worker_id,
                    pid,
                    waited,
                )
                slot.kill()
                return None
            await _answered(question, min(INTERVAL_S, max(0.01, settings.kill_s + jitter - waited)))
        if slot.pid == pid:
            self._on_hung(slot, False)
        return question.result()

    async def _show(self, slot: WorkerSlot, pid: int, settings: WatchdogSettings) -> None:
        slot.ask_stack()
        await asyncio.sleep(STACK_S)
        _log.warning(
            "worker %d (pid %d, %s) has not answered for %g s; what it is doing:\n%s",
            slot.worker_id,
            pid,
            _status(pid),
            settings.mega_miss_s,
            slot.stack().rstrip() or "nothing it could tell",
        )

    def _count(self, name: str, mine: WorkerStats) -> None:
        for group in (mine, self._of_all):
            setattr(group, name, getattr(group, name) + 1)


async def _answered(question: asyncio.Future[m.Message], timeout_s: float) -> bool:
    done, _ = await asyncio.wait({question}, timeout=max(0.0, timeout_s))
    return bool(done)


def _status(pid: int) -> str:
    """What the system says of a process: ``running``, ``stopped``, ``disk-sleep`` ..."""
    try:
        return str(psutil.Process(pid).status())
    except psutil.Error:
        return "gone"


def _seconds(config: Any, field: str, default: float) -> float:
    if not config.HasField(field):
        return default
    duration = getattr(config, field)
    return float(duration.seconds) + float(duration.nanos) / 1e9

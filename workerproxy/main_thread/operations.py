"""What the main process can be asked to do: by signals, by admin pages, and by what it watches.

Each operation is applied in all workers before it is answered. Those that change what runs (reload, scale, roll,
upgrade) happen one at a time, under one lock. After a successor has taken over, signals that still come to this process
are passed on to it (``keeper``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from workerproxy.control import messages as m
from workerproxy.control.logging import set_levels
from workerproxy.main_thread.listener_manager import ACTIVE
from workerproxy.main_thread.listener_sockets import ListenError
from workerproxy.main_thread.roll import Roll, RollResult
from workerproxy.main_thread.supervisor import MAX_WORKERS
from workerproxy.main_thread.upgrade import Upgrade, UpgradeResult
from workerproxy.main_thread.worker_slot import WorkerError

if TYPE_CHECKING:
    from workerproxy.main_thread.listener_manager import Listener
    from workerproxy.main_thread.reload import ReloadResult
    from workerproxy.main_thread.server import Server

_log = logging.getLogger("workerproxy.main")

APPLY_TIMEOUT_S: Final = 2.0  # for workers to apply what an admin page asks
LET_GO_TIMEOUT_S: Final = 5.0
_INBOUND: Final = 1  # core.v3.TrafficDirection


class OperationError(Exception):
    """It cannot be done; the text says why, and nothing has changed."""


class Operations:
    """See the module. ``command`` is the command line of a successor."""

    def __init__(self, server: Server, lock: asyncio.Lock, command: Sequence[str]) -> None:
        self._server = server
        self._lock = lock
        self._roll = Roll(server.supervisor, lock)
        self._upgrade = Upgrade(server, lock, command)
        self._tasks: set[asyncio.Task[object]] = set()
        self._stop_listening: asyncio.TimerHandle | None = None  # POST /drain_listeners?graceful
        self._draining: list[str] | None = None  # listeners that tell clients to close; all, when empty
        self.health_failed = False  # POST /healthcheck/fail
        self.handed_over = False  # a successor serves

    async def outlive_successor(self, hurried: asyncio.Event) -> None:
        """One that was refused may still finish what it has accepted."""
        await self._upgrade.wait_refused(hurried, self._server.options.drain_time_s)

    @property
    def passes_signals_on(self) -> bool:
        """Whether signals are no longer this process's, but its successor's."""
        return self._upgrade.passes_signals_on

    def end(self, code: int) -> int:
        """How this process ends; see ``Upgrade.end``."""
        return self._upgrade.end(code)

    def close(self) -> None:
        self._upgrade.close()
        for task in self._tasks:
            task.cancel()

    def _in_background(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- signals

    def drain_and_stop(self) -> None:
        """SIGTERM, SIGINT, SIGQUIT. While the first configuration is not served yet there is nothing to drain.

        In the middle of an upgrade it ends the upgrade, unless the successor has taken over already: then it is its.
        """
        if self._upgrade.stop_asked(handed_over=self.handed_over):
            return
        if self._server.initialized:
            self._server.drain.ask()
        else:
            self._server.drain.stop_at_once()

    def reload(self) -> None:
        """SIGHUP, or a file that changed."""
        self._in_background(self.reload_now())

    def reopen_logs(self) -> None:
        """SIGUSR1."""
        self._in_background(self.reopen_all_logs())

    def upgrade(self) -> None:
        """SIGUSR2."""
        self._in_background(self.upgrade_now())

    def one_worker_more(self) -> None:
        """SIGTTIN."""
        self._in_background(self._scale_by(1))

    def one_worker_less(self) -> None:
        """SIGTTOU."""
        self._in_background(self._scale_by(-1))

    async def _scale_by(self, difference: int) -> None:
        try:
            await self.scale(len(self._server.supervisor.slots) + difference)
        except OperationError as error:
            _log.error("%s", error)

    # --- configuration

    async def reload_now(self, *, dry_run: bool = False) -> ReloadResult:
        notifier = self._server.notifier
        if not dry_run and self._server.initialized:
            notifier.reloading("reloading")
        try:
            return await self._server.reloader.reload(dry_run=dry_run)
        finally:
            if not dry_run and self._server.initialized and not self.handed_over:
                notifier.ready(self._server.status_text())

    # --- workers

    async def scale(self, workers: int) -> str:
        """Have so many workers; says what was done. Raises ``OperationError``."""
        if not 1 <= workers <= MAX_WORKERS:
            raise OperationError(f"{workers} workers are not possible: 1 to {MAX_WORKERS} are")
        self._check_serves()
        async with self._lock:
            self._check_serves()
            supervisor = self._server.supervisor
            before = len(supervisor.slots)
            if workers > before:
                try:
                    await supervisor.grow(workers)
                except (OSError, WorkerError, ListenError, RuntimeError) as error:
                    raise OperationError(f"there are still {before} workers: {error}") from None
            elif workers < before:
                supervisor.shrink(workers, self._gentle_drain())
            text = f"{before} workers -> {workers}" if workers != before else f"there are {workers} workers"
            _log.info("%s", text)
            return text

    async def roll(self) -> RollResult:
        """New processes for all workers, one by one. Raises ``OperationError``."""
        self._check_serves()
        return await self._roll.run(self._gentle_drain())

    def _check_serves(self) -> None:
        if not self._server.initialized or self._server.drain.state != "running":
            raise OperationError("it is starting or stopping")

    def _gentle_drain(self) -> m.Drain:
        options = self._server.options
        return m.Drain(float(options.drain_time_s), options.drain_strategy == "gradual", [])

    # --- another program

    async def upgrade_now(self) -> UpgradeResult:
        """Start the program that is installed now, and leave when it serves."""
        try:
            self._check_serves()
        except OperationError as error:
            return UpgradeResult(False, why=str(error))
        if self._server.predecessor is not None:
            self._server.predecessor.hurry(now=False)
        return await self._upgrade.run()

    def external_successor(self) -> None:
        """A successor that somebody else started (``--restart-epoch``) serves."""
        _log.info("hot restart: the next epoch serves; draining")

    async def let_go(self, addresses: Sequence[str]) -> None:
        """A successor serves on these addresses: listen no more, and leave."""
        server = self._server
        self.handed_over = True
        await server.admin.stop_listening()
        taken = set(addresses)
        others: list[Listener] = []
        for listener in server.listeners.active.values():
            if taken.isdisjoint(listener.addresses):
                others.append(listener)
            else:
                for bind in listener.binds:
                    bind.pipe_path = ""  # its file is the successor's
        if others:
            await server.listener_drain.stop(others)
        server.drain.handed_over(self._gentle_drain())
        await asyncio.wait({asyncio.ensure_future(server.drain.let_go.wait())}, timeout=LET_GO_TIMEOUT_S)

    def hurry(self, *, now: bool) -> None:
        """The successor says that this program has had its time."""
        if now:
            self._server.drain.stop_at_once()
        else:
            self._server.supervisor.tell_all(m.Drain(0.0, False, []))

    # --- stop and drain

    def stop_at_once(self) -> None:
        self._upgrade.stop_asked(handed_over=self.handed_over)
        self._server.drain.stop_at_once()

    def standing(self) -> list[m.Message]:
        """What a worker that comes later has to be told too."""
        if self.health_failed or self._draining is not None:
            return [m.Drain(float(self._server.options.drain_time_s), not self.health_failed, self._draining or [])]
        return []

    async def fail_health(self, failed: bool) -> None:
        """/ready says no, and clients are told to close; or both are taken back."""
        self.health_failed = failed
        message = m.Drain(float(self._server.options.drain_time_s), False, []) if failed else m.EndDrain()
        supervisor = self._server.supervisor
        await supervisor.ask_each(supervisor.serving(), message, APPLY_TIMEOUT_S)

    async def drain_listeners(self, *, graceful: bool, stop: bool, inbound_only: bool) -> None:
        """POST /drain_listeners."""
        listeners = [one for one in self._server.listeners.active.values() if one.state == ACTIVE]
        if inbound_only:
            listeners = [one for one in listeners if one.config.traffic_direction == _INBOUND]
        if not listeners:
            return
        options = self._server.options
        if graceful or not stop:
            self._draining = [one.name for one in listeners] if inbound_only else []
            message = m.Drain(float(options.drain_time_s), options.drain_strategy == "gradual", self._draining)
            supervisor = self._server.supervisor
            await supervisor.ask_each(supervisor.serving(), message, APPLY_TIMEOUT_S)
        if not stop or self._stop_listening is not None:
            return
        if graceful:
            loop = asyncio.get_running_loop()
            self._stop_listening = loop.call_later(options.drain_time_s, self._spawn_stop, listeners)
        else:
            await self._server.listener_drain.stop(listeners)

    def _spawn_stop(self, listeners: Iterable[Listener]) -> None:
        self._in_background(self._server.listener_drain.stop(listeners))

    # --- logs

    async def reopen_all_logs(self) -> None:
        self._server.application_log.reopen()
        await self._server.supervisor.ask_all(m.ReopenLogs(), APPLY_TIMEOUT_S)

    async def set_log_levels(self, level: str, components: dict[str, str]) -> None:
        """In all processes. Raises ``ValueError`` for an unknown level; then nothing has changed."""
        set_levels(level, components)
        await self._server.supervisor.ask_all(m.SetLogLevel(level, components), APPLY_TIMEOUT_S)

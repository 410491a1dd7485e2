"""The main process: puts the parts together, runs them, and is what admin pages and signals talk to.

Life: logs -> listening sockets -> admin socket -> workers -> first configuration (Prepare, Commit) -> live -> drain ->
end. Never sees a byte of a request. Exit codes: 0 after a drain or a stop, 1 when it cannot start; the reason is on
stderr in one line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import uvloop
from setproctitle import setproctitle

from workerproxy.config import load as config_load
from workerproxy.control import messages as m
from workerproxy.control.board import BoardOwner, board_bytes
from workerproxy.control.logging import ApplicationLog, LogSettings, set_levels
from workerproxy.main_thread import drain, signals
from workerproxy.main_thread.admin.server import AdminServer, AdminSocket
from workerproxy.main_thread.configuration import Configuration, ConfigVersion
from workerproxy.main_thread.demo import DemoOrigin, demo_runs, wants_demo, welcome
from workerproxy.main_thread.dns import CaresResolver, DnsClusters
from workerproxy.main_thread.drain import Drain
from workerproxy.main_thread.limit_gauges import LimitGauges
from workerproxy.main_thread.listener_sockets import ListenError, ListenerSockets, open_listeners
from workerproxy.main_thread.machine import memory_file, memory_of, raise_file_limit
from workerproxy.main_thread.membership import Membership
from workerproxy.main_thread.reload import Reload, ReloadResult
from workerproxy.main_thread.server_state import ServerState
from workerproxy.main_thread.stats import ListenerManagerStats, ServerStats
from workerproxy.main_thread.stats_store import FLUSH_INTERVAL_S, StatsStore
from workerproxy.main_thread.supervisor import Supervisor
from workerproxy.main_thread.version import program_version, version_parts
from workerproxy.main_thread.worker_process import WORKER_COMMAND
from workerproxy.main_thread.worker_slot import SlotSettings

if TYPE_CHECKING:
    from workerproxy.config.options import Options
    from workerproxy.control.stats_segment import StatValues

_log = logging.getLogger("workerproxy.main")

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

STATS_FLUSH_TIMEOUT_S: Final = 0.1  # for workers, before their statistics are read anyway
APPLY_TIMEOUT_S: Final = 2.0  # for workers to apply what an admin page asks
_INBOUND: Final = 1  # core.v3.TrafficDirection


class StartError(Exception):
    """The server cannot start; the text is for the operator."""


class Server:
    """Made before the event loop runs, so that whatever cannot be had is said at once. ``run`` is its life.

    ``worker_command`` is what a worker is started with; tests put a program of their own there.
    """

    def __init__(self, options: Options, bootstrap: Any, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
        """Raises ``StartError``."""
        self.options = options
        self.started_at = time.monotonic()
        self.configuration = Configuration()
        self.store = StatsStore()
        self.health_failed = False  # POST /healthcheck/fail
        self.initialized = False
        self._bootstrap = bootstrap
        self._worker_command = worker_command
        self.application_log = _open_log(options)
        raise_file_limit()
        try:
            self.listeners: list[ListenerSockets] = open_listeners(
                bootstrap.static_resources.listeners, options.workers
            )
            self.admin_socket = AdminSocket.open(bootstrap.admin) if bootstrap.HasField("admin") else None
        except ListenError as error:
            self.close()
            raise StartError(str(error)) from None
        self._stats = self.store.own.group("server", ServerStats)
        self._listener_stats = self.store.own.group("listener_manager", ListenerManagerStats)
        self.membership = Membership(self.store.own)

    def __repr__(self) -> str:
        return f"<Server {self.state.name} {self.configuration!r}>"

    def close(self) -> None:
        """Give everything back that was opened."""
        for listener in getattr(self, "listeners", ()):
            listener.close()
        socket = getattr(self, "admin_socket", None)
        if socket is not None:
            socket.close()

    @property
    def state(self) -> ServerState:
        """LIVE needs a worker that serves, or one whose listeners were stopped by hand."""
        if self.health_failed or (self.initialized and self.drain.state != drain.RUNNING):
            return ServerState.DRAINING
        if not self.initialized:
            return ServerState.PRE_INITIALIZING if self.configuration.active is None else ServerState.INITIALIZING
        return ServerState.LIVE if self.supervisor.useful() else ServerState.INITIALIZING

    @property
    def admin_address(self) -> str:
        return self.admin_socket.address if self.admin_socket else ""

    # --- life

    async def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        loop = asyncio.get_running_loop()
        resolver = CaresResolver()
        board_fd, board = memory_file("workerproxy-board", board_bytes(self.options.workers))
        self.dns = DnsClusters(resolver, self.store.own, self._hosts_changed)
        board_owner = BoardOwner(board, self.options.workers)
        self.limit_gauges = LimitGauges(self.store.own, board_owner)
        self.store.own.before_flush.append(self.limit_gauges.collect)
        self.supervisor = Supervisor(
            self.options.workers,
            SlotSettings(
                birth=_birth(self.options),
                command=self._worker_command,
                board_fd=board_fd,
                store=self.store,
                listeners=self.listeners,
                dns_hosts=self.dns.hosts,
            ),
            self.configuration,
            board_owner,
            self._stats,
        )
        self.reloader = Reload(self._load, self.configuration, self.supervisor, self.dns, self._activated)
        self.drain = Drain(self.supervisor, self.listeners, self.options.drain_time_s, self._drain_begins)
        self._stop_listening: asyncio.TimerHandle | None = None  # POST /drain_listeners?graceful
        admin: AdminServer | None = None
        signals.install(loop, self)
        try:
            if self.admin_socket is not None:
                admin = AdminServer(self)
                await admin.start(self.admin_socket)
                self._write_admin_address()
            if not await self._initialize():
                return EXIT_FAILED
            loop.call_later(FLUSH_INTERVAL_S, self._roll_interval, loop)
            await self.drain.stopped.wait()
            return EXIT_OK
        finally:
            signals.remove(loop)
            self.supervisor.stop_restarting()
            self.supervisor.kill_all()
            self.supervisor.cancel_tasks()
            self.dns.stop()
            if admin is not None:
                await admin.close()
            await resolver.close()
            os.close(board_fd)
            self.close()
            _log.info("exiting")

    async def _initialize(self) -> bool:
        """Start the workers and give them the first configuration; False when that failed or was interrupted."""
        _log.info("workerproxy %s (pid %d) starts %d workers", program_version(), os.getpid(), self.options.workers)
        try:
            self.supervisor.start()
        except OSError as error:
            _say(f"cannot start a worker: {error}")
            return False
        first = asyncio.ensure_future(self.reloader.apply_first(self._bootstrap))
        stopped = asyncio.ensure_future(self.drain.stopped.wait())
        await asyncio.wait({first, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if self.drain.state != drain.RUNNING:
            await stopped
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            return True
        stopped.cancel()
        result = first.result()
        if not result.ok:
            _say("\n".join(["the configuration cannot be served:", *result.errors]))
            return False
        self.initialized = True
        self._stats.initialization_time_ms.record(int((time.monotonic() - self.started_at) * 1000))
        self._listener_stats.workers_started = 1
        _log.info("all workers serve; listening on %s", ", ".join(listener.address for listener in self.listeners))
        return True

    def _load(self) -> Any:
        return config_load.load(self.options).bootstrap

    def _activated(self, new: ConfigVersion, old: ConfigVersion | None) -> None:
        self.membership.activate(new, old, self.dns.hosts())
        self.limit_gauges.activate(new)
        count = len(self.listeners)
        stats = self._listener_stats
        if old is None:
            stats.listener_added += count
            stats.listener_create_success += count * self.options.workers
        stats.total_listeners_active = count

    def _hosts_changed(self, cluster: str, hosts: m.Hosts) -> None:
        self.supervisor.update_hosts(cluster, hosts)
        active = self.configuration.active
        for config in active.clusters if active else ():
            if config.name == cluster:
                self.membership.count_resolved(config, hosts)

    def _roll_interval(self, loop: asyncio.AbstractEventLoop) -> None:
        self.store.roll_interval()
        loop.call_later(FLUSH_INTERVAL_S, self._roll_interval, loop)

    def _drain_begins(self) -> None:
        stats = self._listener_stats
        stats.total_listeners_draining, stats.total_listeners_active = stats.total_listeners_active, 0
        stats.listener_stopped += len(self.listeners)

    def _write_admin_address(self) -> None:
        path = self.options.admin_address_path
        if path:
            try:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(self.admin_address)
            except OSError as error:
                _log.critical("cannot write the admin address to %s: %s", path, error.strerror)

    # --- what signals and admin pages ask for

    def drain_and_stop(self) -> None:
        """SIGTERM, SIGINT. While the first configuration is not served yet there is nothing to drain."""
        if self.initialized:
            self.drain.ask()
        else:
            self.drain.stop_at_once()

    def stop_at_once(self) -> None:
        self.drain.stop_at_once()

    def reload(self) -> None:
        asyncio.ensure_future(self.reload_now())  # noqa: RUF006 - the reload keeps itself alive

    async def reload_now(self) -> ReloadResult:
        return await self.reloader.reload()

    def reopen_logs(self) -> None:
        asyncio.ensure_future(self.reopen_all_logs())  # noqa: RUF006 - done in two seconds at most

    async def reopen_all_logs(self) -> None:
        self.application_log.reopen()
        await self.supervisor.ask_all(m.ReopenLogs(), APPLY_TIMEOUT_S)

    async def set_log_levels(self, level: str, components: dict[str, str]) -> None:
        """In all processes. Raises ``ValueError`` for an unknown level; then nothing has changed."""
        set_levels(level, components)
        await self.supervisor.ask_all(m.SetLogLevel(level, components), APPLY_TIMEOUT_S)

    async def fail_health(self, failed: bool) -> None:
        """/ready says no, and clients are told to close; or both are taken back."""
        self.health_failed = failed
        message = m.Drain(float(self.options.drain_time_s), False) if failed else m.EndDrain()
        await self.supervisor.ask_each(self.supervisor.serving(), message, APPLY_TIMEOUT_S)

    async def drain_listeners(self, *, graceful: bool, stop: bool, inbound_only: bool) -> None:
        """POST /drain_listeners. Raises ``ValueError`` when only some of the listeners are meant."""
        if inbound_only:
            active = self.configuration.active
            inbound = [one.traffic_direction == _INBOUND for one in active.listeners] if active else []
            if not any(inbound):
                return
            if not all(inbound):
                raise ValueError("inboundonly is supported only where all listeners are inbound, or none")
        if graceful or not stop:
            message = m.Drain(float(self.options.drain_time_s), self.options.drain_strategy == "gradual")
            await self.supervisor.ask_each(self.supervisor.serving(), message, APPLY_TIMEOUT_S)
        if not stop or self._stop_listening is not None:
            return
        if graceful:
            loop = asyncio.get_running_loop()
            self._stop_listening = loop.call_later(self.options.drain_time_s, self._spawn_stop_listening)
        else:
            await self.drain.stop_listening()

    def _spawn_stop_listening(self) -> None:
        asyncio.ensure_future(self.drain.stop_listening())  # noqa: RUF006 - bounded by its own timeout

    async def current_stats(self) -> StatValues:
        """Every statistic, as new as the workers can make it in a tenth of a second."""
        await self.supervisor.ask_each(self.supervisor.running(), m.FlushStats(), STATS_FLUSH_TIMEOUT_S)
        slots = self.supervisor.slots
        memory = memory_of([os.getpid(), *(slot.pid for slot in slots if slot.pid)])
        stats = self._stats
        stats.live = int(self.state == ServerState.LIVE)
        stats.state = self.state
        stats.uptime = int(time.monotonic() - self.started_at)
        stats.concurrency = self.options.workers
        stats.total_connections = sum(max(slot.pulse.active, 0) for slot in slots)
        stats.memory_allocated, stats.memory_heap_size, stats.memory_physical_size = memory
        major, minor, patch = version_parts()
        stats.version = major * 10_000 + minor * 100 + patch
        stats.days_until_first_cert_expiring = 2**32 - 1  # there is no certificate
        return self.store.merged()


def run(options: Options, bootstrap: Any, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Be the main process until it is told to stop; returns the exit code."""
    setproctitle("workerproxy: main")
    try:
        server = Server(options, bootstrap, worker_command)
    except StartError as error:
        _say(str(error))
        return EXIT_FAILED
    demo = DemoOrigin(os.environ) if wants_demo(options) and not demo_runs() else None
    if demo is not None:
        sys.stderr.write(welcome(server.listeners, server.admin_address))
        sys.stderr.flush()
    try:
        return uvloop.run(server.run())
    finally:
        if demo is not None:
            demo.stop()


def _open_log(options: Options) -> ApplicationLog:
    try:
        return ApplicationLog(
            LogSettings(
                level=options.log_level,
                components=dict(options.component_log_levels),
                format=options.log_format,
                escaped=options.log_format_escaped,
                path=options.log_path,
            )
        )
    except OSError as error:
        raise StartError(f"cannot open the log file {options.log_path}: {error.strerror}") from None
    except ValueError as error:
        raise StartError(str(error)) from None


def _birth(options: Options) -> m.Birth:
    return m.Birth(
        worker_id=0,
        concurrency=options.workers,
        drain_time_s=options.drain_time_s,
        drain_strategy=options.drain_strategy,
        file_flush_interval_ms=options.file_flush_interval_ms,
        log_level=options.log_level,
        component_log_levels=dict(options.component_log_levels),
        log_format=options.log_format,
        log_format_escaped=options.log_format_escaped,
        log_path=options.log_path,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"workerproxy: {text}\n")
    sys.stderr.flush()

"""The main process: puts the parts together, runs them, and is what admin pages and signals talk to.

Life: logs -> what a predecessor or systemd hands over -> listening sockets -> privileges -> workers -> first
configuration (Prepare, Commit) -> live -> drain -> end. Never sees a byte of a request. What it can be asked to do is
in ``operations``. Exit codes: 0 after a drain or a stop, 1 when it cannot start; the reason is on stderr in one line.
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
from workerproxy.control.board import MAX_ROWS, BoardOwner, board_bytes
from workerproxy.control.logging import ApplicationLog, LogSettings, component_levels
from workerproxy.main_thread import drain, hot_restart, keeper, privileges, signals
from workerproxy.main_thread.admin.server import AdminSocket
from workerproxy.main_thread.admin.sockets import AdminSockets
from workerproxy.main_thread.config_watch import ConfigWatch, WatchedFiles, look
from workerproxy.main_thread.configuration import Configuration, ConfigVersion
from workerproxy.main_thread.demo import DemoOrigin, demo_runs, wants_demo, welcome
from workerproxy.main_thread.dns import CaresResolver, DnsClusters
from workerproxy.main_thread.drain import Drain
from workerproxy.main_thread.figures import Figures
from workerproxy.main_thread.hot_restart import HotRestart
from workerproxy.main_thread.limit_gauges import LimitGauges
from workerproxy.main_thread.listener_drain import ListenerDrain
from workerproxy.main_thread.listener_manager import ListenerManager, ListenerPlan
from workerproxy.main_thread.listener_sockets import ListenError
from workerproxy.main_thread.machine import affinity, memory_file, raise_file_limit
from workerproxy.main_thread.membership import Membership
from workerproxy.main_thread.operations import Operations
from workerproxy.main_thread.pid_file import PidFile, PidFileError
from workerproxy.main_thread.predecessor import HandOverError, Predecessor, PredecessorGoneError
from workerproxy.main_thread.privileges import PrivilegeError
from workerproxy.main_thread.reload import Reload
from workerproxy.main_thread.server_state import ServerState
from workerproxy.main_thread.stats_store import FLUSH_INTERVAL_S, StatsStore
from workerproxy.main_thread.stored_sockets import StoredSockets
from workerproxy.main_thread.supervisor import Supervisor
from workerproxy.main_thread.systemd import InheritedSocketError, Notifier, WatchdogTimer
from workerproxy.main_thread.upgrade import own_command
from workerproxy.main_thread.version import program_version
from workerproxy.main_thread.worker_process import WORKER_COMMAND
from workerproxy.main_thread.worker_slot import SlotSettings

if TYPE_CHECKING:
    from workerproxy.config.options import Options
    from workerproxy.control.stats_segment import StatValues

_log = logging.getLogger("workerproxy.main")

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1

STATUS_INTERVAL_S: Final = 2.0  # of the line that the service manager shows


class StartError(Exception):
    """The server cannot start; the text is for the operator."""


class Server:
    """Made before the event loop runs, so that whatever cannot be had is said at once. ``run`` is its life.

    ``worker_command`` is what a worker is started with; tests put a program of their own there.
    """

    def __init__(self, options: Options, bootstrap: Any, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
        """Raises ``StartError``."""
        self._seen = look(options.files) if options.watch else {}
        self._watch: ConfigWatch | None = None
        self.options = options
        self.started_at = self.first_started_at = time.monotonic()
        self.epoch = options.restart_epoch
        self.configuration = Configuration()
        self.store = StatsStore()
        self.initialized = False
        self.predecessor: Predecessor | None = None
        self._bootstrap = bootstrap
        self._worker_command = worker_command
        self._hot_restart: HotRestart | None = None
        self._pid_file = PidFile(options.pid_file) if options.pid_file else None
        self.application_log = _open_log(options)
        if options.umask is not None:
            privileges.set_umask(options.umask)
        raise_file_limit()
        self.workers = options.workers  # to begin with; later it is ``len(supervisor.slots)``
        self.listeners = ListenerManager(self.workers)
        self.admin = AdminSockets()
        self.notifier = Notifier(os.environ, os.getpid(), speaks=False)
        self.stored = StoredSockets(self.notifier)
        try:
            self._inherit()
            self._open()
        except (ListenError, HandOverError, PidFileError, PrivilegeError, InheritedSocketError) as error:
            self._tell_predecessor(str(error))
            self.close()
            raise StartError(str(error)) from None
        self.figures = Figures(self)
        self.membership = Membership(self.store.own)

    def __repr__(self) -> str:
        return f"<Server {self.state.name} {self.configuration!r}>"

    def _inherit(self) -> None:
        """Take what another one has opened: the program that ran before, or systemd."""
        options = self.options
        self.predecessor = Predecessor.from_environment(os.environ) or hot_restart.parent(options)
        if options.hot_restart:
            self._hot_restart = HotRestart.open(options)
        given_admin: AdminSocket | None = None
        if self.predecessor is not None:
            inheritance = self.predecessor.ask(stats=not options.skip_hot_restart_parent_stats)
            self.predecessor.give_sockets(self.listeners)
            self.configuration.slots.inherit(inheritance.end.slots)
            self.epoch = max(options.restart_epoch, inheritance.end.epoch + 1)
            self.first_started_at = inheritance.end.started_at
            if self.predecessor.started_this:
                self.workers = self.listeners.workers = inheritance.end.workers
            given_admin = inheritance.admin_socket()
            self.board_fd, board = self.predecessor.board()
        else:
            self.board_fd, board = memory_file("workerproxy-board", board_bytes(MAX_ROWS))
            self.notifier.speak()
        self.stored.give(self.listeners, os.environ)
        self.board = BoardOwner(board)
        if self.predecessor is not None:
            self.predecessor.join(self.board, self.store)
        self.admin.open(self._bootstrap, given_admin)

    def _open(self) -> None:
        self._plan = self.listeners.plan(self._bootstrap.static_resources.listeners)
        not_taken = self.listeners.not_taken()
        self.stored.forget(not_taken)
        for bind in not_taken:
            bind.close()
        self.stored.keep(self._plan.opened)
        if self._pid_file is not None:
            self._pid_file.take_over(self.predecessor.pid) if self.predecessor else self._pid_file.write()
        if self.options.user:
            privileges.drop(self.options.user)
            privileges.check_readable(self.options.user)
        else:
            privileges.keep_from_children()

    def close(self) -> None:
        """Give everything back that was opened."""
        self.listeners.close_all()
        self.admin.close_sockets()
        if self._hot_restart is not None:
            self._hot_restart.close()
        if self._pid_file is not None:
            self._pid_file.remove()
        self.notifier.close()

    @property
    def state(self) -> ServerState:
        """LIVE needs a worker that serves, or one whose listeners were stopped by hand."""
        if self.initialized and (self.operations.health_failed or self.drain.state != drain.RUNNING):
            return ServerState.DRAINING
        if not self.initialized:
            return ServerState.PRE_INITIALIZING if self.configuration.active is None else ServerState.INITIALIZING
        return ServerState.LIVE if self.supervisor.serving() else ServerState.INITIALIZING

    @property
    def lives_on(self) -> bool:
        """Whether this process goes on for its successor when it has drained (``keeper``)."""
        return hasattr(self, "operations") and self.operations.passes_signals_on

    @property
    def admin_address(self) -> str:
        return self.admin.address

    # --- life

    async def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        loop = asyncio.get_running_loop()
        options = self.options
        resolver = CaresResolver()
        self.dns = DnsClusters(resolver, self.store.own, self._hosts_changed)
        self.limit_gauges = LimitGauges(self.store.own, self.board)
        self.store.own.before_flush.append(self.limit_gauges.collect)
        self.supervisor = Supervisor(
            self.workers,
            SlotSettings(
                birth=self._birth,
                command=self._worker_command,
                board_fd=self.board_fd,
                board_rows=lambda: self.board.rows,
                store=self.store,
                dns_hosts=self.dns.hosts,
                standing=lambda: self.operations.standing(),
            ),
            self.configuration,
            self.listeners,
            self.board,
            self.figures.server,
            affinity if options.cpu_affinity else (lambda worker_id: None),
        )
        if self.predecessor is not None:
            self.supervisor.on_rows = self.predecessor.say_rows
        self.listener_drain = ListenerDrain(self.listeners, self.supervisor, self.stored, options.drain_time_s)
        one_at_a_time = asyncio.Lock()
        self.reloader = Reload(
            self._load,
            self._about_to_load,
            self.configuration,
            self.supervisor,
            self.dns,
            self.listeners,
            self.listener_drain,
            self.admin,
            self._activated,
            one_at_a_time,
        )
        self.drain = Drain(
            self.supervisor,
            self.listeners,
            self.listener_drain,
            options.drain_time_s,
            options.drain_grace_s,
            self._drain_begins,
        )
        self.operations = Operations(self, one_at_a_time, own_command())
        watchdog = WatchdogTimer(loop, self.notifier)
        signals.install(loop, self.operations)
        try:
            if self.predecessor is not None:
                self.predecessor.attach(loop, self._predecessor_gone)
            else:
                await self._start_admin()
            if not await self._initialize():
                return EXIT_FAILED
            self.supervisor.watchdog.watch_main(loop)
            loop.call_later(FLUSH_INTERVAL_S, self._roll_interval, loop)
            self._say_status(loop)
            if options.watch:
                files = WatchedFiles(options, lambda: self._current_bootstrap)
                self._watch = ConfigWatch(files, self.operations.reload, loop=loop, seen=self._seen)
            if self._hot_restart is not None:
                self._hot_restart.start(self)
            await self.drain.stopped.wait()
            await self._outlive_predecessor()
            await self.operations.outlive_successor(self.drain.hurried)
            return EXIT_OK
        finally:
            if self._watch is not None:
                self._watch.stop()
            watchdog.stop()
            if not self.operations.passes_signals_on:
                signals.remove(loop)
            self.operations.close()
            self.listener_drain.cancel()
            self.supervisor.stop_restarting()
            self.supervisor.kill_all()
            self.supervisor.cancel_tasks()
            self.dns.stop()
            await self.admin.close()
            await resolver.close()
            os.close(self.board_fd)
            self.close()
            _log.info("exiting")

    async def _start_admin(self) -> None:
        await self.admin.start(self)
        path = self.options.admin_address_path
        if path:
            try:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(self.admin_address)
            except OSError as error:
                _log.critical("cannot write the admin address to %s: %s", path, error.strerror)

    async def _initialize(self) -> bool:
        """Start the workers and give them the first configuration; False when that failed or was interrupted."""
        _log.info("workerproxy %s (pid %d) starts %d workers", program_version(), os.getpid(), self.workers)
        self.notifier.status("starting workers")
        try:
            self.supervisor.start()
        except OSError as error:
            self._cannot_start(f"cannot start a worker: {error}")
            return False
        first = asyncio.ensure_future(self.reloader.apply_first(self._bootstrap, self._plan))
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
            self._cannot_start("\n".join(["the configuration cannot be served:", *result.errors]))
            return False
        if self.predecessor is not None and not await self._take_over(self.predecessor):
            return False
        self.initialized = True
        self.figures.initialized()
        addresses = [address for one in self.listeners.active.values() for address in one.addresses]
        _log.info("all workers serve; listening on %s", ", ".join(addresses))
        self.notifier.ready(self.status_text())
        return True

    async def _take_over(self, predecessor: Predecessor) -> bool:
        addresses = [address for one in self.listeners.active.values() for address in one.addresses]
        try:
            await predecessor.taken_over(addresses, self.board.rows)
        except PredecessorGoneError:
            _log.warning("the predecessor (pid %d) ended while it handed over; going on without it", predecessor.pid)
        except HandOverError as error:
            _say(f"the running program does not hand over: {error}")
            await self._give_back()
            return False
        _log.info("took over from pid %d", predecessor.pid)
        self.listeners.take_new()  # not before: a predecessor that was told to stop wants no new ones
        self.supervisor.tell_all(m.Settled())
        self.notifier.speak()
        await self._start_admin()
        if self._hot_restart is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self.options.parent_shutdown_time_s, lambda: predecessor.hurry(now=True))
        return True

    async def _give_back(self) -> None:
        """The predecessor goes on. What these workers have accepted meanwhile they finish."""
        self.operations.handed_over = True
        self.drain.handed_over(m.Drain(0.0, False, []))
        await self.drain.let_go.wait()
        for bind in self.listeners.binds.values():
            bind.pipe_path = ""  # its file is the predecessor's
        self.listeners.close_all()  # at once: what is queued there is the predecessor's, and so is its end
        await self.drain.stopped.wait()

    def _cannot_start(self, why: str) -> None:
        self._tell_predecessor(why)
        _say(why)

    def _tell_predecessor(self, why: str) -> None:
        if self.predecessor is not None:
            self.predecessor.fail(why)

    def _predecessor_gone(self) -> None:
        self.supervisor.say_rows()
        if self.predecessor is None or self.predecessor.refuses:
            return
        for delay_s in (0.0, 1.0):  # should it have been killed with its workers on the sockets: they refuse then
            asyncio.get_running_loop().call_later(delay_s, self.listeners.take_new)

    async def _outlive_predecessor(self) -> None:
        """An older program may still drain; a service manager would end it with this one."""
        if self.predecessor is None or not self.predecessor.alive:
            return
        _log.info("waiting for the predecessor (pid %d) to finish", self.predecessor.pid)
        events = (self.predecessor.gone.wait(), self.drain.hurried.wait())
        waiting = [asyncio.ensure_future(one) for one in events]
        await asyncio.wait(waiting, timeout=self.options.drain_time_s, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        self.predecessor.hurry(now=True)

    def _load(self) -> Any:
        """In a thread of its own. Raises ``ConfigErrors``."""
        return config_load.load(self.options).bootstrap

    def _about_to_load(self) -> None:
        if self._watch is not None:
            self._watch.about_to_be_read()

    @property
    def _current_bootstrap(self) -> Any:
        active = self.configuration.active
        return active.bootstrap if active else self._bootstrap

    def _activated(self, new: ConfigVersion, old: ConfigVersion | None, plan: ListenerPlan) -> None:
        self.membership.activate(new, old, self.dns.hosts())
        self.limit_gauges.activate(new)
        self.supervisor.watchdog.configure(new.bootstrap)
        self.stored.keep(plan.opened)
        self.figures.activated(new, old, plan)

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
        setproctitle("workerproxy: main (draining)")
        if not self.operations.handed_over:
            self.notifier.stopping("draining")
            if self.predecessor is not None:
                self.predecessor.hurry(now=False)
        self.figures.drain_begins()

    def status_text(self) -> str:
        """One line: what it serves and how it is."""
        active = self.configuration.active
        version = active.version if active else 0
        serving, wanted = len(self.supervisor.serving()), len(self.supervisor.slots)
        return f"version {version}, {serving} of {wanted} workers serve, {self.supervisor.connections()} connections"

    def _say_status(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.notifier.active and self.drain.state == drain.RUNNING:
            self.notifier.status(self.status_text())
            loop.call_later(STATUS_INTERVAL_S, self._say_status, loop)

    def _birth(self) -> m.Birth:
        options = self.options
        levels = component_levels()
        return m.Birth(
            worker_id=0,
            row=0,
            rows=0,
            provisional=self.predecessor is not None and not self.initialized,
            concurrency=len(self.supervisor.slots),
            drain_time_s=options.drain_time_s,
            drain_strategy=options.drain_strategy,
            file_flush_interval_ms=options.file_flush_interval_ms,
            log_level=options.log_level,
            component_log_levels=levels if self.initialized else dict(options.component_log_levels),
            log_format=options.log_format,
            log_format_given=options.log_format_given,
            log_format_escaped=options.log_format_escaped,
            log_path=options.log_path,
        )

    async def current_stats(self) -> StatValues:
        """Every statistic, as new as the workers can make it in a tenth of a second."""
        return await self.figures.current()


def run(options: Options, bootstrap: Any, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Be the main process until it is told to stop; returns the exit code."""
    setproctitle(keeper.MAIN_TITLE)
    try:
        server = Server(options, bootstrap, worker_command)
    except StartError as error:
        _say(str(error))
        return EXIT_FAILED
    demo = DemoOrigin(os.environ) if wants_demo(options) and not demo_runs() else None
    if demo is not None:
        sys.stderr.write(welcome(server.listeners.active.values(), server.admin_address))
        sys.stderr.flush()
    try:
        code = uvloop.run(server.run())
    except Exception as error:
        _log.critical("internal error", exc_info=True)
        _say(f"internal error: {type(error).__name__}: {error}")
        return EXIT_FAILED
    finally:
        if demo is not None and not server.lives_on:  # else it ends with the keeper
            demo.stop()
    return server.operations.end(code)


def _open_log(options: Options) -> ApplicationLog:
    try:
        return ApplicationLog(
            LogSettings(
                level=options.log_level,
                components=dict(options.component_log_levels),
                format=options.log_format,
                format_given=options.log_format_given,
                escaped=options.log_format_escaped,
                path=options.log_path,
            )
        )
    except OSError as error:
        raise StartError(f"cannot open the log file {options.log_path}: {error.strerror}") from None
    except ValueError as error:
        raise StartError(str(error)) from None


def _say(text: str) -> None:
    sys.stderr.write(f"workerproxy: {text}\n")
    sys.stderr.flush()

"""A worker's place: the process that fills it now, what it has been given, and what follows when it ends.

The place outlives its processes: its number, its listening sockets and its row of the board stay, each process gets a
new statistics segment. Asks and tells one worker; ``main_thread.supervisor`` has all of them, ``main_thread.reload``
decides what is prepared and committed.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from workerproxy.control import messages as m
from workerproxy.control.channel import MAX_FDS, ChannelClosedError
from workerproxy.control.stats_segment import SEGMENT_BYTES
from workerproxy.main_thread.restart_policy import RestartPolicy
from workerproxy.main_thread.worker_process import WorkerProcess, describe_status

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import StatsReader
    from workerproxy.main_thread.configuration import ConfigVersion
    from workerproxy.main_thread.listener_sockets import ListenerSockets
    from workerproxy.main_thread.stats_store import StatsStore

_log = logging.getLogger("workerproxy.main")

PREPARE_TIMEOUT_S: Final = 30.0
COMMIT_TIMEOUT_S: Final = 10.0
END_TIMEOUT_S: Final = 1.0  # from the end of the pipe to the end of the process, as far as anybody waits for it

# States, in the order of life.
EMPTY: Final = "empty"  # no process: not started yet, or waiting for its restart
STARTED: Final = "started"  # born, has its sockets, no configuration
PREPARED: Final = "prepared"  # has built a configuration, serves none
SERVING: Final = "serving"
DRAINING: Final = "draining"
ENDED: Final = "ended"  # terminal: the place is given up

# Event -> states it may happen in -> the state that follows.
STARTING, PREPARING, COMMITTING, STOPPING, DYING, GIVING_UP = "start", "prepared", "committed", "drain", "death", "end"
TRANSITIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        STARTING: {EMPTY: STARTED},
        PREPARING: {STARTED: PREPARED, PREPARED: PREPARED, SERVING: SERVING, DRAINING: DRAINING},
        COMMITTING: {PREPARED: SERVING, SERVING: SERVING, DRAINING: DRAINING},
        STOPPING: {STARTED: DRAINING, PREPARED: DRAINING, SERVING: DRAINING, DRAINING: DRAINING},
        DYING: {STARTED: EMPTY, PREPARED: EMPTY, SERVING: EMPTY, DRAINING: EMPTY},
        GIVING_UP: {EMPTY: ENDED, ENDED: ENDED},
    }
)


class WorkerError(Exception):
    """A worker did not do what it was asked; the text says which and why."""


class WorkerTimeoutError(WorkerError):
    """A worker that runs has not answered in time."""


class WorkerRefusedError(WorkerError):
    """A worker says that it cannot serve a configuration."""


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """What every process of every place is started with."""

    birth: m.Birth  # as a pattern: worker_id and fds are each place's own
    command: Sequence[str]
    board_fd: int
    store: StatsStore
    listeners: Sequence[ListenerSockets]
    dns_hosts: Callable[[], Mapping[str, m.Hosts]]


@dataclass(slots=True)
class Pulse:
    """What the last heartbeat said."""

    lag_ms: float = 0.0
    active: int = 0  # downstream connections


class WorkerSlot:
    """See the module.

    ``on_death(slot, status, lifetime_s)`` when the process ends; ``on_drained(slot)`` at 0 connections.
    """

    def __init__(
        self,
        worker_id: int,
        settings: SlotSettings,
        on_death: Callable[[WorkerSlot, int, float], None],
        on_drained: Callable[[WorkerSlot], None],
    ) -> None:
        self.worker_id = worker_id
        self.policy = RestartPolicy()
        self.state = EMPTY
        self.version = 0  # of the configuration it serves
        self.pulse = Pulse()
        self.started_count = 0
        self.lock = asyncio.Lock()  # held from a prepare to its commit or abort
        self._settings = settings
        self._on_death = on_death
        self._on_drained = on_drained
        self._process: WorkerProcess | None = None
        self._stats: StatsReader | None = None
        self._prepared_hosts: dict[str, m.Hosts] = {}

    def __repr__(self) -> str:
        return f"<WorkerSlot {self.worker_id} {self.state} version={self.version} {self._process!r}>"

    @property
    def pid(self) -> int:
        """Process id, 0 when there is no process."""
        return self._process.pid if self._process else 0

    def _move(self, event: str) -> None:
        following = TRANSITIONS[event].get(self.state)
        if following is None:
            raise WorkerError(f"worker {self.worker_id}: {event} in state {self.state}")
        if following != self.state:
            _log.debug("worker %d: %s -> %s", self.worker_id, self.state, following)
            self.state = following

    # --- life

    def start(self) -> None:
        """Start a process, give it its birth message and its sockets. Raises ``OSError``, ``WorkerError``."""
        self._move(STARTING)
        settings = self._settings
        try:
            process = WorkerProcess(
                self.worker_id, asyncio.get_running_loop(), settings.command, self._on_message, self._on_exit
            )
        except OSError:
            self.state = EMPTY
            raise
        self._process = process
        self.started_count += 1
        self.version = 0
        self.pulse = Pulse()
        segment_fd = os.memfd_create(f"workerproxy-stats-{self.worker_id}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(segment_fd, SEGMENT_BYTES)
            self._stats = settings.store.attach(mmap.mmap(segment_fd, SEGMENT_BYTES))
            birth = replace(settings.birth, worker_id=self.worker_id, fds=[segment_fd, settings.board_fd])
            process.channel.send(birth)
        finally:
            os.close(segment_fd)
        listeners = [listener for listener in settings.listeners if listener.open]
        for first in range(0, len(listeners), MAX_FDS):
            some = listeners[first : first + MAX_FDS]
            fds = [listener.for_worker(self.worker_id).fileno() for listener in some]
            process.channel.send(m.ListenerSockets([listener.name for listener in some], fds=fds))

    async def prepare(self, config: ConfigVersion) -> None:
        """Have a configuration built. Raises ``WorkerRefusedError``, or ``WorkerError`` when there is no answer."""
        hosts = {name: list(addresses) for name, addresses in self._settings.dns_hosts().items()}
        answer = await self.ask(
            m.Prepare(config.version, config.serialized, hosts, dict(config.slots)), PREPARE_TIMEOUT_S
        )
        if isinstance(answer, m.Refused):
            raise WorkerRefusedError(f"worker {self.worker_id}: {answer.why}")
        self._prepared_hosts = hosts
        self._move(PREPARING)

    async def commit(self, config: ConfigVersion) -> None:
        """Have the prepared configuration served. Raises ``WorkerError``."""
        await self.ask(m.Commit(config.version), COMMIT_TIMEOUT_S)
        self._move(COMMITTING)
        self.version = config.version
        for cluster, hosts in self._settings.dns_hosts().items():  # what changed since the prepare
            if cluster in self._prepared_hosts and self._prepared_hosts[cluster] != hosts:
                self.update_hosts(cluster, hosts)

    def update_hosts(self, cluster: str, hosts: m.Hosts) -> None:
        """Tell new addresses, to a worker that serves."""
        if self.state in (SERVING, DRAINING):
            self.tell(m.HostsUpdate(cluster, hosts))

    async def stop_accepting(self, timeout_s: float) -> None:
        """Accept what is queued, then nothing more; drained when no connection is left. Raises ``WorkerError``."""
        self._move(STOPPING)
        await self.ask(m.StopAccepting(), timeout_s)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def give_up(self) -> None:
        """No process will be started here any more."""
        self._move(GIVING_UP)

    # --- messages

    def tell(self, message: m.Message) -> None:
        if self._process is not None:
            self._process.channel.send(message)

    async def ask(self, message: m.Message, timeout_s: float) -> m.Message:
        """The answer to a question. Raises ``WorkerError`` when the worker ends or takes longer."""
        what = type(message).__name__
        process = self._process
        if process is None:
            raise WorkerError(f"worker {self.worker_id} is not running")
        try:
            return await asyncio.wait_for(process.channel.ask(message), timeout_s)
        except TimeoutError:
            raise WorkerTimeoutError(f"worker {self.worker_id} did not answer {what} within {timeout_s:g} s") from None
        except ChannelClosedError:
            why = await process.describe_end(END_TIMEOUT_S)
            raise WorkerError(f"worker {self.worker_id}: it ended before it answered {what}: {why}") from None

    def _on_message(self, process: WorkerProcess, message: m.Message, request_id: int) -> None:
        if process is not self._process:
            return
        if isinstance(message, m.Draining):
            self.pulse.active = message.active
            if message.active == 0:
                self._on_drained(self)
        elif request_id == 0:
            _log.error("worker %d says %s without being asked", self.worker_id, type(message).__name__)

    def _on_exit(self, process: WorkerProcess, status: int) -> None:
        lifetime = asyncio.get_running_loop().time() - process.started_at
        _log.debug("worker %d (pid %d): %s", self.worker_id, process.pid, describe_status(status))
        self._process = None
        self.version = 0
        self.pulse = Pulse()
        if self._stats is not None:
            self._settings.store.retire(self._stats)
            self._stats = None
        self._move(DYING)
        self._on_death(self, status, lifetime)

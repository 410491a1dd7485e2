"""A worker's place: the process that fills it now, what it has been given, and what follows when it ends.

The place outlives its processes: its number and its row of the board stay, each process gets a new statistics segment
and the listening sockets that are its share. A place is given up when its worker leaves for good; one that takes over
(a roll) is another place with the same number and another row. Asks and tells one worker; ``main_thread.supervisor``
has all of them, ``main_thread.reload`` decides what is prepared and committed.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    from workerproxy.main_thread.socket_shares import SocketName
    from workerproxy.main_thread.stats_store import StatsStore

_log = logging.getLogger("workerproxy.main")

PREPARE_TIMEOUT_S: Final = 30.0
COMMIT_TIMEOUT_S: Final = 10.0
_STACK_MAX_BYTES: Final = 1 << 16
END_TIMEOUT_S: Final = 1.0  # from the end of the pipe to the end of the process, as far as anybody waits for it

# States, in the order of life.
EMPTY: Final = "empty"  # no process: not started yet, or waiting for its restart
STARTED: Final = "started"  # born, no configuration yet
PREPARED: Final = "prepared"  # has built a configuration, serves none
SERVING: Final = "serving"
DRAINING: Final = "draining"  # it leaves
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

    birth: Callable[[], m.Birth]  # a pattern: worker_id, row, rows and fds are each place's own
    command: Sequence[str]
    board_fd: int
    board_rows: Callable[[], int]
    store: StatsStore
    dns_hosts: Callable[[], Mapping[str, m.Hosts]]
    standing: Callable[[], Iterable[m.Message]] = tuple  # what every worker has been told for good, such as a drain


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
        row: int,
        settings: SlotSettings,
        on_death: Callable[[WorkerSlot, int, float], None],
        on_drained: Callable[[WorkerSlot], None],
    ) -> None:
        self.worker_id = worker_id
        self.row = row  # of the board
        self.policy = RestartPolicy()
        self.throttled = False  # it keeps crashing; others read its sockets until it serves again
        self.hung = False  # it does not answer; the same
        self.held: set[SocketName] = set()  # the listening sockets its process reads
        self.segment_fd = -1  # of its statistics, while there is a process
        self._stack_fd = -1  # a memory file in which its process writes its stack, when asked or when it crashes
        self._stack_read = 0
        self.balance: tuple[socket.socket, socket.socket] | None = None  # receiving and sending end; see balance_group
        self.state = EMPTY
        self.version = 0  # of the configuration it serves
        self.prepared = 0  # the version its process has prepared last
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
        """Start a process and give it its birth message. Raises ``OSError``, ``WorkerError``."""
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
        self.version = self.prepared = 0
        self.hung = False
        self.pulse = Pulse()
        self.segment_fd = os.memfd_create(f"workerproxy-stats-{self.worker_id}", os.MFD_CLOEXEC)
        os.ftruncate(self.segment_fd, SEGMENT_BYTES)
        self._stats = settings.store.attach(mmap.mmap(self.segment_fd, SEGMENT_BYTES))
        self._stack_fd = os.memfd_create(f"workerproxy-stack-{self.worker_id}", os.MFD_CLOEXEC)
        self._stack_read = 0
        fds = [self.segment_fd, settings.board_fd, self._stack_fd]
        process.channel.send(
            replace(settings.birth(), worker_id=self.worker_id, row=self.row, rows=settings.board_rows(), fds=fds)
        )

    def give_sockets(self, sockets: Mapping[SocketName, int]) -> None:
        """Have it read these listening sockets too; name -> descriptor."""
        names = list(sockets)
        for first in range(0, len(names), MAX_FDS):
            some = names[first : first + MAX_FDS]
            self.tell(
                m.ListenerSockets(
                    [name.bind_id for name in some],
                    [name.position for name in some],
                    fds=[sockets[name] for name in some],
                )
            )
        self.held.update(names)

    def release_sockets(self, names: Iterable[SocketName]) -> None:
        """Have it read these no more. What is queued on them is for whoever reads them now."""
        some = [name for name in names if name in self.held]
        if some:
            self.tell(m.ReleaseSockets([name.bind_id for name in some], [name.position for name in some]))
            self.held.difference_update(some)

    async def release_all(self, timeout_s: float) -> None:
        """Have it read no listening socket any more. Raises ``WorkerError``."""
        names = sorted(self.held)
        self.held.clear()
        await self.ask(m.ReleaseSockets([name.bind_id for name in names], [name.position for name in names]), timeout_s)

    async def prepare(self, config: ConfigVersion) -> None:
        """Have a configuration built. Raises ``WorkerRefusedError``, or ``WorkerError`` when there is no answer."""
        hosts = {name: list(addresses) for name, addresses in self._settings.dns_hosts().items()}
        answer = await self.ask(
            m.Prepare(config.version, config.serialized, hosts, dict(config.slots), dict(config.binds)),
            PREPARE_TIMEOUT_S,
        )
        if isinstance(answer, m.Refused):
            raise WorkerRefusedError(f"worker {self.worker_id}: {answer.why}")
        self._prepared_hosts = hosts
        self.prepared = config.version
        self._move(PREPARING)

    async def commit(self, config: ConfigVersion) -> m.Committed:
        """Have the prepared configuration served; says what drains because of it. Raises ``WorkerError``."""
        fresh = self.version == 0
        answer = await self.ask(m.Commit(config.version), COMMIT_TIMEOUT_S)
        self._move(COMMITTING)
        for message in self._settings.standing() if fresh else ():
            self.tell(message)
        self.version = config.version
        for cluster, hosts in self._settings.dns_hosts().items():  # what changed since the prepare
            if cluster in self._prepared_hosts and self._prepared_hosts[cluster] != hosts:
                self.update_hosts(cluster, hosts)
        return answer if isinstance(answer, m.Committed) else m.Committed(config.version, 0, 0)

    def update_hosts(self, cluster: str, hosts: m.Hosts) -> None:
        """Tell new addresses, to a worker that serves."""
        if self.state in (SERVING, DRAINING):
            self.tell(m.HostsUpdate(cluster, hosts))

    async def stop_accepting(self, binds: list[int], timeout_s: float) -> None:
        """Have it accept what is queued on these binds, and nothing more. Raises ``WorkerError``."""
        self.held = {name for name in self.held if name.bind_id not in binds}
        await self.ask(m.StopAccepting(binds), timeout_s)

    async def retire(self, timeout_s: float) -> None:
        """It is to leave: from now on it says how many connections are left. Raises ``WorkerError``."""
        self._move(STOPPING)
        self.pulse.active = -1  # not known until it says so
        await self.ask(m.Retire(), timeout_s)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def give_up(self) -> None:
        """No process will be started here any more."""
        self._move(GIVING_UP)
        for end in self.balance or ():
            end.close()
        self.balance = None

    @property
    def stats(self) -> StatsReader | None:
        """Its process's statistics, None when there is no process."""
        return self._stats

    def requests(self) -> int:
        """How many requests its process has begun, as it published them last."""
        return self._stats.sum_counters("http.", ".downstream_rq_total") if self._stats is not None else 0

    def ask_stack(self) -> None:
        """Have the process write the stack of every thread (faulthandler), whatever it is doing; ``stack`` has it."""
        if self._process is not None:
            self._process.kill(signal.SIGUSR2)

    def stack(self) -> str:
        """What its process wrote of its stack since this was asked last."""
        if self._stack_fd < 0:
            return ""
        text = os.pread(self._stack_fd, _STACK_MAX_BYTES, self._stack_read)
        self._stack_read += len(text)
        return text.decode(errors="replace")

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
        self.held.clear()
        if self._stats is not None:
            self._settings.store.retire(self._stats)
            self._stats = None
            os.close(self.segment_fd)
            self.segment_fd = -1
        if stack := self.stack():
            _log.error("worker %d (pid %d) left its stack:\n%s", self.worker_id, process.pid, stack.rstrip())
        if self._stack_fd >= 0:
            os.close(self._stack_fd)
            self._stack_fd = -1
        self._move(DYING)
        self._on_death(self, status, lifetime)

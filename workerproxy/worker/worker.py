"""A worker's life: born with one message, given configurations to serve, drained, stopped.

Obeys the control pipe and drives the data plane. Everything happens on one event loop; a message is handled to its end
before the next. When the pipe ends the main process is gone: the worker then has the kernel refuse new connections,
drains by itself and leaves, so none is ever orphaned. Never reads a file of the configuration or the command line.

Diagnostics: a message that does not belong into the present state ends the process with ``EXIT_PROTOCOL`` and a line in
the log, a configuration that was prepared but cannot be committed with ``EXIT_FAILED``; SIGUSR2 writes the stack of
every thread to a file that the main process reads. Other signals are ignored: the main process decides.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import mmap
import os
import signal
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf.message import DecodeError
from setproctitle import setproctitle

from workerproxy.control import messages as m
from workerproxy.control.board import LimitsBoard
from workerproxy.control.channel import Channel
from workerproxy.control.listen_filter import SETTLE_S
from workerproxy.control.logging import ApplicationLog, LogSettings, set_levels
from workerproxy.control.stats_segment import SegmentFullError, StatsWriter
from workerproxy.worker.context import DataPlaneInterface, Refused, WorkerContext, WorkerOptions

_log = logging.getLogger("workerproxy.worker")

EXIT_OK: Final = 0
EXIT_PROTOCOL: Final = 70  # EX_SOFTWARE
EXIT_FAILED: Final = 71

FLUSH_INTERVAL_S: Final = 0.5  # how old published statistics may be
_LAG_INTERVAL_S: Final = 0.1
_DRAIN_POLL_S: Final = 0.05
_MEMORY_SETTLES_S: Final = 1.0  # after a commit; by then what belonged to the old configuration is mostly gone

# States, in the order of life.
UNBORN: Final = "unborn"  # waiting for the birth message
BORN: Final = "born"  # has its surroundings, no configuration
SERVING: Final = "serving"
DRAINING: Final = "draining"  # is to leave: finishes what it has
STOPPED: Final = "stopped"  # terminal

# State -> message -> next state. What is not here is an error.
_ANY: Final = (
    *(m.ListenerSockets, m.ReleaseSockets, m.StopAccepting, m.Prepare, m.Abort, m.HostsUpdate),
    *(m.Drain, m.EndDrain, m.BoardRows, m.BalanceGroup, m.Probe, m.Settled),
    *(m.SetLogLevel, m.ReopenLogs, m.Heartbeat, m.FlushStats, m.ReportClusters),
)
TRANSITIONS: Final[Mapping[str, Mapping[type[m.Message], str]]] = MappingProxyType(
    {
        UNBORN: {m.Birth: BORN, m.Stop: STOPPED},
        BORN: {**dict.fromkeys(_ANY, BORN), m.Commit: SERVING, m.Retire: DRAINING, m.Stop: STOPPED},
        SERVING: {**dict.fromkeys(_ANY, SERVING), m.Commit: SERVING, m.Retire: DRAINING, m.Stop: STOPPED},
        # A reload that was under way when it was told to leave goes on to its end.
        DRAINING: {**dict.fromkeys(_ANY, DRAINING), m.Commit: DRAINING, m.Retire: DRAINING, m.Stop: STOPPED},
        STOPPED: {},
    }
)

# After a failure of these nobody knows what the worker serves: it ends, and its successor begins anew.
_MUST_SUCCEED: Final = (
    *(m.Birth, m.ListenerSockets, m.ReleaseSockets, m.StopAccepting, m.Commit, m.Abort, m.HostsUpdate),
    *(m.BoardRows, m.BalanceGroup, m.Retire),
)


class Worker:
    """See the module. ``run`` returns the exit code."""

    def __init__(
        self,
        control: socket.socket,
        loop: asyncio.AbstractEventLoop,
        make_data_plane: Callable[[WorkerContext], DataPlaneInterface],
    ) -> None:
        self._loop = loop
        self._make_data_plane = make_data_plane
        self._state = UNBORN
        self._exit_code = EXIT_OK
        self._channel = Channel(control, loop, self._on_message, self._on_main_gone)
        self._handlers: dict[type[m.Message], Callable[..., m.Message | None]] = {
            m.Birth: self._birth,
            m.ListenerSockets: self._listener_sockets,
            m.ReleaseSockets: self._release_sockets,
            m.Prepare: self._prepare,
            m.Commit: self._commit,
            m.Abort: self._abort,
            m.HostsUpdate: self._hosts_update,
            m.Drain: self._drain,
            m.EndDrain: self._end_drain,
            m.StopAccepting: self._stop_accepting,
            m.Retire: self._retire,
            m.BoardRows: self._board_rows,
            m.BalanceGroup: self._balance_group,
            m.Probe: self._probe,
            m.Settled: self._settled,
            m.Stop: self._stop,
            m.FlushStats: self._flush_stats,
            m.SetLogLevel: self._set_log_level,
            m.ReopenLogs: self._reopen_logs,
            m.Heartbeat: self._heartbeat,
            m.ReportClusters: self._report_clusters,
        }
        self._born = False
        self._provisional = False  # another program serves on the same sockets
        self._told: set[tuple[int, int]] = set()  # sockets it was told to read, those it has given up since included
        self._left = False
        self._max_lag_s = 0.0
        self._last_active = -1
        # Set by the birth message.
        self._context: WorkerContext
        self._data_plane: DataPlaneInterface
        self._application_log: ApplicationLog

    def __repr__(self) -> str:
        return f"<Worker {self._state}>"

    def run(self) -> int:
        self._loop.run_forever()
        return self._exit_code

    # --- the pipe

    def _on_message(self, message: m.Message, request_id: int) -> None:
        kind = type(message)
        following = TRANSITIONS[self._state].get(kind)
        if following is None:
            _log.critical("%s in state %s is against the protocol", kind.__name__, self._state)
            self._leave(EXIT_PROTOCOL)
            return
        if following != self._state:
            _log.debug("%s -> %s by %s", self._state, following, kind.__name__)
            self._state = following
        try:
            answer = self._handlers[kind](message)
        except Exception:
            _log.exception("%s failed", kind.__name__)
            if kind in _MUST_SUCCEED:
                self._leave(EXIT_FAILED)
                return
            answer = None
        if request_id:
            self._channel.send(answer or m.Done(), request_id)

    def _on_main_gone(self, why: str) -> None:
        """Finish what is in flight within the drain time, then leave: nobody else will ever tell us to."""
        if self._state in (UNBORN, STOPPED):
            self._leave(EXIT_OK)
            return
        drain_time_s = self._context.options.drain_time_s
        _log.warning("the main process is gone (%s); draining for at most %d s", why, drain_time_s)
        self._state = DRAINING
        self._data_plane.start_drain(float(drain_time_s), False, ())
        if self._provisional:  # the program that was to be followed goes on, on the same sockets
            for bind, index in self._told:
                self._data_plane.release_socket(bind, index)
        else:
            self._data_plane.refuse_new()
        self._loop.call_later(SETTLE_S, self._accept_the_last)
        self._loop.call_later(max(drain_time_s, SETTLE_S), self._leave, EXIT_OK)

    def _accept_the_last(self) -> None:
        """Handshakes that were under way when the main process was lost have come to their end."""
        if self._state == DRAINING:
            self._data_plane.stop_accepting(None)
            self._watch_drain()

    # --- one method per message

    def _birth(self, birth: m.Birth) -> None:
        setproctitle(f"workerproxy: worker {birth.worker_id}")
        self._application_log = ApplicationLog(
            LogSettings(
                level=birth.log_level,
                components=birth.component_log_levels,
                format=birth.log_format,
                format_given=birth.log_format_given,
                escaped=birth.log_format_escaped,
                path=birth.log_path,
            )
        )
        self._provisional = birth.provisional
        segment_fd, board_fd, *stack_fds = birth.fds
        for fd in stack_fds:
            _tell_stack_to(fd)
        self._context = WorkerContext(
            worker_id=birth.worker_id,
            concurrency=birth.concurrency,
            loop=self._loop,
            options=WorkerOptions(
                drain_time_s=birth.drain_time_s,
                drain_strategy="immediate" if birth.drain_strategy == "immediate" else "gradual",
                file_flush_interval_ms=birth.file_flush_interval_ms,
            ),
            stats=StatsWriter(_map(segment_fd)),
            board=LimitsBoard(_map(board_fd), birth.row, birth.rows),
            board_fd=board_fd,
            log=_log,
        )
        os.close(segment_fd)
        self._data_plane = self._make_data_plane(self._context)
        self._born = True
        self._flush_on_timer()
        self._measure_lag(self._loop.time())

    def _listener_sockets(self, message: m.ListenerSockets) -> None:
        self._told.update(zip(message.binds, message.indexes, strict=True))
        for bind, index, fd in zip(message.binds, message.indexes, message.fds, strict=True):
            sock = socket.socket(fileno=fd)
            if self._state == DRAINING:  # somebody else will read it
                sock.close()
            else:
                self._data_plane.add_socket(bind, index, sock)

    def _release_sockets(self, message: m.ReleaseSockets) -> None:
        for bind, index in zip(message.binds, message.indexes, strict=True):
            self._data_plane.release_socket(bind, index)

    def _prepare(self, message: m.Prepare) -> m.Message:
        try:
            bootstrap = bootstrap_pb2.Bootstrap.FromString(message.bootstrap)
            self._data_plane.prepare(message, bootstrap)
        except (Refused, SegmentFullError, DecodeError) as error:
            return m.Refused(message.version, str(error))
        except Exception as error:
            _log.exception("preparing version %d failed", message.version)
            return m.Refused(message.version, f"internal error: {type(error).__name__}: {error}")
        return m.Prepared(message.version)

    def _commit(self, message: m.Commit) -> m.Message:
        left = self._data_plane.commit(message.version)
        self._loop.call_later(_MEMORY_SETTLES_S, _settle_memory)
        return m.Committed(message.version, left.connections, left.streams)

    def _abort(self, message: m.Abort) -> None:
        self._data_plane.abort(message.version)

    def _hosts_update(self, message: m.HostsUpdate) -> None:
        self._data_plane.update_hosts(message.cluster, message.hosts)

    def _drain(self, message: m.Drain) -> None:
        self._data_plane.start_drain(message.seconds, message.gradual, message.listeners)

    def _end_drain(self, _: m.EndDrain) -> None:
        self._data_plane.end_drain()

    def _stop_accepting(self, message: m.StopAccepting) -> None:
        self._data_plane.stop_accepting(message.binds)

    def _retire(self, _: m.Retire) -> None:
        if self._last_active < 0:  # not told before
            self._watch_drain()

    def _board_rows(self, message: m.BoardRows) -> None:
        self._data_plane.set_board_rows(message.rows)

    def _balance_group(self, message: m.BalanceGroup) -> None:
        receiving, *sending = (socket.socket(fileno=fd) for fd in message.fds)
        self._data_plane.balance_group(message.rows, receiving, sending)

    def _settled(self, _: m.Settled) -> None:
        self._provisional = False

    def _probe(self, message: m.Probe) -> None:
        (fd,) = message.fds
        self._data_plane.probe(socket.socket(fileno=fd))

    def _stop(self, _: m.Stop) -> None:
        self._leave(EXIT_OK)

    def _flush_stats(self, _: m.FlushStats) -> m.Message:
        self._context.stats.flush()
        return m.StatsFlushed()

    def _set_log_level(self, message: m.SetLogLevel) -> None:
        set_levels(message.level, message.components)

    def _reopen_logs(self, _: m.ReopenLogs) -> None:
        self._application_log.reopen()
        self._data_plane.reopen_logs()

    def _heartbeat(self, _: m.Heartbeat) -> m.Message:
        lag, self._max_lag_s = self._max_lag_s, 0.0
        return m.HeartbeatAck(lag * 1000, self._data_plane.active_connections())

    def _report_clusters(self, _: m.ReportClusters) -> m.Message:
        return m.ClusterReport(self._data_plane.cluster_report())

    # --- timers and the end

    def _flush_on_timer(self) -> None:
        if self._state != STOPPED:
            self._context.stats.flush()
            self._loop.call_later(FLUSH_INTERVAL_S, self._flush_on_timer)

    def _measure_lag(self, due: float) -> None:
        """How late a timer is tells how long the loop was busy with something else."""
        now = self._loop.time()
        self._max_lag_s = max(self._max_lag_s, now - due)
        self._loop.call_at(now + _LAG_INTERVAL_S, self._measure_lag, now + _LAG_INTERVAL_S)

    def _watch_drain(self) -> None:
        if self._state != DRAINING:
            return
        self._data_plane.take_handed_over()
        active = self._data_plane.active_connections()
        if active != self._last_active:
            self._last_active = active
            setproctitle(f"workerproxy: worker {self._context.worker_id} (draining, {active} connections)")
            self._channel.send(m.Draining(active))
        if active == 0 and self._channel.closed:
            self._leave(EXIT_OK)
        elif active:
            self._loop.call_later(_DRAIN_POLL_S, self._watch_drain)

    def _leave(self, code: int) -> None:
        """The end: close, write out what is buffered, stop the loop. Nothing happens the second time."""
        if self._left:
            return
        self._left = True
        self._state = STOPPED
        self._exit_code = code
        if self._born:
            self._data_plane.close_all()
            self._data_plane.flush_logs()
            self._context.stats.flush()
        self._channel.close()
        self._loop.stop()


def _settle_memory() -> None:
    """What a configuration is made of lives as long as it does: spare the collector from looking at it all the time."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _tell_stack_to(fd: int) -> None:
    """Write the stack of every thread there at SIGUSR2 and in a crash: the main process reads it."""
    faulthandler.enable(fd)
    faulthandler.register(signal.SIGUSR2, fd, all_threads=True)


def _map(fd: int) -> mmap.mmap:
    """Map a memory file that came with the birth message; the mapping outlives the descriptor."""
    return mmap.mmap(fd, os.fstat(fd).st_size)

"""One worker process: how it is started, how its end is noticed, how it is killed. Mechanism only.

Started by fork and exec of the worker's own module with nothing but its end of the control pipe, stdin closed, stdout
and stderr as they are. The end is noticed through a pidfd, so no signal handler is needed and none can be missed.
``main_thread.supervisor`` decides when any of it happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from workerproxy.control.channel import Channel
from workerproxy.control.messages import Message
from workerproxy.main_thread.systemd import without_systemd

_log = logging.getLogger("workerproxy.main")

WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "workerproxy.worker")
_PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]

# A worker is born with these blocked: a Ctrl-C or a stop of the whole group must not end it before it ignores them.
_BLOCKED_AT_BIRTH: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

# How long a worker may live on after its end of the pipe is closed, before it is killed.
_GRACE_S: Final = 2.0


class WorkerProcess:
    """A running process. ``on_message(process, message, request_id)`` and once ``on_exit(process, status)``.

    ``status`` is as ``subprocess`` has it: the exit code, or minus the number of the signal.
    """

    def __init__(
        self,
        worker_id: int,
        loop: asyncio.AbstractEventLoop,
        command: Sequence[str],
        on_message: Callable[[WorkerProcess, Message, int], None],
        on_exit: Callable[[WorkerProcess, int], None],
    ) -> None:
        """Starts it. Raises ``OSError`` when the system gives no process or no descriptor."""
        self.worker_id = worker_id
        self.started_at = loop.time()
        self._loop = loop
        self._on_message = on_message
        self._on_exit = on_exit
        self._ended: asyncio.Future[int] = loop.create_future()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._popen = _start([*command, str(theirs.fileno())], theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._on_dead)
        self.channel = Channel(ours, loop, self._deliver, self._on_pipe_closed)

    def __repr__(self) -> str:
        status = self._popen.returncode
        state = "running" if status is None else describe_status(status)
        return f"<WorkerProcess {self.worker_id} pid={self.pid} {state}>"

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, unless the process has ended."""
        if self._popen.returncode is None:
            self._popen.send_signal(number)

    async def describe_end(self, timeout_s: float) -> str:
        """How it ended, waiting for it a little."""
        await asyncio.wait({self._ended}, timeout=timeout_s)
        return describe_status(self._ended.result()) if self._ended.done() else "it has closed its control pipe"

    def _deliver(self, message: Message, request_id: int) -> None:
        self._on_message(self, message, request_id)

    def _on_pipe_closed(self, why: str) -> None:
        _log.debug("worker %d (pid %d): %s", self.worker_id, self.pid, why)
        self._loop.call_later(_GRACE_S, self.kill)

    def _on_dead(self) -> None:
        status = self._popen.wait()  # at once: the pidfd is readable when there is a status
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.channel.close()
        self._ended.set_result(status)
        self._on_exit(self, status)


def describe_status(status: int) -> str:
    """An exit status in words: ``exit code 1``, ``killed by SIGKILL``."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _start(argv: Sequence[str], control_fd: int) -> subprocess.Popen[bytes]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_AT_BIRTH)
    try:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, pass_fds=(control_fd,), env=worker_environment(os.environ)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: the main process's, and where this very package is imported from.

    ``-P`` keeps the working directory out of the search path, so a directory that happens to hold a ``workerproxy`` is
    not run by mistake; a checkout that is not installed has to be named then.
    """
    result = without_systemd(environment)
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    if _PACKAGE_PARENT not in installed:
        further = result.get("PYTHONPATH")
        result["PYTHONPATH"] = f"{_PACKAGE_PARENT}{os.pathsep}{further}" if further else str(_PACKAGE_PARENT)
    return result

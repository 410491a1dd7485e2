"""A new program version without a gap: start it, hand it the listening sockets, leave when it serves.

SIGUSR2 or ``POST /upgrade``. The new main process is started with the very command line this one was started with, so
it runs whatever is installed now and reads the configuration as it is now. It takes over as ``successor`` and
``predecessor`` say. If it fails, ends, or is not ready in ``READY_TIMEOUT_S``, this process goes on.

The process id changes. Under a service manager that is told (``MAINPID=``). Otherwise whoever started this process
watches its id, so it stays, as a keeper (``keeper``) that passes signals on and ends with the exit status of the one
that serves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workerproxy.main_thread import keeper, signals
from workerproxy.main_thread.keeper import Keeper, ServingNote
from workerproxy.main_thread.predecessor import FD_VARIABLE
from workerproxy.main_thread.privileges import ambient_bind_service
from workerproxy.main_thread.successor import Successor
from workerproxy.main_thread.systemd import for_successor

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server

_log = logging.getLogger("workerproxy.main")

READY_TIMEOUT_S: Final = 120.0
_END_S: Final = 5.0  # how long the answer waits for the exit code of a program that was refused

# The successor starts with these blocked, and takes them when it can: a signal to the whole group must not end it.
_BLOCKED: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


@dataclass(frozen=True, slots=True)
class UpgradeResult:
    """``why`` it failed; empty when the process ``pid`` serves now."""

    ok: bool
    pid: int = 0
    why: str = ""


class Upgrade:
    """One at a time. ``command`` is the command line of the new program."""

    def __init__(self, server: Server, lock: asyncio.Lock, command: Sequence[str]) -> None:
        self._server = server
        self._lock = lock
        self._command = list(command)
        self._successor: Successor | None = None
        self._refused: subprocess.Popen[bytes] | None = None  # it finishes what it has accepted
        self._reaping: asyncio.Future[None] | None = None
        self._stop_successor = False  # the signal to stop came in the moment it took over
        self._note = ServingNote.inherited()
        self._keeper_above = self._note is not None
        if self._note is None and "NOTIFY_SOCKET" not in os.environ:
            self._note = ServingNote.new()
        self.successor_pid = 0  # of the program that serves, when it was started here

    async def run(self) -> UpgradeResult:
        """Never raises for what the new program does."""
        async with self._lock:
            if self.successor_pid:
                return UpgradeResult(False, why="a successor serves already")
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                popen = _start(self._command, theirs, self._note)
            except OSError as error:
                ours.close()
                return self._failed(f"it cannot be started: {error}")
            finally:
                theirs.close()
            _log.info("upgrade: %s (pid %d) starts", " ".join(self._command), popen.pid)
            successor = self._successor = Successor(self._server, ours, lambda: self._serves(popen.pid))
            done, _ = await asyncio.wait({successor.done}, timeout=READY_TIMEOUT_S)
            why = successor.done.result() if done else f"it was not ready within {READY_TIMEOUT_S:g} s"
            if why is None:
                _log.info("upgrade: pid %d serves; draining", popen.pid)
                return UpgradeResult(True, popen.pid)
            self._successor = None
            if not done:
                successor.refuse(why)
            self._refused = popen
            status = await _ended(popen, _END_S)
            if status is None:  # and no longer than it may
                patience_s = self._server.options.drain_time_s + _END_S
                self._reaping = asyncio.ensure_future(self.wait_refused(asyncio.Event(), patience_s))
            return self._failed(why if status is None else f"{why} (exit code {status})")

    def stop_asked(self, *, handed_over: bool) -> bool:
        """This process is told to stop: no successor is wanted any more. True when it has taken over: it is told."""
        successor = self._successor
        if successor is None or self.successor_pid:
            return False
        if handed_over:
            self._stop_successor = True
            return True
        successor.refuse("the running program was told to stop")
        return False

    def _serves(self, pid: int) -> None:
        self.successor_pid = pid
        if self._stop_successor:
            os.kill(pid, signal.SIGTERM)
        self._server.notifier.hand_over(pid)  # before the successor hears that it may speak
        if self._note is not None:
            keeper.hold_signals()
            signals.remove(asyncio.get_running_loop())
            self._note.write(pid)
            Keeper(self._note).take_signals()

    def _failed(self, why: str) -> UpgradeResult:
        _log.error("upgrade failed, everything goes on as it was: %s", why)
        return UpgradeResult(False, why=why)

    async def wait_refused(self, hurried: asyncio.Event, timeout_s: float) -> None:
        """Return when no refused program is left; it is ended when there is a hurry, or the time is over."""
        popen = self._refused
        if popen is None:
            return
        deadline = asyncio.get_running_loop().time() + timeout_s
        while await _ended(popen, 0.05) is None:
            if hurried.is_set() or asyncio.get_running_loop().time() > deadline:
                popen.kill()
                popen.wait()
                return

    @property
    def passes_signals_on(self) -> bool:
        return bool(self.successor_pid) and self._note is not None

    def end(self, code: int) -> int:
        """The way this process ends: with this exit code, or as the keeper of its successor. May not return."""
        if self.passes_signals_on and self._note is not None:
            if not self._keeper_above:
                keeper.become(self._note)
            sys.stderr.flush()
            os._exit(code)  # at once: while an interpreter is taken down it handles no signal, and would lose some
        return code

    def close(self) -> None:
        if self._reaping is not None:
            self._reaping.cancel()
        if self._successor is not None:
            self._successor.close()


def own_command() -> list[str]:
    """The command line of this process, interpreter and its options included."""
    return [sys.executable, *sys.orig_argv[1:]]


def _start(command: Sequence[str], control: socket.socket, note: ServingNote | None) -> subprocess.Popen[bytes]:
    env = for_successor(os.environ)
    env[FD_VARIABLE] = str(control.fileno())
    inherited = [control.fileno()]
    if note is not None:
        env[keeper.FD_VARIABLE] = str(note.fd)
        inherited.append(note.fd)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        with ambient_bind_service():
            return subprocess.Popen(command, pass_fds=inherited, env=env)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _ended(popen: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The exit status of a program that was refused; None while it finishes what it has accepted."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while popen.poll() is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    return popen.returncode

"""``python -m workerproxy.main_thread.keeper FD``: what is left of a main process whose successor serves.

Whoever started workerproxy in the foreground (a shell, a container, a supervisor without notification) knows one
process id. So after an upgrade that process lives on in this small form: it passes signals on to the main process that
serves, and ends with its exit status. Which one that is stands in a memory file, which all successors inherit and each
main process writes when the next one has taken over from it. The keeper is the reaper of all that are orphaned below
it, so it hears of the end of any of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

_PR_SET_CHILD_SUBREAPER: Final = 36
_PID_BYTES: Final = 8
MAIN_TITLE: Final = "workerproxy: main"
FD_VARIABLE: Final = "WORKERPROXY_KEEPER_FD"  # in the environment of a program above which a keeper is, or will be
_PASSED_ON: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


class ServingNote:
    """The memory file that says which main process serves. ``fd`` belongs to it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def new(cls) -> ServingNote:
        return cls(os.memfd_create("workerproxy-keeper", os.MFD_CLOEXEC))

    @classmethod
    def inherited(cls) -> ServingNote | None:
        """The one that a predecessor has made; None when there is no keeper above this process."""
        text = os.environ.get(FD_VARIABLE, "")
        if not text.isdigit():
            return None
        try:
            os.set_inheritable(int(text), False)  # workers have no use for it
        except OSError:
            return None
        return cls(int(text))

    def write(self, pid: int) -> None:
        os.pwrite(self.fd, pid.to_bytes(_PID_BYTES, "little"), 0)

    def read(self) -> int:
        """0 while nobody has taken over."""
        return int.from_bytes(os.pread(self.fd, _PID_BYTES, 0), "little")


class Keeper:
    """Passes signals on, and waits for the end of whoever serves."""

    def __init__(self, note: ServingNote) -> None:
        self._note = note

    def take_signals(self) -> None:
        """Signals that come to this process are for the main process that serves, from now on."""
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        # A Ctrl-C goes to the whole group: the others have it already.
        if number == signal.SIGINT and os.isatty(0):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._note.read(), number)

    def wait(self) -> int:
        """The exit status of the main process that served last, as a shell has it."""
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return 0
            if pid == self._note.read():
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def hold_signals() -> None:
    """From here to ``Keeper.take_signals`` signals wait; none is lost, and none ends the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)


def become_reaper() -> None:
    """Orphans among the descendants become children of this process, from now on and after an exec."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def become(note: ServingNote) -> NoReturn:
    """Turn this process into the keeper. Does not return."""
    from workerproxy.main_thread.worker_process import worker_environment  # more than a keeper needs

    hold_signals()
    become_reaper()
    os.set_inheritable(note.fd, True)
    environment = worker_environment(os.environ)
    os.execve(sys.executable, [sys.executable, "-P", "-m", "workerproxy.main_thread.keeper", str(note.fd)], environment)


def main(arguments: list[str]) -> int:
    from setproctitle import setproctitle

    keeper = Keeper(ServingNote(int(arguments[0])))
    keeper.take_signals()
    become_reaper()
    setproctitle("workerproxy: keeper")
    return keeper.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

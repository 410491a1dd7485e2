"""Start a program, wait until it is ready, keep what it prints, stop it: never a process left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.005


class NotReadyError(AssertionError):
    """The program ended, or the awaited condition did not come in time; the text has the program's output."""


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str = "the condition") -> None:
    """Return as soon as ``condition()`` is true; ``NotReadyError`` naming ``what`` after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotReadyError(f"{what} did not come within {timeout_s} s")
        time.sleep(_POLL_S)


def http_get(port: int, path: str, timeout_s: float = 2.0) -> tuple[int, str]:
    """Status and body of ``GET path`` on 127.0.0.1; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout_s) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def http_post(port: int, path: str, timeout_s: float = 10.0) -> tuple[int, str]:
    """Status and body of an empty ``POST path`` on 127.0.0.1; status 0 when nobody answers."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method="POST")
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _ended_with_the_tests() -> list[str]:
    """The words before a command that make the kernel end it with its parent; it keeps its process id."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


class Process:
    """One program under test, its own process group, with stdout and stderr in one file.

    Used as a context manager; leaving it stops the program: SIGTERM, and after ``STOP_TIMEOUT_S`` SIGKILL to the group.
    When the test run is itself killed, the kernel sends SIGTERM; it does so when the *thread* that made this object
    ends, so make it in one that lives as long as the program shall.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.argv = list(argv)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._final_output = ""
        self.popen = subprocess.Popen(
            [*_ended_with_the_tests(), *self.argv],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def running(self) -> bool:
        return self.popen.poll() is None

    def output(self) -> str:
        """Everything printed so far, or until it was stopped."""
        if self._output.closed:
            return self._final_output
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> Self:
        """Return once ``ready()``; raises ``NotReadyError`` with the output when the program ends or time is up."""
        try:
            wait_until(lambda: not self.running() or ready(), timeout_s, f"readiness of {self.argv[0]}")
        except NotReadyError as error:
            self.stop()
            raise NotReadyError(f"{error}; its output:\n{self.output()}") from None
        if not self.running():
            self.stop()
            raise NotReadyError(f"{self.argv} ended with {self.popen.returncode}; its output:\n{self.output()}")
        return self

    def wait_output(self, text: str, timeout_s: float = 5.0) -> None:
        """Return once ``text`` was printed."""
        wait_until(lambda: text in self.output(), timeout_s, f"{text!r} in the output")

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code, once the program has ended by itself; ``subprocess.TimeoutExpired`` when it does not."""
        return self.popen.wait(timeout_s)

    def stop(self) -> int:
        """End the program if it still runs, and everything it started; returns the exit code."""
        if self.running():
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._final_output = self.output()
        self._output.close()
        return self.popen.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

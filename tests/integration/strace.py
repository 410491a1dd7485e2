"""A process's system calls, as strace sees them from outside."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import pytest

from tests.support.processes import wait_until

_LINE: Final = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(.*)$")
_UNFINISHED: Final = " <unfinished ...>"
_RESUMED: Final = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>")
ATTACH_TIMEOUT_S: Final = 10.0


class Call(NamedTuple):
    """One system call. ``arguments`` is strace's text, with what a descriptor is behind it (``5<TCP:[a->b]>``)."""

    name: str
    arguments: str
    result: int
    rest: str  # what is printed behind the result: an error's name, a descriptor's meaning

    @property
    def fd(self) -> int:
        """The descriptor that is the first argument."""
        return int(re.match(r"\d+", self.arguments)[0])  # type: ignore[index]


class Strace:
    """Attached while used as a context manager; ``calls`` afterwards. Skips the test where nothing can be traced."""

    def __init__(self, pid: int, expression: str, directory: Path) -> None:
        self._pid = pid
        self._expression = expression
        self._trace = directory / f"strace.{pid}"
        self._errors = directory / f"strace.{pid}.errors"

    def __enter__(self) -> Self:
        program = shutil.which("strace")
        if program is None:
            pytest.skip("strace is not installed, so system calls cannot be seen")
        argv = [program, "-f", "-yy", "-s", "64", "-e", f"trace={self._expression}", "-p", str(self._pid)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen([*argv, "-o", str(self._trace)], stdin=subprocess.DEVNULL, stderr=errors)
        try:
            wait_until(self._attached_or_over, ATTACH_TIMEOUT_S, "strace's attachment")
        except BaseException:
            self._stop()
            raise
        text = self._errors.read_text()
        if self._process.poll() is not None:
            if "Operation not permitted" in text or "Function not implemented" in text:
                pytest.skip(f"ptrace is not possible here: {text.strip()}")
            raise AssertionError(text)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def wait(self, name: str, mark: str, number: int = 1) -> None:
        """Return when ``number`` calls with ``mark`` in their arguments were seen: they come a little late."""

        def seen() -> bool:
            return sum(call.name == name and mark in call.arguments for call in self.calls()) >= number

        wait_until(seen, ATTACH_TIMEOUT_S, f"call {number} of {name} on {mark}")

    def calls(self) -> list[Call]:
        """Every complete call so far, in the order of its end."""
        calls = []
        unfinished: dict[str, str] = {}
        for line in self._trace.read_text(errors="replace").splitlines():
            if line.endswith(_UNFINISHED):
                unfinished[line.split()[0]] = line.removesuffix(_UNFINISHED)
                continue
            resumed = _RESUMED.match(line)
            whole = unfinished.pop(resumed[1], "") + line[resumed.end() :] if resumed else line
            found = _LINE.match(whole)
            if found and found[4] != "?":
                calls.append(Call(found[2], found[3], int(found[4]), found[5].strip()))
        return calls

    def _attached_or_over(self) -> bool:
        return "attached" in self._errors.read_text() or self._process.poll() is not None

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # it detaches; the traced process goes on
        try:
            self._process.wait(ATTACH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

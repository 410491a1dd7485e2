"""The file that names the main process (``--pidfile``), for those who send signals without systemd.

Replaced as a whole, so a reader never sees half a number. A file left by a process that is gone, or whose number now
belongs to another program, is stale and simply replaced.

Limit: after a drop of privileges (``privileges``) it can be replaced in an upgrade and removed in the end only in a
directory that the user may write, such as systemd's ``RuntimeDirectory=``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

_log = logging.getLogger("workerproxy.main")

_MODE: Final = 0o644  # everybody may read it


class PidFileError(Exception):
    """The file cannot be written, or names a running workerproxy; the text is for the operator."""


class PidFile:
    """``write`` at the start, or ``take_over`` in an upgrade; ``remove`` in the end."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"<PidFile {self.path}>"

    def write(self) -> None:
        """Raises ``PidFileError`` when it cannot be written, or when it names another workerproxy that runs."""
        self._replace_unless_taken(predecessor=0)

    def take_over(self, predecessor: int) -> None:
        """The process ``predecessor`` hands over to this one: as ``write``, but the file may name that process."""
        self._replace_unless_taken(predecessor)

    def remove(self) -> None:
        """Unless it names another process by now. What cannot be removed is stale, and replaced at the next start."""
        if self.read() != os.getpid():
            return
        try:
            self.path.unlink()
        except OSError as error:
            _log.debug("%s stays: %s", self.path, error.strerror)

    def replaceable(self) -> bool:
        """Whether this process, with the rights it has now, can take the file over or remove it."""
        return os.access(self.path.parent, os.W_OK | os.X_OK)

    def read(self) -> int:
        """The process it names; 0 when there is none, or no number in it."""
        try:
            text = self.path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return 0
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0

    def _replace_unless_taken(self, predecessor: int) -> None:
        other = self.read()
        if other not in (0, os.getpid(), predecessor) and _is_workerproxy(other):
            raise PidFileError(f"{self.path} names process {other}, a workerproxy that runs")
        try:
            self._replace()
        except OSError as error:
            raise PidFileError(f"cannot write the pid file {self.path}: {error.strerror}") from None

    def _replace(self) -> None:
        fd, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
                os.fchmod(file.fileno(), _MODE)
            os.rename(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _is_workerproxy(pid: int) -> bool:
    """By its command line. One that is hidden from us (another user's, with hidepid) counts as another program."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return False
    if words[0].startswith(b"workerproxy: main"):  # the title it gives itself; workers are called otherwise
        return True
    names = [os.path.basename(word) for word in words[:4]]
    return names[0] == b"workerproxy" or (names[0].startswith(b"python") and b"workerproxy" in names)

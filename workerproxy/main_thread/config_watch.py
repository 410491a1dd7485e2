"""``--watch``: notices that a configuration file has changed, and says so once it has come to rest.

Looks twice a second, and takes a file for changed when device, inode, time of modification or size of what its name
leads to differ. So an edit in place, an atomic rename, and a symbolic link anywhere in the path that leads elsewhere
(Kubernetes replaces ``..data`` this way) are all the same. Why no inotify: ``docs/notes/2026-11-24-config-watch.md``.

What a change leads to, and whether the file is any good, is not known here. Diagnostics: a file that vanishes and one
that comes back are logged, each once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from workerproxy.config.marks import Mark
from workerproxy.config.schema import Schema
from workerproxy.config.walk import walk

if TYPE_CHECKING:
    from workerproxy.config.options import Options

_log = logging.getLogger("workerproxy.config")

INTERVAL_S: Final = 0.5
_DATA_SOURCE: Final = "envoy.config.core.v3.DataSource"


class Identity(NamedTuple):
    """Two looks at a file that is the same and unchanged have the same one."""

    device: int
    inode: int
    modified_ns: int
    size: int


Look: TypeAlias = Mapping[str, Identity | None]
"""Path -> what was found there; None: nothing that can be seen."""


def look(paths: Iterable[str]) -> Look:
    """How the files are now; symbolic links are followed."""
    return {path: _identity(path) for path in paths}


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return Identity(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def watched_files(options: Options, bootstrap: Any) -> list[str]:
    """What the configuration was read from, and every file that it names (``core.v3.DataSource.filename``).

    Walks the whole bootstrap; ``WatchedFiles`` does so once for each.
    """
    found = dict.fromkeys(options.files)
    for visit in walk(bootstrap, Mark(""), Schema()):
        if visit.kind.full_name == _DATA_SOURCE and visit.message.WhichOneof("specifier") == "filename":
            found[visit.message.filename] = None
    return list(found)


class WatchedFiles:
    """``watched_files`` of the bootstrap that is the current one, for ``ConfigWatch`` to ask at every look."""

    def __init__(self, options: Options, current: Callable[[], Any]) -> None:
        """``current()``: the bootstrap, the same object as long as it is the same configuration."""
        self._options = options
        self._current = current
        self._walked: Any = None
        self._files: list[str] = []

    def __call__(self) -> Sequence[str]:
        bootstrap = self._current()
        if bootstrap is not self._walked:
            self._files = watched_files(self._options, bootstrap)
            self._walked = bootstrap
        return self._files


class ConfigWatch:
    """Looks from its making until ``stop``. Two looks in a row must agree before a difference counts as a change."""

    def __init__(
        self,
        files: Callable[[], Sequence[str]],
        on_change: Callable[[], object],
        interval_s: float = INTERVAL_S,
        loop: asyncio.AbstractEventLoop | None = None,
        seen: Look | None = None,
    ) -> None:
        """``files()`` is asked at every look; ``on_change()`` is called in the loop, after an interval without changes.

        ``seen``: a look at the files from before they were read; what it lacks is looked at now.
        """
        self._files = files
        self._on_change = on_change
        self._interval_s = interval_s
        self._loop = loop or asyncio.get_running_loop()
        self._last = look(files())  # the look before
        self._known: Look = {**self._last, **(seen or {})}  # as they were when they were read
        self._gone: set[str] = set()  # said to be gone
        self._timer = self._loop.call_later(interval_s, self._tick)

    def __repr__(self) -> str:
        return f"<ConfigWatch {len(self._known)} files, {len(self._gone)} gone>"

    def stop(self) -> None:
        self._timer.cancel()

    def about_to_be_read(self) -> None:
        """Somebody is about to read them for another reason: what has changed until now needs no call."""
        self._known = self._last = look(self._files())

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval_s, self._tick)
        now = look(self._files())
        # A file that was not watched before has just been read.
        self._known = {path: self._known.get(path, identity) for path, identity in now.items()}
        self._say_what_is_gone(now)
        at_rest, self._last = now == self._last, now
        changed = [path for path, identity in now.items() if identity not in (None, self._known[path])]
        if at_rest and changed:
            self._known = now  # what is gone cannot be read now: when it comes back, that is a change
            _log.info("changed: %s", ", ".join(changed))
            self._on_change()

    def _say_what_is_gone(self, now: Look) -> None:
        gone = {path for path, identity in now.items() if identity is None}
        for path in sorted(gone - self._gone):
            _log.warning("%s is gone; the configuration stays as it is until it is back", path)
        for path in sorted(self._gone & now.keys() - gone):
            _log.info("%s is back", path)
        self._gone = gone

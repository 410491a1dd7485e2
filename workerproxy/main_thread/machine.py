"""What the process asks of the system: descriptors, memory figures, memory files."""

from __future__ import annotations

import logging
import mmap
import os
import resource
from collections.abc import Iterable
from typing import NamedTuple

import psutil

_log = logging.getLogger("workerproxy.main")


def raise_file_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit, for this process and those it starts; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files stays at %d: %s", soft, error)
            return soft
    return hard


def memory_file(name: str, size: int) -> tuple[int, mmap.mmap]:
    """A sparse memory file of ``size`` bytes: its descriptor, which the caller closes, and a mapping of it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd, mmap.mmap(fd, size)


def affinity(worker_id: int) -> set[int]:
    """The processor of a worker: the usable ones in turn."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[worker_id % len(usable)]}


class Memory(NamedTuple):
    """Bytes, summed up over processes."""

    allocated: int  # resident and not shared
    heap_size: int  # data segments, resident or not
    physical: int  # resident; what processes share is counted in each


def memory_of(pids: Iterable[int]) -> Memory:
    """The memory of these processes; one that has just ended counts nothing."""
    allocated = heap = physical = 0
    for pid in pids:
        try:
            info = psutil.Process(pid).memory_info()
        except psutil.Error:
            continue
        allocated += info.rss - info.shared
        heap += info.data
        physical += info.rss
    return Memory(allocated, heap, physical)

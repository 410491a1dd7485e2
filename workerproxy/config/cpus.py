"""How many CPUs this process may really use: what ``--workers auto`` means.

The smallest of: the CPUs it may be scheduled on (affinity, cpuset), and the CPU-time quota of its cgroup and of every
cgroup above it (v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``), rounded down. So a container limited to 2 CPUs on a large
machine gets two workers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")


def usable_cpus(cgroup_root: Path = _CGROUP_ROOT, own_cgroups: Path = _OWN_CGROUPS) -> int:
    """At least 1. The paths are arguments for tests."""
    limits = [len(os.sched_getaffinity(0)), *_quotas(cgroup_root, own_cgroups)]
    return max(1, int(min(limits)))


def _quotas(root: Path, own_cgroups: Path) -> list[float]:
    """Every limit that applies, in CPUs."""
    found: list[float] = []
    for line in _read(own_cgroups).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            found += [quota for folder in _upwards(root, path) if (quota := _quota_v2(folder)) is not None]
        elif "cpu" in controllers.split(","):
            bases = (root / controllers, root / "cpu")
            base = next((base for base in bases if base.is_dir()), None)
            if base is not None:
                found += [quota for folder in _upwards(base, path) if (quota := _quota_v1(folder)) is not None]
    return found


def _upwards(base: Path, path: str) -> list[Path]:
    """The folder of a cgroup and all above it. In a container the path may be the host's: then only ``base`` exists."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [base.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]


def _quota_v2(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()
    if len(words) != 2 or words[0] == "max":
        return None
    return _ratio(words[0], words[1])


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None  # "-1" is no limit
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""

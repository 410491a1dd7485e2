"""What is measured, and how: CPU time and memory of a process tree, one run of wrk, medians.

CPU time is utime + stime of every process of the tree, from /proc: precise to 10 ms, children and all threads included.
It is taken before and after a run of a few seconds, and divided by the requests that wrk saw completed.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

RESULT_MARK: Final = "wrk-result:"
_WRK_GRACE_S: Final = 30.0


class MeasureError(RuntimeError):
    """A measurement that cannot be trusted: wrk failed, or requests did."""


def exit_on_sigterm() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that everything it started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What wrk saw. ``failed`` counts socket errors, time-outs and statuses of 400 and above."""

    requests: int
    duration_us: int
    bytes: int
    failed: int
    p50_us: float
    p99_us: float

    @property
    def rate_per_s(self) -> float:
        return self.requests * 1e6 / self.duration_us


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one scenario through one proxy."""

    requests: int
    failed: int
    rate_per_s: float
    cpu_us_per_request: float
    cpu_share: float  # of one core, 0 to the number of cores
    p50_us: float
    p99_us: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def parse_wrk(output: str) -> WrkResult:
    """The line that ``done()`` of our wrk script prints. Raises MeasureError when it is missing or not one."""
    lines = [line for line in output.splitlines() if line.startswith(RESULT_MARK)]
    if len(lines) != 1:
        raise MeasureError(f"wrk printed no result:\n{output}")
    try:
        value = json.loads(lines[0].removeprefix(RESULT_MARK))
        return WrkResult(
            requests=int(value["requests"]),
            duration_us=int(value["duration_us"]),
            bytes=int(value["bytes"]),
            failed=int(value["failed"]),
            p50_us=float(value["p50_us"]),
            p99_us=float(value["p99_us"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MeasureError(f"wrk printed a result that cannot be read: {lines[0]}") from error


def run_wrk(url: str, script: Path, connections: int, duration_s: float, prefix: Sequence[str] = ()) -> WrkResult:
    """One bounded run of wrk with one thread. Raises MeasureError when wrk fails."""
    argv = [*prefix, "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s", "--timeout", "10s"]
    done = subprocess.run(
        [*argv, "-s", str(script), url],
        capture_output=True,
        text=True,
        timeout=duration_s + _WRK_GRACE_S,
        check=False,
    )
    if done.returncode:
        raise MeasureError(f"wrk ended with {done.returncode}: {done.stderr or done.stdout}")
    return parse_wrk(done.stdout)


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it, those that end meanwhile left out."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """CPU time of the tree so far: every living process, and the dead ones their parent has waited for."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += float(times.user + times.system + times.children_user + times.children_system)
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree, pages that processes share counted in each."""
    return sum(_memory(process.pid, "Rss") for process in tree(pid))


def pss_bytes(pid: int) -> int:
    """Memory of the tree, a page that n processes share counted as 1/n in each (PSS)."""
    return sum(_memory(process.pid, "Pss") for process in tree(pid))


def _memory(pid: int, field: str) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return parse_smaps(text, field)


def parse_smaps(text: str, field: str) -> int:
    """One field of /proc/PID/smaps_rollup in bytes; 0 when it is not there (a kernel thread, a zombie)."""
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def descriptor_count(pid: int) -> int:
    """Open descriptors of one process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def make_sample(result: WrkResult, cpu_s: float) -> Sample:
    """Raises MeasureError when nothing was completed, or more than one request in a thousand failed."""
    if result.requests - result.failed <= 0 or result.failed * 1000 > result.requests:
        raise MeasureError(f"{result.failed} of {result.requests} requests failed")
    return Sample(
        requests=result.requests,
        failed=result.failed,
        rate_per_s=result.rate_per_s,
        cpu_us_per_request=cpu_s * 1e6 / result.requests,
        cpu_share=cpu_s * 1e6 / result.duration_us,
        p50_us=result.p50_us,
        p99_us=result.p99_us,
    )


def median_sample(samples: Iterable[Sample]) -> Sample:
    """Field by field: the median of each, not one round's picture."""
    taken = list(samples)
    if not taken:
        raise ValueError("no samples")

    def median(name: str) -> float:
        return float(statistics.median(getattr(sample, name) for sample in taken))

    return Sample(
        requests=round(median("requests")),
        failed=max(sample.failed for sample in taken),
        rate_per_s=median("rate_per_s"),
        cpu_us_per_request=median("cpu_us_per_request"),
        cpu_share=median("cpu_share"),
        p50_us=median("p50_us"),
        p99_us=median("p99_us"),
    )

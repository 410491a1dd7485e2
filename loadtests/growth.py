"""When a soak says "this grew": samples over time in, complaints out. No I/O.

The rules, each over the samples after the warm-up (the first fifth of the time):

* memory: the median RSS of a process in the last third may exceed that in the first third by 2 MiB and 3 %;
* descriptors: the same, by 16;
* connections and requests (gauges of /stats): the same, by 16 and 50 %;
* at rest, after the load has ended: no active request, no waiting one, no client connection; and the proxy's processes
  hold no more descriptors than before the load, but for one per pooled upstream connection and 16 for each process.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

MIB: Final = 1 << 20
WARM_UP_SHARE: Final = 0.2
SPARE_DESCRIPTORS: Final = 16
AT_REST: Final = ("downstream_cx_active", "downstream_rq_active", "upstream_rq_active", "upstream_rq_pending_active")
POOLED: Final = "upstream_cx_active"
GAUGES: Final = (*AT_REST, POOLED)


@dataclass(frozen=True, slots=True)
class ProcessSample:
    rss_bytes: int
    pss_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class SoakSample:
    """The proxy at one moment. ``processes`` by pid; ``gauges`` summed over listeners and clusters."""

    at_s: float
    processes: dict[int, ProcessSample] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)


def sum_gauges(stats: str) -> dict[str, int]:
    """GAUGES out of the text of admin ``/stats`` (``name: value`` lines), the ``http.admin.`` ones left out."""
    totals = dict.fromkeys(GAUGES, 0)
    for line in stats.splitlines():
        name, separator, value = line.rpartition(": ")
        scope, _, last = name.rpartition(".")
        if not separator or not value.isdigit() or last not in totals or scope == "http.admin":
            continue
        if scope.split(".", 1)[0] == ("cluster" if last.startswith("upstream") else "http"):
            totals[last] += int(value)
    return totals


def first_and_last(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last third; at least one value each."""
    third = max(1, len(values) // 3)
    return statistics.median(values[:third]), statistics.median(values[-third:])


def _grown(what: str, values: Sequence[float], allowed: Callable[[float], float], unit: str, scale: float) -> list[str]:
    first, last = first_and_last(values)
    if last <= allowed(first):
        return []
    limit = allowed(first)
    return [f"{what} grew from {first / scale:.1f} to {last / scale:.1f}{unit} (allowed: {limit / scale:.1f}{unit})"]


def growth(samples: Sequence[SoakSample]) -> list[str]:
    """What grew under load. Fewer than six samples after the warm-up, or a process that changed, is a complaint too."""
    if not samples:
        return ["no samples"]
    end_s = samples[-1].at_s
    kept = [sample for sample in samples if sample.at_s >= WARM_UP_SHARE * end_s]
    if len(kept) < 6:
        return [f"only {len(kept)} samples after the warm-up, at least 6 are needed"]
    pids = set(kept[0].processes)
    if any(set(sample.processes) != pids for sample in kept):
        return ["the proxy's processes changed"]
    found = []
    for pid in sorted(pids):
        taken = [sample.processes[pid] for sample in kept]
        rss: list[float] = [process.rss_bytes for process in taken]
        found += _grown(f"RSS of process {pid}", rss, lambda first: first * 1.03 + 2 * MIB, " MiB", MIB)
        open_: list[float] = [process.descriptors for process in taken]
        found += _grown(f"descriptors of process {pid}", open_, lambda first: first + SPARE_DESCRIPTORS, "", 1)
    for gauge in GAUGES:
        counts: list[float] = [sample.gauges[gauge] for sample in kept]
        found += _grown(gauge, counts, lambda first: first * 1.5 + 16, "", 1)
    return found


def unrest(before: SoakSample, after: SoakSample) -> list[str]:
    """What is still held after the load has ended."""
    found = [f"{name} is {after.gauges[name]} after the load" for name in AT_REST if after.gauges[name]]
    held_before = sum(process.descriptors for process in before.processes.values())
    held = sum(process.descriptors for process in after.processes.values())
    allowed = held_before + after.gauges[POOLED] + SPARE_DESCRIPTORS * len(after.processes)
    if held > allowed:
        found.append(f"{held} descriptors after the load, {held_before} before it (allowed: {allowed})")
    return found

"""A cluster's response codes and times (``upstream_rq_2xx``, ``upstream_rq_200``, ``upstream_rq_time`` ...).

Envoy counts every response under several names: by code, by class, in all, and again under ``internal.``, ``external.``
and ``canary.``. The data path counts it once; ``collect`` makes all names of it, just before statistics are published.
Envoy's name: ``CodeStatsImpl``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerproxy.control.stats import DynamicCounters, Histogram, StatsGroup

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import StatsWriter


_SCOPES: Final = ("", "internal.", "external.", "canary.")


class TimeStats(StatsGroup):
    upstream_rq_time: Histogram


class CodeStats:
    """One per cluster, kept over reloads. ``prefix`` is ``cluster.<name>.``"""

    __slots__ = (
        "_codes",
        "_external",
        "_external_time",
        "_internal",
        "_internal_time",
        "_prefix",
        "_tally",
        "_times",
        "_writer",
    )

    def __init__(self, writer: StatsWriter, prefix: str) -> None:
        self._writer = writer
        self._prefix = prefix
        self._tally: dict[tuple[int, bool, bool], int] = {}  # (code, internal, canary) -> since the last collect
        self._codes: dict[str, DynamicCounters] = {}
        self._times = writer.group(prefix, TimeStats)
        self._internal: TimeStats | None = None
        self._external: TimeStats | None = None
        self._internal_time: list[int] = []
        self._external_time: list[int] = []

    def charge(self, code: int, internal: bool, canary: bool) -> None:
        """Count one response."""
        key = (code, internal, canary)
        tally = self._tally
        if key in tally:
            tally[key] += 1
        else:
            tally[key] = 1

    def record_time(self, milliseconds: int, internal: bool) -> None:
        """The time from the request's last byte to the response's, in milliseconds."""
        if internal:
            self._internal_time.append(milliseconds)
        else:
            self._external_time.append(milliseconds)

    def collect(self) -> None:
        """Bring all names up to date."""
        tally = self._tally
        for (code, internal, canary), count in tally.items():
            if count:
                tally[code, internal, canary] = 0
                self._count("", code, count)
                self._count("internal." if internal else "external.", code, count)
                if canary:
                    self._count("canary.", code, count)
        if self._external_time:
            if self._external is None:
                self._external = self._writer.group(self._prefix + "external.", TimeStats)
            self._move(self._external_time, self._external)
        if self._internal_time:
            if self._internal is None:
                self._internal = self._writer.group(self._prefix + "internal.", TimeStats)
            self._move(self._internal_time, self._internal)

    def drop(self) -> None:
        """The cluster is gone: show none of it any more."""
        for scope in _SCOPES:
            self._writer.drop(self._prefix + scope, TimeStats)
            self._writer.drop_dynamic(self._prefix + scope, "upstream_rq_")

    def _move(self, samples: list[int], scope: TimeStats) -> None:
        self._times.upstream_rq_time.pending.extend(samples)
        scope.upstream_rq_time.pending.extend(samples)
        samples.clear()

    def _count(self, scope: str, code: int, count: int) -> None:
        counters = self._codes.get(scope)
        if counters is None:
            counters = self._codes[scope] = self._writer.dynamic(self._prefix + scope, "upstream_rq_")
        counters[code] += count
        counters[f"{code // 100}xx"] += count
        counters["completed"] += count

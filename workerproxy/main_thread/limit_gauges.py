"""Which circuit breakers are open and what remains: read from the board, once for all workers.

Envoy's name: ``ResourceManagerImpl``. ``remaining_cx_pools`` is left out: pools are not limited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from workerproxy.control.names import cluster_stat_prefix
from workerproxy.main_thread.stats import CircuitBreakerStats, RemainingStats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workerproxy.control.board import BoardOwner
    from workerproxy.control.stats_segment import StatsWriter
    from workerproxy.main_thread.configuration import ConfigVersion

_PRIORITIES: Final = ("default", "high")
# Limit as its slot is called, field of Thresholds, default, gauges.
_LIMITS: Final = (
    ("connections", "max_connections", 1024, "cx_open", "remaining_cx"),
    ("pending", "max_pending_requests", 1024, "rq_pending_open", "remaining_pending"),
    ("requests", "max_requests", 1024, "rq_open", "remaining_rq"),
    ("retries", "max_retries", 3, "rq_retry_open", "remaining_retries"),
)


class _Row(NamedTuple):
    slot: int
    maximum: int
    open: str
    remaining: str
    breakers: CircuitBreakerStats
    rest: RemainingStats | None  # only with track_remaining


class LimitGauges:
    """``cluster.<name>.circuit_breakers.<priority>.``; ``collect`` brings them up to date."""

    def __init__(self, stats: StatsWriter, board: BoardOwner) -> None:
        self._stats = stats
        self._board = board
        self._rows: list[_Row] = []
        self._prefixes: set[str] = set()

    def activate(self, config: ConfigVersion) -> None:
        """A configuration became active."""
        before, self._prefixes = self._prefixes, set()
        for prefix in before:
            self._stats.drop(prefix, CircuitBreakerStats)
            self._stats.drop(prefix, RemainingStats)
        self._rows = [row for cluster in config.clusters for row in self._rows_of(cluster, config)]

    def _rows_of(self, cluster: Any, config: ConfigVersion) -> Iterator[_Row]:
        for number, priority in enumerate(_PRIORITIES):
            prefix = f"{cluster_stat_prefix(cluster)}.circuit_breakers.{priority}"
            self._prefixes.add(prefix)
            breakers = self._stats.group(prefix, CircuitBreakerStats)
            given = next((one for one in cluster.circuit_breakers.thresholds if one.priority == number), None)
            tracked = given is not None and given.track_remaining
            rest = self._stats.group(prefix, RemainingStats) if tracked else None
            for limit, name, default, is_open, remaining in _LIMITS:
                has = given is not None and given.HasField(name)
                maximum = getattr(given, name).value if has else default
                slot = config.slots[f"{cluster.name}/{priority}/{limit}"]
                yield _Row(slot, maximum, is_open, remaining, breakers, rest)

    def collect(self) -> None:
        for slot, maximum, is_open, remaining, breakers, rest in self._rows:
            left = max(0, maximum - self._board.total(slot))
            setattr(breakers, is_open, int(not left))
            if rest is not None:
                setattr(rest, remaining, left)

"""Circuit breakers: limits on what a cluster may have in use, holding over all workers.

Each limit is a slot of the shared board: a worker writes only its own cell and adds up all of them where it matters.
As in Envoy the sum is eventually consistent, so a limit can be overshot by what other workers begin in the same
moment. Envoy's names: ``ResourceManager``, ``cluster.v3.CircuitBreakers.Thresholds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerproxy.control.board import LimitCell

DEFAULT_LIMIT: Final = 1024  # connections, pending requests, requests (Envoy's defaults)
DEFAULT_RETRIES: Final = 3


class Limit:
    """One limit: ``acquire`` and ``release`` count, ``available`` asks. ``maximum`` 0 refuses everything."""

    __slots__ = ("_cell", "_near", "acquire", "maximum", "release")

    acquire: Callable[[], None]
    release: Callable[[], None]

    def __init__(self, cell: LimitCell, maximum: int, rows: int) -> None:
        """``rows`` of the board are summed up."""
        self._cell = cell
        self.acquire = cell.increment
        self.release = cell.decrement
        self.maximum = maximum
        self.set_rows(rows)

    def set_rows(self, rows: int) -> None:
        """So many rows are summed up from now on."""
        # Far from the limit the other workers' cells are not read: with fewer than this many in use here, what all
        # workers can overshoot by is an eighth of the limit.
        self._near = self.maximum if rows == 1 else self.maximum // (8 * rows)

    @property
    def value(self) -> int:
        """In use by this worker."""
        return self._cell.value

    def available(self) -> bool:
        cell = self._cell
        if cell.value < self._near:
            return True
        return cell.total() < self.maximum


class CircuitBreakers:
    """The limits of one priority of one cluster."""

    __slots__ = ("connections", "pending", "requests", "retries")

    def __init__(self, connections: Limit, pending: Limit, requests: Limit, retries: Limit) -> None:
        self.connections = connections
        self.pending = pending
        self.requests = requests
        self.retries = retries

    def set_rows(self, rows: int) -> None:
        """So many rows of the board are summed up from now on."""
        for limit in (self.connections, self.pending, self.requests, self.retries):
            limit.set_rows(rows)

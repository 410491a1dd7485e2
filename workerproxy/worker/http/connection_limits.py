"""How many downstream connections there may be: of one listener and of all, over all workers.

Each limit is a slot of the shared board. Nothing is counted where there is no limit: a worker's cell is set to what
there is when a limit comes. Sources: the runtime keys ``envoy.resource_limits.listener.<name>.connection_limit`` and
``overload.global_downstream_max_connections``. As in Envoy what is over the limit is accepted and closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from workerproxy.config.runtime import CONNECTION_LIMIT, GLOBAL_CONNECTION_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workerproxy.config.runtime import Runtime
    from workerproxy.control.board import LimitCell
    from workerproxy.worker.http.stats import ListenerStats
    from workerproxy.worker.network.connection_balancer import Share


class LimitSetting(NamedTuple):
    slot: int
    maximum: int


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """The limits of one configuration."""

    of_all: LimitSetting | None
    of_listener: dict[str, LimitSetting]  # by name, where there is one

    @classmethod
    def of(cls, runtime: Runtime, slots: Mapping[str, int], listeners: Iterable[str]) -> LimitSettings:
        of_all = runtime.integer(GLOBAL_CONNECTION_LIMIT)
        of_listener: dict[str, LimitSetting] = {}
        for name in listeners:
            maximum = runtime.integer(CONNECTION_LIMIT.format(name))
            if maximum is not None:
                of_listener[name] = LimitSetting(slots[f"{name}/listener"], maximum)
        return cls(None if of_all is None else LimitSetting(slots["/listener"], of_all), of_listener)


class ConnectionLimit:
    """One limit; ``maximum`` 0 refuses everything."""

    __slots__ = ("_cell", "_maximum", "closed", "opened")

    def __init__(self, cell: LimitCell, maximum: int, current: int) -> None:
        """``current``: the connections this worker has now."""
        self._cell = cell
        self._maximum = maximum
        cell.set(current)
        self.opened = cell.increment
        self.closed = cell.decrement

    def reached(self) -> bool:
        return self._cell.total() >= self._maximum


class ConnectionLimits:
    """The limits that hold for one listener, and its share in ``exact_balance``; one of them at least is there."""

    __slots__ = ("_of_all", "_of_listener", "_share")

    def __init__(
        self, of_listener: ConnectionLimit | None, of_all: ConnectionLimit | None, share: Share | None = None
    ) -> None:
        self._of_listener = of_listener
        self._of_all = of_all
        self._share = share  # has counted a connection before it is opened

    @classmethod
    def of(
        cls, of_listener: ConnectionLimit | None, of_all: ConnectionLimit | None, share: Share | None
    ) -> ConnectionLimits | None:
        """None when there is nothing to count."""
        if of_listener is None and of_all is None and share is None:
            return None
        return cls(of_listener, of_all, share)

    def refuses(self, stats: ListenerStats) -> bool:
        """Whether there is no room for one more; counts it if so."""
        if self._of_all is not None and self._of_all.reached():
            stats.downstream_global_cx_overflow += 1
        elif self._of_listener is not None and self._of_listener.reached():
            stats.downstream_cx_overflow += 1
        else:
            return False
        if self._share is not None:
            self._share.closed()
        return True

    def opened(self) -> None:
        for limit in (self._of_listener, self._of_all):
            if limit is not None:
                limit.opened()

    def closed(self) -> None:
        for limit in (self._of_listener, self._of_all, self._share):
            if limit is not None:
                limit.closed()

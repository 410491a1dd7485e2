"""Streams whose own route or cluster a reload has removed: they may finish within the drain time, then they are ended.

Every other change leaves a running stream alone: it keeps the configuration it began with. Nothing is kept per stream:
a commit looks at those that run, and the end of the drain time looks again for those among them that still do. One
whose route or cluster has come back by then is spared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from workerproxy.http import outcome

if TYPE_CHECKING:
    from workerproxy.http.outcome import Outcome
    from workerproxy.worker.http.listener import HttpListener
    from workerproxy.worker.http.stream import ActiveStream
    from workerproxy.worker.network.dispatcher import Dispatcher
    from workerproxy.worker.router.route import Route, RouteKey
    from workerproxy.worker.upstream.cluster_manager import ClusterManager

_log = logging.getLogger("workerproxy.config")

_NAMED_AT_MOST: Final = 10  # routes and clusters in one line of the log


@dataclass(slots=True)
class Removal:
    """What one commit took away from streams that ran then."""

    at: float
    listeners: set[HttpListener] = field(default_factory=set)
    routes: set[tuple[HttpListener, tuple[RouteKey, ...]]] = field(default_factory=set)
    clusters: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)

    def concerns(self, listener: HttpListener, stream: ActiveStream) -> bool:
        """Whether the stream is one of them, going by what it runs on."""
        if stream.start_time > self.at:
            return False
        route = stream.route
        if route is not None and (listener, route.keys) in self.routes:
            return True
        return stream.upstream_cluster_raw in self.clusters


class Orphans:
    """One per worker."""

    def __init__(self, dispatcher: Dispatcher, clusters: ClusterManager, drain_time_s: float) -> None:
        self._dispatcher = dispatcher
        self._clusters = clusters
        self._drain_time_s = drain_time_s

    def find(self, listeners: Iterable[HttpListener]) -> int:
        """How many streams have lost their route or cluster, now that these listeners have their new configuration.

        Their time begins to run.
        """
        removal = Removal(self._dispatcher.clock())
        count = 0
        for listener in listeners:
            for stream in _streams(listener):
                route, cluster = self._lost(listener, stream)
                if route is None and not cluster:
                    continue
                count += 1
                removal.listeners.add(listener)
                if route is not None:
                    removal.routes.add((listener, route.keys))
                    removal.labels.add(f"route {route.label!r}")
                if cluster:
                    removal.clusters.add(cluster)
                    removal.labels.add(f"cluster {cluster!r}")
        if count:
            text = "%d streams on removed routes or clusters may finish within %d s: %s"
            _log.info(text, count, self._drain_time_s, _some(removal.labels))
            self._dispatcher.call_later(self._drain_time_s, lambda: self._time_is_up(removal))
        return count

    def _lost(self, listener: HttpListener, stream: ActiveStream) -> tuple[Route | None, str]:
        """The route and the cluster that the stream runs on and that are gone; None and "" where they are not."""
        route, cluster = stream.route, stream.upstream_cluster_raw
        if route is not None and listener.config.routes.has(route):
            route = None
        if cluster in self._clusters.clusters:
            cluster = ""
        return route, cluster

    def _time_is_up(self, removal: Removal) -> None:
        count = 0
        for listener in removal.listeners:
            for stream in _streams(listener):
                if not removal.concerns(listener, stream):
                    continue
                route, cluster = self._lost(listener, stream)
                if route is not None:
                    count += _end(stream, outcome.ROUTE_REMOVED)
                elif cluster:
                    count += _end(stream, outcome.CLUSTER_REMOVED)
        if count:
            text = "the drain time is over; %d streams on removed routes or clusters are ended: %s"
            _log.warning(text, count, _some(removal.labels))


def _streams(listener: HttpListener) -> Iterator[ActiveStream]:
    for manager in tuple(listener.connections):
        if manager.stream is not None:
            yield manager.stream


def _end(stream: ActiveStream, end: Outcome) -> int:
    try:
        stream.local_reply(end)
    except Exception:  # costs this stream its answer, and no other one its end
        _log.exception("internal error at the end of %r", stream)
        stream.on_fault()
    return 1


def _some(labels: set[str]) -> str:
    more = len(labels) - _NAMED_AT_MOST
    return ", ".join(sorted(labels)[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")

"""Which statistics belong to the configuration that is served: what is gone from it is no longer shown.

Statistics are made while a configuration is prepared, so those of one that is refused are taken back too. Numbers are
kept, and shown again as they were when their cluster or listener returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from workerproxy.control.names import address_text
from workerproxy.control.stats import StatsGroup, stat_name
from workerproxy.worker.http.stats import ConnectionManagerStats, ListenerHttpStats, ListenerStats, WorkerListenerStats
from workerproxy.worker.router.stats import RouterStats
from workerproxy.worker.upstream.stats import ClusterStats

if TYPE_CHECKING:
    from envoy.config.listener.v3.listener_pb2 import Listener

    from workerproxy.control.stats_segment import StatsWriter
    from workerproxy.worker.http.settings import ConnectionManagerConfig
    from workerproxy.worker.upstream.cluster import Cluster
    from workerproxy.worker.upstream.code_stats import CodeStats

Clusters: TypeAlias = Mapping[str, "Cluster"]
Listeners: TypeAlias = Mapping[str, tuple["Listener", "ConnectionManagerConfig"]]
Group: TypeAlias = tuple[str, type[StatsGroup]]


class ListenerGroups:
    """The names of one listener's statistics in this worker."""

    def __init__(self, config: Listener, manager: ConnectionManagerConfig, worker_id: int) -> None:
        prefix = f"listener.{stat_name(config.stat_prefix or address_text(config.address))}."
        http = stat_name(manager.stat_prefix)
        self.listener = prefix
        self.worker = f"{prefix}worker_{worker_id}."
        self.http = f"{prefix}http.{http}."
        self.manager = f"http.{http}."

    def all(self) -> set[Group]:
        return {
            (self.listener, ListenerStats),
            (self.worker, WorkerListenerStats),
            (self.http, ListenerHttpStats),
            (self.manager, ConnectionManagerStats),
            (self.manager, RouterStats),
        }


class ShownStats:
    """See the module."""

    def __init__(self, writer: StatsWriter, worker_id: int) -> None:
        self._writer = writer
        self._worker_id = worker_id
        self._groups: set[Group] = set()
        self._codes: dict[str, CodeStats] = {}

    def commit(self, clusters: Clusters, listeners: Listeners) -> None:
        """This is served from now on."""
        groups, codes = self._of(clusters, listeners)
        self._drop(self._groups - groups, [old for prefix, old in self._codes.items() if prefix not in codes])
        self._groups, self._codes = groups, codes

    def take_back(self, clusters: Clusters, listeners: Listeners) -> None:
        """This was prepared and is not going to be served."""
        groups, codes = self._of(clusters, listeners)
        self._drop(groups - self._groups, [new for prefix, new in codes.items() if prefix not in self._codes])

    def _of(self, clusters: Clusters, listeners: Listeners) -> tuple[set[Group], dict[str, CodeStats]]:
        groups: set[Group] = set()
        codes: dict[str, CodeStats] = {}
        for cluster in clusters.values():
            prefix = f"cluster.{stat_name(cluster.settings.stat_name)}."
            groups.add((prefix, ClusterStats))
            codes[prefix] = cluster.codes
        for config, manager in listeners.values():
            groups |= ListenerGroups(config, manager, self._worker_id).all()
        return groups, codes

    def _drop(self, groups: Iterable[Group], codes: Iterable[CodeStats]) -> None:
        for group in groups:
            self._writer.drop(*group)
        for one in codes:
            one.drop()

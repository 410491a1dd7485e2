"""The cluster manager: this worker's clusters by name. Envoy's name: ``ThreadLocalClusterManager``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workerproxy.worker.upstream.cluster import Cluster


class ClusterManager:
    """Holds what the last committed configuration says; a stream keeps the cluster it began with."""

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}

    def replace(self, clusters: dict[str, Cluster]) -> None:
        """Take over a new set. A cluster object that is in both sets goes on undisturbed; others drain."""
        staying = set(map(id, clusters.values()))
        gone = [cluster for cluster in self.clusters.values() if id(cluster) not in staying]
        self.clusters = clusters
        for cluster in gone:
            cluster.drain()

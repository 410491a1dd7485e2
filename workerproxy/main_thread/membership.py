"""How many hosts each cluster has: counted once, here, and not by every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workerproxy.control.names import cluster_stat_prefix
from workerproxy.main_thread.stats import ClusterManagerStats, MembershipStats

if TYPE_CHECKING:
    from workerproxy.control.messages import Hosts
    from workerproxy.control.stats_segment import StatsWriter
    from workerproxy.main_thread.configuration import ConfigVersion

_STATIC: Final = 0  # Cluster.DiscoveryType
_LOGICAL_DNS: Final = 2
# core.v3.HealthStatus of an endpoint that is not used: UNHEALTHY, DRAINING, TIMEOUT.
_UNFIT: Final = frozenset({2, 3, 4})
_DEGRADED: Final = 5


class Membership:
    """``cluster.<name>.membership_*`` and ``cluster_manager.*``."""

    def __init__(self, stats: StatsWriter) -> None:
        self._stats = stats
        self._manager = stats.group("cluster_manager", ClusterManagerStats)
        self._members: dict[str, object] = {}

    def activate(self, new: ConfigVersion, old: ConfigVersion | None, resolved: dict[str, Hosts]) -> None:
        """A configuration became active; ``resolved`` has the addresses of DNS clusters."""
        before = {cluster.name: cluster for cluster in old.clusters} if old else {}
        after = {cluster.name: cluster for cluster in new.clusters}
        for name, cluster in after.items():
            self._manager.cluster_added += name not in before
            self._manager.cluster_modified += name in before and before[name] != cluster
            if cluster.type == _STATIC:
                self._count_static(cluster)
            else:
                self.count_resolved(cluster, resolved.get(name, []))
        for name in before.keys() - after.keys():
            self._manager.cluster_removed += 1
            self._members.pop(name, None)
            self._stats.drop(cluster_stat_prefix(before[name]), MembershipStats)
        self._manager.active_clusters = len(after)

    def count_resolved(self, cluster: Any, hosts: Hosts) -> None:
        """The addresses of a DNS cluster, or new ones."""
        statuses = _statuses(cluster)
        # A logical host is the same one wherever it moves.
        members = tuple(hosts) if cluster.type != _LOGICAL_DNS else tuple(one[1:] for one in hosts)
        self._count(self._group(cluster, members), [statuses[endpoint] for _, _, endpoint in hosts])

    def _count_static(self, cluster: Any) -> None:
        group = self._group(cluster, cluster.load_assignment.SerializeToString(deterministic=True))
        self._count(group, _statuses(cluster))

    def _count(self, group: MembershipStats, statuses: list[int]) -> None:
        group.membership_total = len(statuses)
        group.membership_degraded = statuses.count(_DEGRADED)
        group.membership_healthy = sum(status not in _UNFIT and status != _DEGRADED for status in statuses)

    def _group(self, cluster: Any, members: object) -> MembershipStats:
        group = self._stats.group(cluster_stat_prefix(cluster), MembershipStats)
        if self._members.get(cluster.name, ()) != members:
            self._members[cluster.name] = members
            group.membership_change += 1
        return group


def _statuses(cluster: Any) -> list[int]:
    """The configured ``health_status`` of every endpoint, over all localities."""
    return [one.health_status for locality in cluster.load_assignment.endpoints for one in locality.lb_endpoints]

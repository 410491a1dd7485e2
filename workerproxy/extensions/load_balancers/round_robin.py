"""Round robin: each host in turn, in proportion to its weight. Envoy: ``lb_policy: ROUND_ROBIN``, the default.

Every worker starts at a random place, so that N workers do not all begin with the first host. Unequal weights use an
earliest-deadline-first schedule, as Envoy does: a host of weight w is due again after 1/w.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from typing import Generic

from workerproxy.extensions.base import HostT, LoadBalancer

CONFIG_TYPE = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"
NAME = "envoy.load_balancing_policies.round_robin"
LB_POLICY = "ROUND_ROBIN"
READS: dict[str, frozenset[str]] = {CONFIG_TYPE: frozenset()}


class RoundRobin(Generic[HostT]):
    """For equal weights."""

    __slots__ = ("_hosts", "_next")

    def __init__(self, hosts: Sequence[HostT], start: int) -> None:
        self._hosts = list(hosts)
        self._next = start % len(self._hosts)

    def choose(self) -> HostT:
        index = self._next
        hosts = self._hosts
        host = hosts[index]
        index += 1
        self._next = index if index < len(hosts) else 0
        return host


class WeightedRoundRobin(Generic[HostT]):
    """For unequal weights: the host with the earliest deadline, then its deadline moves on by 1/weight."""

    __slots__ = ("_heap",)

    def __init__(self, hosts: Sequence[HostT], start: int) -> None:
        self._heap: list[tuple[float, int, HostT]] = [(1.0 / host.weight, n, host) for n, host in enumerate(hosts)]
        heapq.heapify(self._heap)
        for _ in range(start % sum(host.weight for host in hosts) if start else 0):
            self.choose()

    def choose(self) -> HostT:
        deadline, order, host = self._heap[0]
        heapq.heapreplace(self._heap, (deadline + 1.0 / host.weight, order, host))
        return host


def create(hosts: Sequence[HostT], start: int | None = None) -> LoadBalancer[HostT]:
    """``start``: how many choices to skip at the beginning; random when None."""
    if start is None:
        start = random.randrange(1024)
    if len({host.weight for host in hosts}) == 1:
        return RoundRobin(hosts, start)
    return WeightedRoundRobin(hosts, start)

"""Least request: of two hosts chosen at random, the one with fewer requests in flight. Envoy: ``LEAST_REQUEST``.

With unequal weights Envoy schedules by weight / (active + 1) instead; so does this, over all hosts. What is in flight
is counted per worker, as in Envoy it is per process: the choice is as good as this worker's own share of the load.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Generic

from workerproxy.extensions.base import HostT, LoadBalancer

CONFIG_TYPE = "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"
NAME = "envoy.load_balancing_policies.least_request"
LB_POLICY = "LEAST_REQUEST"
READS: dict[str, frozenset[str]] = {CONFIG_TYPE: frozenset()}


class LeastRequest(Generic[HostT]):
    """Power of two choices, for equal weights."""

    __slots__ = ("_hosts", "_rng")

    def __init__(self, hosts: Sequence[HostT], rng: random.Random) -> None:
        self._hosts = list(hosts)
        self._rng = rng

    def choose(self) -> HostT:
        hosts, chance = self._hosts, self._rng.random
        one = hosts[int(chance() * len(hosts))]
        other = hosts[int(chance() * len(hosts))]
        return other if other.rq_active < one.rq_active else one


class WeightedLeastRequest(Generic[HostT]):
    """In proportion to weight / (requests in flight + 1)."""

    __slots__ = ("_hosts", "_rng")

    def __init__(self, hosts: Sequence[HostT], rng: random.Random) -> None:
        self._hosts = list(hosts)
        self._rng = rng

    def choose(self) -> HostT:
        weights = [host.weight / (host.rq_active + 1) for host in self._hosts]
        return self._rng.choices(self._hosts, weights)[0]


def create(hosts: Sequence[HostT], rng: random.Random | None = None) -> LoadBalancer[HostT]:
    """``rng``: the source of chance; one seeded by the system when None."""
    rng = rng or random.Random()
    if len({host.weight for host in hosts}) == 1:
        return LeastRequest(hosts, rng)
    return WeightedLeastRequest(hosts, rng)

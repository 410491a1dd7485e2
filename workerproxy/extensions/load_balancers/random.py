"""Random: any host, in proportion to its weight. Envoy: ``lb_policy: RANDOM``.

Envoy's own random balancer does not look at weights; here they count, as they do for every other policy
(docs/parity.md). With equal weights the two are the same.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Generic

from workerproxy.extensions.base import HostT, LoadBalancer

CONFIG_TYPE = "envoy.extensions.load_balancing_policies.random.v3.Random"
NAME = "envoy.load_balancing_policies.random"
LB_POLICY = "RANDOM"
READS: dict[str, frozenset[str]] = {CONFIG_TYPE: frozenset()}


class RandomBalancer(Generic[HostT]):
    __slots__ = ("_cumulative", "_hosts", "_rng")

    def __init__(self, hosts: Sequence[HostT], rng: random.Random) -> None:
        self._hosts = list(hosts)
        self._rng = rng
        weights = [host.weight for host in hosts]
        self._cumulative = list(itertools.accumulate(weights)) if len(set(weights)) > 1 else None

    def choose(self) -> HostT:
        if self._cumulative is None:
            return self._hosts[int(self._rng.random() * len(self._hosts))]
        return self._rng.choices(self._hosts, cum_weights=self._cumulative)[0]


def create(hosts: Sequence[HostT], rng: random.Random | None = None) -> LoadBalancer[HostT]:
    """``rng``: the source of chance; one seeded by the system when None."""
    return RandomBalancer(hosts, rng or random.Random())

"""A host: one upstream address of a cluster, its health, its counters, its connection pool.

Envoy's name: ``Upstream::Host``. A host lives as long as its address stays in the cluster, over reloads and DNS
updates, so its pool and counters do too.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from workerproxy.worker.upstream.connection_pool import ConnectionPool

# The endpoint's configured HealthStatus (envoy.config.core.v3), as far as it matters to the balancer.
HEALTHY: Final = 0
DEGRADED: Final = 1
UNHEALTHY: Final = 2
HEALTH_FLAGS: Final = ("healthy", "/degraded_eds_health", "/failed_eds_health")


class Endpoint(NamedTuple):
    """What the configuration says of an endpoint of a DNS cluster (``endpoint.v3.LbEndpoint``) beside its addresses."""

    hostname: str  # the endpoint's, or the name that is resolved
    weight: int
    health: int
    logical: bool  # of a LOGICAL_DNS cluster: one host, whose address may change


class Host:
    """``address`` is what ``connect`` takes; ``text`` is how logs and admin print it.

    A ``logical`` host (LOGICAL_DNS) is known by its name alone: new connections go to its present address, those that
    are there stay.
    """

    __slots__ = (
        "address",
        "connect_fail",
        "cx_active",
        "cx_total",
        "family",
        "health",
        "hostname",
        "logical",
        "pool",
        "rq_active",
        "rq_error",
        "rq_success",
        "rq_timeout",
        "rq_total",
        "text",
        "weight",
    )

    pool: ConnectionPool

    def __init__(
        self,
        family: int,
        address: tuple[str, int] | str,
        text: str,
        hostname: str = "",
        weight: int = 1,
        health: int = HEALTHY,
    ) -> None:
        self.family = family
        self.address = address
        self.text = text
        self.hostname = hostname
        self.weight = weight
        self.health = health
        self.logical = False
        self.cx_total = 0
        self.cx_active = 0
        self.connect_fail = 0
        self.rq_total = 0
        self.rq_active = 0
        self.rq_success = 0
        self.rq_error = 0
        self.rq_timeout = 0

    def __repr__(self) -> str:
        load = f"weight={self.weight} cx={self.cx_active} rq={self.rq_active}"
        return f"<Host {self.text} {HEALTH_FLAGS[self.health]} {load}>"

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same host in another version of its cluster."""
        return ("" if self.logical else self.text, self.hostname)

    def become(self, other: Host) -> None:
        """Take over what may differ in a host of the same key. Pool and counters go on."""
        self.weight = other.weight
        self.health = other.health
        self.family = other.family
        self.address = other.address
        self.text = other.text


def ip_host(ip: str, port: int, hostname: str = "", weight: int = 1, health: int = HEALTHY) -> Host:
    """A host at an IP address; raises ValueError when ``ip`` is none."""
    if ":" in ip:
        socket.inet_pton(socket.AF_INET6, ip)
        return Host(socket.AF_INET6, (ip, port), f"[{ip}]:{port}", hostname, weight, health)
    socket.inet_pton(socket.AF_INET, ip)
    return Host(socket.AF_INET, (ip, port), f"{ip}:{port}", hostname, weight, health)


def pipe_host(path: str, hostname: str = "", weight: int = 1, health: int = HEALTHY) -> Host:
    """A host behind a Unix socket; a leading ``@`` means the abstract namespace."""
    address = "\0" + path[1:] if path.startswith("@") else path
    return Host(socket.AF_UNIX, address, path, hostname, weight, health)

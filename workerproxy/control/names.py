"""How listeners and clusters are called between the processes and in statistics."""

from __future__ import annotations

from typing import Any


def address_text(address: Any) -> str:
    """A ``core.v3.Address`` as Envoy prints it: ``1.2.3.4:80``, ``[::1]:80``, or a pipe's path."""
    if address.WhichOneof("address") == "pipe":
        return str(address.pipe.path)
    sock = address.socket_address
    return f"[{sock.address}]:{sock.port_value}" if ":" in sock.address else f"{sock.address}:{sock.port_value}"


def listener_name(listener: Any) -> str:
    """The name of a ``listener.v3.Listener``; one without a name is called by its address.

    (Envoy makes up a UUID, which nobody can refer to.)
    """
    return listener.name or address_text(listener.address)


def cluster_stat_prefix(cluster: Any) -> str:
    """Where a ``cluster.v3.Cluster`` has its statistics: ``cluster.<alt_stat_name or name>``."""
    return f"cluster.{cluster.alt_stat_name or cluster.name}"

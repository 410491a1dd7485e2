"""A whole data plane on the fake network, driven as the worker drives it: sockets, versions, clients.

Where ``proxy`` has one listener and one configuration, here they come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.json_format import ParseDict

from tests.unit.worker.fakes import FakeListeningSocket, Peer
from tests.unit.worker.proxy import GET, OK, ORIGIN, Surroundings, head_and_body, socket_address
from workerproxy.control import messages as m
from workerproxy.control.stats_segment import StatsReader, StatValues
from workerproxy.worker.context import Leftovers, WorkerOptions
from workerproxy.worker.data_plane import DataPlane

_HCM: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_LIMITS: Final = ("connections", "pending", "requests", "retries")
BALANCE_SLOT: Final = 1000  # of the first listener
TO_ORIGIN: Final = {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}


def listener(
    name: str, port: int = 80, routes: Sequence[dict[str, Any]] = (TO_ORIGIN,), **fields: Any
) -> dict[str, Any]:
    manager = {
        "@type": _HCM,
        "stat_prefix": "s",
        "route_config": {"virtual_hosts": [{"name": "vh", "domains": ["*"], "routes": list(routes)}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
        "stream_idle_timeout": "0s",
    }
    return {
        "name": name,
        "address": socket_address("10.0.0.1", port),
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
        **fields,
    }


def cluster(name: str = "origin", **fields: Any) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": socket_address(*ORIGIN)}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        **fields,
    }


class Plane(Surroundings):
    """A data plane on the fake network, and its listening sockets by bind and index."""

    def __init__(self, drain_time_s: int = 600, drain_strategy: str = "immediate") -> None:
        super().__init__()
        options = WorkerOptions(drain_time_s, cast(Any, drain_strategy), 10_000)
        self.plane = DataPlane(replace(self.context, options=options), self.dispatcher)
        self.sockets: dict[tuple[int, int], FakeListeningSocket] = {}
        self.version = 0

    def bind(self, bind: int, index: int = 0, port: int = 80) -> FakeListeningSocket:
        sock = self.sockets[bind, index] = FakeListeningSocket(self.network, local=("10.0.0.1", port))
        self.plane.add_socket(bind, index, cast(Any, sock))
        return sock

    def prepare(
        self,
        binds: dict[str, list[int]],
        *listeners: dict[str, Any],
        clusters: Sequence[dict[str, Any]] = (cluster(),),
        **more: Any,
    ) -> None:
        self.version += 1
        resources = {"listeners": list(listeners), "clusters": list(clusters)}
        names = [one["name"] for one in (cluster(), *clusters)]
        keys = [f"{name}/default/{limit}" for name in names for limit in _LIMITS]
        keys += ["/listener", *(f"{one['name']}/listener" for one in listeners)]
        slots = {key: number for number, key in enumerate(keys)}
        slots |= {f"{one['name']}/balance": BALANCE_SLOT + 256 * n for n, one in enumerate(listeners)}
        bootstrap = ParseDict({"static_resources": resources, **more}, Bootstrap())
        self.plane.prepare(m.Prepare(self.version, b"", {}, slots, binds), bootstrap)

    def commit(self, binds: dict[str, list[int]], *listeners: dict[str, Any], **more: Any) -> Leftovers:
        self.prepare(binds, *listeners, **more)
        return self.plane.commit(self.version)

    def client(self, bind: int = 1, index: int = 0) -> Peer:
        peer = self.sockets[bind, index].arrive()
        self.loop.run()
        return peer

    def exchange(self, client: Peer) -> dict[bytes, bytes]:
        """The fields of the response."""
        before = {peer: len(peer.received) for peer in self.network.origins()}
        client.send(GET)
        (origin,) = [peer for peer in self.network.origins() if len(peer.received) > before.get(peer, 0)]
        origin.send(OK)
        return head_and_body(client.take())[1]

    def shown(self) -> StatValues:
        self.context.stats.flush()
        values = StatValues()
        StatsReader(self.context.stats._buffer).read_into(values)
        return values

"""A whole data plane on the fake network: everything of the worker is real but the kernel.

Configured as the proxy itself is, by Envoy's messages, written as dictionaries. A test reads as a play: what the client
sends, what the origin receives, what comes back::

    proxy = Proxy(hcm={"request_timeout": "5s"})
    client = proxy.client()
    client.send(b"GET /a HTTP/1.1\\r\\nhost: h\\r\\n\\r\\n")
    origin = proxy.origin()
    assert origin.take().startswith(b"GET /a HTTP/1.1\\r\\n")
    origin.send(OK)
    assert client.take().endswith(b"ok")
"""

from __future__ import annotations

import dataclasses
import logging
import mmap
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterConfig
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerConfig
from google.protobuf.json_format import ParseDict

from tests.unit.worker.fakes import FakeLoop, FakeSocket, Network, Peer
from workerproxy.control.board import LimitsBoard, board_bytes
from workerproxy.control.stats_segment import StatsWriter
from workerproxy.extensions.base import StreamFilter
from workerproxy.extensions.registry import Registry
from workerproxy.http.stream_info import StreamInfo
from workerproxy.worker.access_logs import AccessLogs
from workerproxy.worker.context import WorkerContext, WorkerOptions
from workerproxy.worker.http.connection_manager import ConnectionManager
from workerproxy.worker.http.date import DateProvider
from workerproxy.worker.http.drain import DrainState
from workerproxy.worker.http.listener import HttpListener
from workerproxy.worker.http.listener_builder import ListenerBuilder
from workerproxy.worker.http.request_id import RequestIds
from workerproxy.worker.http.settings import ConnectionManagerConfig
from workerproxy.worker.http.stats import ListenerHttpStats, ListenerStats, WorkerListenerStats
from workerproxy.worker.network.dispatcher import Dispatcher
from workerproxy.worker.network.splice import PipePool
from workerproxy.worker.upstream.cluster import Cluster
from workerproxy.worker.upstream.cluster_builder import ClusterBuilder, hosts_of
from workerproxy.worker.upstream.cluster_manager import ClusterManager

ORIGIN: Final = ("192.0.2.1", 8080)
GET: Final = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_HCM: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_LIMITS: Final = ("connections", "pending", "requests", "retries")
TO_ORIGIN: Final = [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}]


class LogKeeper:
    """An access logger that keeps what it is given."""

    def __init__(self) -> None:
        self.infos: list[StreamInfo] = []

    def log(self, info: StreamInfo) -> None:
        self.infos.append(info)


class Surroundings:
    """What a worker is born with, and one cluster named ``origin``."""

    def __init__(self, cluster: dict[str, Any] | None = None, hosts: Sequence[tuple[str, int]] = (ORIGIN,)) -> None:
        self.loop = FakeLoop()
        self.network = Network(self.loop)
        self.dispatcher = Dispatcher(cast(Any, self.loop), self.loop.time, self.network.new_socket)
        self.board_memory = mmap.mmap(-1, board_bytes(2))
        self.context = WorkerContext(
            worker_id=0,
            concurrency=1,
            loop=cast(Any, self.loop),
            options=WorkerOptions(600, "gradual", 10_000),
            stats=StatsWriter(mmap.mmap(-1, 1 << 20)),
            board=LimitsBoard(self.board_memory, 0, 1),
            board_fd=-1,
            log=logging.getLogger("workerproxy.test"),
        )
        self.cluster = self.make_cluster(cluster or {}, hosts)

    def make_cluster(self, fields: dict[str, Any], hosts: Sequence[tuple[str, int]]) -> Cluster:
        endpoints = [{"endpoint": {"address": socket_address(*address)}} for address in hosts]
        config = {
            "name": "origin",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": endpoints}]},
            **fields,
        }
        message = ParseDict(config, ClusterConfig())
        slots = {f"origin/default/{kind}": number for number, kind in enumerate(_LIMITS)}
        cluster = ClusterBuilder(self.context, self.dispatcher, Registry()).build(message, slots, None)
        cluster.set_hosts(hosts_of(message, None))
        return cluster

    def upstream_left(self) -> dict[str, int]:
        """Gauges and limits of the cluster that are not 0."""
        stats, breakers, hosts = self.cluster.stats, self.cluster.breakers, self.cluster.hosts
        left = {
            "upstream_cx_active": stats.upstream_cx_active,
            "upstream_rq_active": stats.upstream_rq_active,
            "upstream_rq_pending_active": stats.upstream_rq_pending_active,
            "limit connections": breakers.connections.value,
            "limit pending": breakers.pending.value,
            "limit requests": breakers.requests.value,
            "limit retries": breakers.retries.value,
            "upstream sockets": self.network.open_upstream(),
            "host cx_active": sum(host.cx_active for host in hosts),
            "host rq_active": sum(host.rq_active for host in hosts),
        }
        return {name: value for name, value in left.items() if value}

    def events_left(self) -> dict[str, int]:
        """Events and timeouts that are still registered."""
        left = {
            "readers": len(self.loop.readers),
            "writers": len(self.loop.writers),
            "timeouts": sum(map(len, self.dispatcher._queues.values())),
        }
        return {name: value for name, value in left.items() if value}


class Proxy(Surroundings):
    """See the module. ``filters`` are filter classes (or factories), put before the router."""

    def __init__(
        self,
        *,
        filters: Sequence[Callable[[], StreamFilter]] = (),
        routes: list[dict[str, Any]] | None = None,
        hcm: dict[str, Any] | None = None,
        listener: dict[str, Any] | None = None,
        cluster: dict[str, Any] | None = None,
        router: dict[str, Any] | None = None,
        hosts: Sequence[tuple[str, int]] = (ORIGIN,),
        splice: bool = False,
    ) -> None:
        super().__init__(cluster, hosts)
        self.log = LogKeeper()
        self.clusters = ClusterManager()
        self.clusters.replace({"origin": self.cluster})
        self._builder = ListenerBuilder(
            self.context,
            self.dispatcher,
            Registry(),
            self.clusters,
            cast(DateProvider, FixedDate()),
            RequestIds(),
            AccessLogs(self.context),
        )
        self._changes: dict[str, Any] = {"access_logs": (self.log,), "splice": splice}
        if filters:
            self._changes["filters"] = tuple(filters)
        self.config = self.make_config(hcm or {}, routes or TO_ORIGIN, listener or {}, router or {})
        self.stats = self.config.stats
        self.router_stats = self.config.router.stats
        self.listener = HttpListener(
            "l",
            self.dispatcher,
            PipePool(),
            self.config,
            ListenerStats(),
            WorkerListenerStats(),
            ListenerHttpStats(),
            "10.0.0.1",
        )
        self.drain = self.listener.drain = DrainState(self.loop.time, lambda: 0.5)

    def make_config(
        self,
        hcm: dict[str, Any],
        routes: list[dict[str, Any]] = TO_ORIGIN,
        listener: dict[str, Any] | None = None,
        router: dict[str, Any] | None = None,
    ) -> ConnectionManagerConfig:
        manager = {
            "@type": _HCM,
            "stat_prefix": "s",
            "route_config": {"virtual_hosts": [{"name": "vh", "domains": ["*"], "routes": routes}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER, **(router or {})}}],
            **hcm,
        }
        config = {
            "name": "l",
            "address": socket_address("10.0.0.1", 80),
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
            **(listener or {}),
        }
        built = self._builder.build(ParseDict(config, ListenerConfig()), 80, Node(id="node", cluster="service"))
        return dataclasses.replace(built, **self._changes)

    # the actors

    def client(self, address: Any = ("192.0.2.7", 5000), window: int | None = None) -> Peer:
        """A client that has just connected."""
        sock = FakeSocket(self.network)
        sock.peer.window = window
        self.accept(sock, address)
        return sock.peer

    def accept(self, sock: Any, address: Any = ("192.0.2.7", 5000)) -> None:
        self.listener._new_connection(sock, address, "10.0.0.1:80")

    def origin(self, number: int = -1) -> Peer:
        """The origin's end of an upstream connection, by default of the one made last."""
        self.loop.run()
        return self.network.upstream[number].peer

    @property
    def manager(self) -> ConnectionManager:
        """Of the only client."""
        (manager,) = self.listener.connections
        return manager

    def exchange(self, client: Peer, request: bytes = GET, response: bytes = OK) -> bytes:
        """One request answered by the origin; gives what the client got."""
        client.send(request)
        self.origin().take()
        self.origin().send(response)
        return client.take()

    def assert_nothing_left(self) -> None:
        """Every gauge and limit is 0, no event is registered, no timeout is set."""
        left = {
            "downstream_cx_active": self.stats.downstream_cx_active,
            "downstream_rq_active": self.stats.downstream_rq_active,
            "connections": len(self.listener.connections),
            **self.upstream_left(),
            **self.events_left(),
        }
        assert {name: value for name, value in left.items() if value} == {}


class FixedDate:
    """In place of the date provider, whose timer never ends."""

    value = b"Thu, 01 Jan 1970 00:00:00 GMT"


def socket_address(ip: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": ip, "port_value": port}}


def head_and_body(data: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """First line, fields by lower-case name (repeated ones joined with a bar) and the rest."""
    head, end, body = data.partition(b"\r\n\r\n")
    assert end, f"no complete head in {data!r}"
    first, *lines = head.split(b"\r\n")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        name = name.lower()
        fields[name] = fields[name] + b"|" + value if name in fields else value
    return first, fields, body

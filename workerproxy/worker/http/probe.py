"""The probe: a listener without address, whose one route answers 200 to everything.

The main process gives it one end of a socketpair and asks a new worker something before it relies on it. A request goes
the way of all requests, through connection manager, codec, route table and router, but for an origin; it appears in no
statistics and in no access log, and is counted among no connections.
"""

from __future__ import annotations

import dataclasses
import mmap
from typing import TYPE_CHECKING, Final

from envoy.config.core.v3.base_pb2 import Node
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from workerproxy.control.stats_segment import StatsWriter
from workerproxy.worker.http.listener import HttpListener
from workerproxy.worker.http.listener_builder import ListenerBuilder
from workerproxy.worker.http.stats import ListenerHttpStats, ListenerStats, WorkerListenerStats
from workerproxy.worker.upstream.cluster_manager import ClusterManager

if TYPE_CHECKING:
    from workerproxy.extensions.registry import Registry
    from workerproxy.worker.access_logs import AccessLogs
    from workerproxy.worker.context import WorkerContext
    from workerproxy.worker.http.date import DateProvider
    from workerproxy.worker.http.request_id import RequestIds
    from workerproxy.worker.network.dispatcher import Dispatcher
    from workerproxy.worker.network.splice import PipePool

BODY: Final = "ok\n"
_STATS_BYTES: Final = 1 << 18


def probe_listener(
    context: WorkerContext,
    dispatcher: Dispatcher,
    pipes: PipePool,
    registry: Registry,
    date: DateProvider,
    request_ids: RequestIds,
    access_logs: AccessLogs,
) -> HttpListener:
    """Build it; ``HttpListener.serve`` then takes connections."""
    apart = dataclasses.replace(context, stats=StatsWriter(mmap.mmap(-1, _STATS_BYTES)))  # nobody reads these
    builder = ListenerBuilder(apart, dispatcher, registry, ClusterManager(), date, request_ids, access_logs)
    return HttpListener(
        "probe",
        dispatcher,
        pipes,
        builder.build(_configuration(), 0, Node()),
        ListenerStats(),
        WorkerListenerStats(),
        ListenerHttpStats(),
        "127.0.0.1",
    )


def _configuration() -> Listener:
    manager = HttpConnectionManager(stat_prefix="probe")
    virtual_host = manager.route_config.virtual_hosts.add(name="probe", domains=["*"])
    route = virtual_host.routes.add()
    route.match.prefix = "/"
    route.direct_response.status = 200
    route.direct_response.body.inline_string = BODY
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(Router())
    listener = Listener(name="probe")
    listener.filter_chains.add().filters.add(name="hcm").typed_config.Pack(manager)
    return listener

"""``/config_dump``: ``envoy.admin.v3.ConfigDump`` of the active configuration, and of the one that was refused last.

A refused configuration stands in ``dynamic_…`` nowhere, since nothing here is dynamic: it is an entry of its own,
``workerproxy.RefusedConfigDump``, with the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import re2

from workerproxy.control.names import listener_name
from workerproxy.main_thread.admin.json_text import proto_json
from workerproxy.main_thread.admin.page import Page, Param, Request, Response, json_response
from workerproxy.main_thread.version import PROGRAM

if TYPE_CHECKING:
    from workerproxy.main_thread.configuration import ConfigVersion
    from workerproxy.main_thread.server import Server

_TYPE: Final = "type.googleapis.com/envoy.admin.v3"
_HCM: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"

# ?resource= -> (dump it belongs to, what one element is called)
_RESOURCES: Final = {
    "static_clusters": ("ClustersConfigDump", "StaticCluster", "cluster"),
    "static_listeners": ("ListenersConfigDump", "StaticListener", "listener"),
    "static_route_configs": ("RoutesConfigDump", "StaticRouteConfig", "route_config"),
}


async def _answer(server: Server, request: Request) -> Response:
    active = server.configuration.active
    if active is None:
        return json_response({"configs": []})
    pattern = request.query.get("name_regex", "")
    try:
        test = re2.compile(pattern).fullmatch if pattern else None
    except re2.error:
        return Response("Error while parsing name_regex from /config_dump?name_regex=" + pattern, 400)
    dumps = _dumps(active, test)
    resource = request.query.get("resource")
    if "mask" in request.query:
        return Response("mask is not supported; use resource and name_regex\n", 400)
    if resource is not None:
        if resource not in _RESOURCES:
            return Response(f"{resource} not found in config dump", 404)
        kind, element, _ = _RESOURCES[resource]
        rows = next(dump[resource] for dump in dumps if dump["@type"] == f"{_TYPE}.{kind}")
        return json_response({"configs": [{"@type": f"{_TYPE}.{kind}.{element}", **row} for row in rows]})
    if server.configuration.last_refused is not None and not pattern:
        refused = server.configuration.last_refused
        dumps.append(
            {"@type": "workerproxy.RefusedConfigDump", "last_update_attempt": _time(refused.at), "details": refused.why}
        )
    return json_response({"configs": dumps})


def _dumps(active: ConfigVersion, test: Any) -> list[dict[str, Any]]:
    when = _time(active.loaded_at)

    def rows(kind: str, type_name: str, messages: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
        return [
            {kind: {"@type": f"type.googleapis.com/{type_name}", **proto_json(message)}, "last_updated": when}
            for name, message in messages
            if test is None or test(name)
        ]

    version = str(active.version)
    clusters = rows("cluster", "envoy.config.cluster.v3.Cluster", ((one.name, one) for one in active.clusters))
    listeners = rows(
        "listener", "envoy.config.listener.v3.Listener", ((listener_name(one), one) for one in active.listeners)
    )
    routes = rows(
        "route_config",
        "envoy.config.route.v3.RouteConfiguration",
        ((route.name, route) for one in active.listeners for route in _route_configs(one)),
    )
    bootstrap = proto_json(active.bootstrap)
    bootstrap.setdefault("node", {}).setdefault("user_agent_name", PROGRAM)
    first = {"@type": f"{_TYPE}.BootstrapConfigDump", "bootstrap": bootstrap, "last_updated": when}
    return [
        *([first] if test is None else []),
        {"@type": f"{_TYPE}.ClustersConfigDump", "version_info": version, "static_clusters": clusters},
        {"@type": f"{_TYPE}.ListenersConfigDump", "version_info": version, "static_listeners": listeners},
        {"@type": f"{_TYPE}.RoutesConfigDump", "static_route_configs": routes},
    ]


def _route_configs(listener: Any) -> Iterator[Any]:
    """The route tables inside a listener's connection managers."""
    chains = [*listener.filter_chains]
    if listener.HasField("default_filter_chain"):
        chains.append(listener.default_filter_chain)
    for chain in chains:
        for one in chain.filters:
            if one.typed_config.type_url.rpartition("/")[2] == _HCM:
                manager = _hcm_class()()
                one.typed_config.Unpack(manager)
                if manager.HasField("route_config"):
                    yield manager.route_config


def _hcm_class() -> Any:
    from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

    return http_connection_manager_pb2.HttpConnectionManager


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


PAGE: Final = Page(
    "/config_dump",
    "dump current configs",
    _answer,
    params=(
        Param("resource", "The resource to dump", tuple(_RESOURCES)),
        Param("name_regex", "Dump only the configurations whose names match the regular expression"),
    ),
)

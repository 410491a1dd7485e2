"""``/clusters``: every cluster's limits and hosts, with the hosts' counters summed up over the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import re2

from workerproxy.control import messages as m
from workerproxy.main_thread.admin.page import Page, Param, Request, Response, json_response
from workerproxy.main_thread.admin.pages.listeners import json_address

if TYPE_CHECKING:
    from workerproxy.main_thread.server import Server

REPORT_TIMEOUT_S: Final = 0.5  # a stuck worker's hosts are left out then
_PRIORITIES: Final = ("default", "high")
_LIMITS: Final = {"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 3}
_COUNTS: Final = (
    "cx_active",
    "cx_connect_fail",
    "cx_total",
    "rq_active",
    "rq_error",
    "rq_pending_active",
    "rq_success",
    "rq_timeout",
    "rq_total",
)
_GAUGES: Final = ("cx_active", "rq_active", "rq_pending_active")
_HEALTH: Final = {"healthy": "HEALTHY", "/degraded_eds_health": "DEGRADED", "/failed_eds_health": "UNHEALTHY"}

Host = dict[str, Any]


async def _answer(server: Server, request: Request) -> Response:
    active = server.configuration.active
    pattern = request.query.get("filter", "")
    try:
        test = re2.compile(pattern).search if pattern else None
    except re2.error:
        return Response(f"Invalid re2 regex: {pattern}\n", 400)
    clusters = [one for one in (active.clusters if active else ()) if test is None or test(one.name)]
    hosts = await _hosts(server)
    if request.query.get("format") == "json":
        return json_response({"cluster_statuses": [_status(one, hosts.get(one.name, [])) for one in clusters]})
    return Response("".join(line for one in clusters for line in _lines(one, hosts.get(one.name, []))))


async def _hosts(server: Server) -> dict[str, list[Host]]:
    """What the workers report, added up: cluster -> hosts in the order of the first worker that knows them."""
    answers = await server.supervisor.ask_each(server.supervisor.useful(), m.ReportClusters(), REPORT_TIMEOUT_S)
    found: dict[str, dict[tuple[str, str], Host]] = {}
    for answer in answers.values():
        if isinstance(answer, m.ClusterReport):
            for cluster in answer.clusters:
                known = found.setdefault(cluster["name"], {})
                for host in cluster["hosts"]:
                    _add(known, host)
    return {name: list(known.values()) for name, known in found.items()}


def _add(known: dict[tuple[str, str], Host], host: Host) -> None:
    first = known.setdefault((host["address"], host["hostname"]), {**host, **dict.fromkeys(_COUNTS, 0)})
    for name in _COUNTS:
        first[name] += host.get(name, 0)


def _lines(cluster: Any, hosts: list[Host]) -> list[str]:
    name = cluster.name
    lines = [f"{name}::observability_name::{cluster.alt_stat_name or name}"]
    for priority in _PRIORITIES:
        lines += [f"{name}::{priority}_priority::{key}::{value}" for key, value in _limits(cluster, priority).items()]
    lines.append(f"{name}::added_via_api::false")
    for host in hosts:
        start = f"{name}::{host['address']}"
        lines += [f"{start}::{key}::{host[key]}" for key in _COUNTS]
        lines += [
            f"{start}::hostname::{host['hostname']}",
            f"{start}::health_flags::{host['health_flags']}",
            f"{start}::weight::{host['weight']}",
            f"{start}::region::",
            f"{start}::zone::",
            f"{start}::sub_zone::",
            f"{start}::canary::false",
            f"{start}::priority::0",
            f"{start}::success_rate::-1",
            f"{start}::local_origin_success_rate::-1",
        ]
    return [f"{line}\n" for line in lines]


def _limits(cluster: Any, priority: str) -> dict[str, int]:
    """The circuit breakers of a priority; the first threshold given for it counts."""
    number = _PRIORITIES.index(priority)
    given = next((one for one in cluster.circuit_breakers.thresholds if one.priority == number), None)
    return {
        name: getattr(given, name).value if given is not None and given.HasField(name) else default
        for name, default in _LIMITS.items()
    }


def _status(cluster: Any, hosts: list[Host]) -> dict[str, Any]:
    thresholds = [_limits(cluster, "default"), {"priority": "HIGH", **_limits(cluster, "high")}]
    return {
        "name": cluster.name,
        "host_statuses": [_host_status(host) for host in hosts],
        "circuit_breakers": {"thresholds": thresholds},
        "observability_name": cluster.alt_stat_name or cluster.name,
    }


def _host_status(host: Host) -> dict[str, Any]:
    counters = [_stat(host, name) for name in _COUNTS if name not in _GAUGES]
    gauges = [{"type": "GAUGE", **_stat(host, name)} for name in _GAUGES]
    status = {
        "address": json_address(host["address"]),
        "stats": [*counters, *gauges],
        "health_status": {"eds_health_status": _HEALTH.get(host["health_flags"], "UNHEALTHY")},
        "weight": host["weight"],
        "locality": {},
    }
    if host["hostname"]:
        status["hostname"] = host["hostname"]
    return status


def _stat(host: Host, name: str) -> dict[str, Any]:
    """Envoy leaves a value of 0 out, and writes 64-bit numbers as text."""
    return {"name": name, "value": str(host[name])} if host[name] else {"name": name}


PAGE: Final = Page(
    "/clusters",
    "upstream cluster status",
    _answer,
    params=(
        Param("filter", "Regular expression (Google re2) for filtering clusters by name"),
        Param("format", "File format to use", ("text", "json")),
    ),
)

"""Requests and route tables for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.json_format import ParseDict

from workerproxy.http.headers import RequestHeaders
from workerproxy.http.stream_info import StreamInfo
from workerproxy.worker.router.route import Route
from workerproxy.worker.router.route_table import RouteTable, RouteTableSettings


def request(target: str = "/", host: str = "h", headers: Iterable[tuple[str, str]] = ()) -> RequestHeaders:
    made = RequestHeaders()
    made.method, made.path, made.authority, made.scheme = b"GET", target.encode(), host.encode(), b"http"
    made[b"x-forwarded-proto"] = b"http"
    for name, value in headers:
        if name == ":method":
            made.method = value.encode()
        elif name == "x-forwarded-proto":
            made[b"x-forwarded-proto"] = value.encode()
        else:
            made.add(name.encode(), value.encode("latin-1"))
    return made


def info_of(headers: RequestHeaders) -> StreamInfo:
    info = StreamInfo()
    info.request_headers = headers
    return info


def table(routes: list[dict[str, Any]], settings: RouteTableSettings | None = None, **fields: Any) -> RouteTable:
    """A table of one virtual host for all domains."""
    return table_of([{"name": "vh", "domains": ["*"], "routes": routes}], settings, **fields)


def table_of(
    virtual_hosts: list[dict[str, Any]], settings: RouteTableSettings | None = None, **fields: Any
) -> RouteTable:
    config = ParseDict({"name": "rc", "virtual_hosts": virtual_hosts, **fields}, RouteConfiguration())
    return RouteTable(config, settings)


def find(made: RouteTable, headers: RequestHeaders) -> Route | None:
    return made.route(headers, info_of(headers))


def found(made: RouteTable, headers: RequestHeaders) -> Route:
    route = find(made, headers)
    assert route is not None
    return route

"""A proxy, its origins and its access log for the data plane's tests: configured by a few fields, asked in one line.

A *lane* is an origin behind a path prefix and a cluster of its own, so that tests that share one proxy share no pool,
no statistic and no script: each test takes a lane nobody has used.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psutil

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.ports import free_port
from tests.support.processes import NotReadyError, http_get, wait_until
from tests.support.workerproxy import start_workerproxy

Json = dict[str, Any]

PATIENCE_S: Final = 10.0  # for events that come at once on an idle machine
_TYPES: Final = "type.googleapis.com/envoy.extensions."
_LOGGED: Final = {
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
}


def tcp(port: int, address: str = "127.0.0.1") -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def pipe(path: Path) -> Json:
    return {"pipe": {"path": str(path)}}


def endpoint(address: Json, weight: int = 0) -> Json:
    return {"endpoint": {"address": address}} | ({"load_balancing_weight": weight} if weight else {})


def cluster(name: str, endpoints: Sequence[Json], **fields: Any) -> Json:
    """A cluster; ``fields`` are further fields of ``cluster.v3.Cluster``."""
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": list(endpoints)}]}
    return {"name": name, "connect_timeout": "5s", "load_assignment": assignment} | fields


def upstream_options(**common: Any) -> Json:
    """The cluster field that holds ``common_http_protocol_options`` of the upstream side."""
    return {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPES + "upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": common,
                "explicit_http_config": {"http_protocol_options": {}},
            }
        }
    }


def route(prefix: str, to: str, **action: Any) -> Json:
    return {"match": {"prefix": prefix}, "route": {"cluster": to, **action}}


@dataclass
class Listener:
    """``manager``: fields of the HttpConnectionManager; ``options``: of the listener. Without address: a free port."""

    manager: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    address: Json | None = None


@dataclass
class Plan:
    """What to configure. ``lane``: fields of each lane's cluster; ``lane_route``: of its route action."""

    listeners: Mapping[str, Listener] = field(default_factory=lambda: {"main": Listener()})
    lanes: int = 0
    lane: Json = field(default_factory=dict)
    lane_route: Json = field(default_factory=dict)
    clusters: Sequence[Json] = ()
    routes: Sequence[Json] = ()
    workers: int = 1


class Lane(NamedTuple):
    """``path`` begins and ends with a slash; whatever follows it in a request goes to ``origin``."""

    name: str
    path: str
    origin: Origin

    def stat(self, name: str) -> str:
        """The full name of a statistic of the lane's cluster."""
        return f"cluster.{self.name}.{name}"

    def get(self, rest: str = "", headers: str = "") -> bytes:
        """A GET request for the lane."""
        return f"GET {self.path}{rest} HTTP/1.1\r\nhost: test\r\n{headers}\r\n".encode()

    def post(self, length: int, rest: str = "") -> bytes:
        """The head of a POST request for the lane with ``length`` bytes to follow."""
        return f"POST {self.path}{rest} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n".encode()


class Stage:
    """The running proxy. Used as a context manager; leaving it stops proxy and origins."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self._directory = directory
        self._origins = contextlib.ExitStack()
        self._free_lanes = [self._lane(number) for number in range(plan.lanes)]
        self.admin = free_port()
        self.ports = {name: free_port() for name in plan.listeners}
        path = directory / "proxy.yaml"
        path.write_text(json.dumps(self._bootstrap(plan)))
        try:
            self.process = start_workerproxy(path, self.admin, workers=plan.workers)
        except BaseException:
            self._origins.close()
            raise

    # what there is

    @property
    def port(self) -> int:
        return self.ports["main"]

    def lane(self) -> Lane:
        """One that no test has used."""
        return self._free_lanes.pop()

    def client(self, listener: str = "main", timeout_s: float = PATIENCE_S, receive_buffer: int = 0) -> RawClient:
        return RawClient(self.ports[listener], timeout_s, receive_buffer)

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return [child for child in psutil.Process(self.process.pid).children() if child.status() != "zombie"]

    def worker(self) -> psutil.Process:
        """The only one."""
        (found,) = self.workers()
        return found

    # questions

    def exchange(self, request: bytes, listener: str = "main") -> bytes:
        """What a request on a connection of its own is answered with; the whole response must come."""
        with self.client(listener) as client:
            assert client.send(request)
            assert client.read_response(head=request.startswith(b"HEAD ")), client.received
            return client.received

    def stats(self, names: str = "") -> dict[str, int]:
        """Counters and gauges whose name matches the regular expression."""
        status, text = http_get(self.admin, f"/stats?filter={names}", timeout_s=PATIENCE_S)
        assert status == 200, (status, text)
        pairs = (line.rsplit(": ", 1) for line in text.splitlines() if line and line[-1].isdigit())
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def wait_stats(self, expected: Mapping[str, int]) -> None:
        """Return when the statistics have these values; fails with what they are."""
        found: dict[str, int] = {}

        def agree() -> bool:
            values = self.stats()
            found.update({name: values.get(name, 0) for name in expected})
            return found == expected

        with contextlib.suppress(NotReadyError):
            wait_until(agree, PATIENCE_S / 2)
        assert found == expected

    def log(self, path: str, listener: str = "main") -> Json:
        """The access log entry of the request for ``path``, which must be the only one."""
        found: list[Json] = []

        def logged() -> bool:
            found[:] = [entry for entry in self.log_entries(listener) if entry["path"] == path]
            return bool(found)

        wait_until(logged, PATIENCE_S, f"the log entry of {path}")
        assert len(found) == 1, found
        return found[0]

    def log_entries(self, listener: str = "main") -> list[Json]:
        """All entries written so far."""
        log = self._directory / f"{listener}.log"
        data = log.read_bytes() if log.exists() else b""
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]

    # configuration

    def _lane(self, number: int) -> Lane:
        return Lane(f"lane{number}", f"/lane{number}/", self._origins.enter_context(Origin()))

    def _bootstrap(self, plan: Plan) -> Json:
        lanes = self._free_lanes
        routes = [*plan.routes, *(route(lane.path, lane.name, **plan.lane_route) for lane in lanes)]
        clusters = [cluster(lane.name, [endpoint(tcp(lane.origin.port))], **plan.lane) for lane in lanes]
        listeners = [self._listener(name, wanted, routes) for name, wanted in plan.listeners.items()]
        return {
            "admin": {"address": tcp(self.admin)},
            "static_resources": {"listeners": listeners, "clusters": [*plan.clusters, *clusters]},
        }

    def _listener(self, name: str, wanted: Listener, routes: list[Json]) -> Json:
        log = {
            "@type": _TYPES + "access_loggers.file.v3.FileAccessLog",
            "path": str(self._directory / f"{name}.log"),
            "log_format": {"json_format": _LOGGED},
        }
        direct = {"match": {"path": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}}
        manager = {
            "@type": _TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "access_log": [{"name": "file", "typed_config": log}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [direct, *routes]}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": _TYPES + "filters.http.router.v3.Router"}}],
            **wanted.manager,
        }
        return {
            "name": name,
            "address": wanted.address or tcp(self.ports[name]),
            "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
            **wanted.options,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        output = self.process.output()
        self.process.stop()
        self._origins.close()
        if error is None:
            assert "Traceback" not in output, output  # a fault that cost "only" a connection is a fault


def wait_quiet(measure: Any, quiet_s: float = 0.3, timeout_s: float = PATIENCE_S) -> Any:
    """The value of ``measure()`` once it has not changed for ``quiet_s`` seconds; fails when it never stands still."""
    deadline = time.monotonic() + timeout_s
    value, since = measure(), time.monotonic()
    while time.monotonic() - since < quiet_s:
        assert time.monotonic() < deadline, f"it still moves: {value}"
        time.sleep(0.01)
        now = measure()
        if now != value:
            value, since = now, time.monotonic()
    return value

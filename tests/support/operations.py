"""What an operator does to a running proxy, one function each: kill, reload, scale, roll, upgrade, stop.

``RunningProxy`` is a workerproxy in front of a demo origin of its own; what its configuration says is a ``Site``, plain
data that a test changes and has reloaded. Every operation returns when the proxy says it is done.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psutil

from tests.support.ports import free_port, free_ports
from tests.support.processes import NotReadyError, Process, http_get, wait_until
from tests.support.workerproxy import ROOT

Json = dict[str, Any]

ORIGINS: Final = 3  # ports of the demo origin
ADMIN_TIMEOUT_S: Final = 60.0
READY_TIMEOUT_S: Final = 30.0  # a worker needs a second of CPU to start; the machine may be busy
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters."
_ACCEPTED: Final = frozenset({"01", "04", "05", "08"})  # /proc/net/tcp: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT
_LISTENING: Final = "0A"


@dataclass(frozen=True, slots=True)
class Site:
    """What the configuration says. ``version`` is what ``/marker`` answers."""

    admin: int
    listeners: dict[str, int]  # name -> port; "main" among them
    origins: tuple[int, ...]  # ports of cluster ``origin``, to which everything else goes
    version: int = 1
    manager: Json = field(default_factory=dict)  # fields of the connection manager
    router: Json = field(default_factory=dict)  # of the router filter
    routes: Sequence[Json] = ()  # before the others
    clusters: Sequence[Json] = ()
    cluster: Json = field(default_factory=dict)  # fields of cluster ``origin``

    def bootstrap(self) -> Json:
        listeners = [self._listener(name, port) for name, port in self.listeners.items()]
        clusters = [cluster("origin", self.origins, **self.cluster), *self.clusters]
        return {
            "admin": {"address": _address(self.admin)},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        }

    def _listener(self, name: str, port: int) -> Json:
        routes = [
            direct_route("/marker", f"version {self.version}"),
            *self.routes,
            {"match": {"prefix": "/"}, "route": {"cluster": "origin"}},
        ]
        router = {"@type": f"{_TYPES}http.router.v3.Router"}
        manager = {
            "@type": f"{_TYPES}network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [{"name": "router", "typed_config": router | self.router}],
        }
        filters = [{"name": "manager", "typed_config": manager | self.manager}]
        return {"name": name, "address": _address(port), "filter_chains": [{"filters": filters}]}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, ports: Sequence[int], **fields: Any) -> Json:
    """A cluster of endpoints on 127.0.0.1."""
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}} for port in ports]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}} | fields


def direct_route(path: str, body: str) -> Json:
    return {"match": {"path": path}, "direct_response": {"status": 200, "body": {"inline_string": body}}}


class Killed(NamedTuple):
    """A worker that was killed: the client ports of the connections it had accepted."""

    pid: int
    client_ports: frozenset[int]


class RunningProxy:
    """Used as a context manager; leaving it ends everything, also what an upgrade has put in the program's place."""

    def __init__(
        self, directory: Path, *arguments: str, workers: int = 2, module: str = "", listeners: Sequence[str] = ("main",)
    ) -> None:
        """``module``: another main program; it gets the configuration file as its only argument."""
        ports = free_ports(ORIGINS)
        self.origin_ports = tuple(ports)
        self.path = directory / "proxy.yaml"
        self.site = Site(free_port(), {name: free_port() for name in listeners}, self.origin_ports[:2])
        self.configure(self.site)
        options = [str(self.path)] if module else ["-c", str(self.path), "--concurrency", str(workers), *arguments]
        self._command = [sys.executable, "-m", module or "workerproxy", *options]
        origin = [sys.executable, "-m", "workerproxy.demo_origin"]
        for port in ports:
            origin += ["--port", str(port)]
        self._processes = contextlib.ExitStack()
        with contextlib.ExitStack() as unless_started:
            unless_started.enter_context(self._processes)
            self.origin = self._start(origin)
            self.origin.wait_ready(lambda: http_get(ports[-1], "/status/200")[0] == 200)
            self.process = self.start_main()
            self.wait_ready()
            unless_started.pop_all()

    def _start(self, argv: Sequence[str]) -> Process:
        return self._processes.enter_context(Process(argv, env={"PYTHONPATH": str(ROOT)}))

    def start_main(self) -> Process:
        """Start the program; also again, after it was killed."""
        self.process = self._start(self._command)
        return self.process

    def wait_ready(self) -> None:
        self.process.wait_ready(lambda: http_get(self.site.admin, "/ready")[0] == 200, READY_TIMEOUT_S)

    # --- asking

    @property
    def port(self) -> int:
        return self.site.listeners["main"]

    def call(self, method: str, path: str, timeout_s: float = ADMIN_TIMEOUT_S) -> tuple[int, str]:
        """Status and body of an admin page. Raises ``OSError`` or ``http.client.HTTPException``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.site.admin, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def get(self, path: str) -> str:
        status, body = self.call("GET", path)
        assert status == 200, (path, status, body)
        return body

    def post(self, path: str) -> str:
        status, body = self.call("POST", path)
        assert status == 200, (path, status, body)
        return body

    def stat(self, name: str) -> int:
        """The value of one statistic, 0 when there is none of that name."""
        for line in self.get(f"/stats?filter=^{name}$").splitlines():
            found, _, value = line.rpartition(": ")
            if found == name:
                return int(value)
        return 0

    def overview(self) -> Json:
        """``/workers`` as data: ``main_pid``, and ``workers`` with state, pid, version and more."""
        answer: Json = json.loads(self.get("/workers?format=json"))
        return answer

    def workers(self) -> list[Json]:
        """The rows of ``/workers``."""
        rows: list[Json] = self.overview()["workers"]
        return rows

    def serving(self) -> list[Json]:
        return [row for row in self.workers() if row["state"] == "serving"]

    def main_pid(self) -> int:
        return int(self.overview()["main_pid"])

    def marker(self) -> str:
        """What ``/marker`` answers over a new connection: the version of the site that a worker serves."""
        status, body = http_get(self.port, "/marker", timeout_s=10.0)
        return body if status == 200 else f"status {status}"

    def accepted(self, pid: int) -> frozenset[int]:
        """The client ports of the connections to our listeners that a process has accepted and holds now."""
        return frozenset(port for port, state in self._sockets(pid) if state in _ACCEPTED)

    def listens(self, pid: int) -> bool:
        """Whether a process holds a listening socket of ours."""
        return any(state == _LISTENING for _, state in self._sockets(pid))

    def _sockets(self, pid: int) -> Iterator[tuple[int, str]]:
        """The peer's port and the state of each socket of a process that is bound to one of our listeners' ports."""
        inodes = set()
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(descriptor.path)
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
        ours = {f"0100007F:{port:04X}" for port in self.site.listeners.values()}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] in ours and fields[9] in inodes:
                yield int(fields[2].rpartition(":")[2], 16), fields[3]

    def wait_serving(self, number: int, without: frozenset[int] = frozenset(), *, or_more: bool = False) -> None:
        """Return when ``number`` workers serve, none of the processes ``without`` among them."""
        seen: list[Json] = []

        def all_serve() -> bool:
            seen[:] = self._workers_if_any()
            pids = {row["pid"] for row in seen if row["state"] == "serving"}
            enough = len(pids) >= number if or_more else len(pids) == number
            return enough and pids.isdisjoint(without)

        try:
            wait_until(all_serve, READY_TIMEOUT_S, f"{number} serving workers")
        except NotReadyError as error:
            raise NotReadyError(f"{error}; there are {seen}; output:\n{self.process.output()[-3000:]}") from None

    def wait_settled(self, timeout_s: float) -> None:
        """Return when nobody drains any more: what had to leave is gone, workers and an earlier main process."""

        def settled() -> bool:
            overview = self.overview()
            states = {row["state"] for row in overview["workers"]}
            return states == {"serving"} and "predecessor_pid" not in overview

        wait_until(settled, timeout_s, "the end of those who leave")

    def _workers_if_any(self) -> list[Json]:
        """The rows, or none while one main process takes over from another."""
        try:
            return self.workers()
        except (OSError, http.client.HTTPException, AssertionError):
            return []

    # --- operating

    def configure(self, site: Site) -> None:
        """Write the file; nothing else happens."""
        self.site = site
        self.write(json.dumps(site.bootstrap()))

    def write(self, text: str) -> None:
        """Put a new file in the old one's place, so that nobody reads half of it."""
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.path)

    def reload(self) -> Json:
        """What ``POST /reload`` says of the file as it is: ok, version, changes, drains, errors."""
        _, body = self.call("POST", "/reload?format=json")
        answer: Json = json.loads(body)
        return answer

    def apply(self, **changes: Any) -> Json:
        """Change the site and reload; every worker must serve the new version then."""
        self.configure(replace(self.site, version=self.site.version + 1, **changes))
        answer = self.reload()
        assert answer["ok"], answer
        return answer

    def kill_random_worker(self, rng: random.Random) -> Killed:
        """SIGKILL one that serves, and return when it is gone.

        It is stopped for a moment first, so that what it had accepted is known exactly. Until the kernel has taken it
        apart its connections look open, and what is sent to them then is in flight as much as what was before.
        """
        victim = psutil.Process(rng.choice(self.serving())["pid"])
        victim.suspend()
        ports = self.accepted(victim.pid)
        victim.kill()
        wait_ended([victim], 5.0)
        return Killed(victim.pid, ports)

    def scale(self, number: int) -> None:
        """To so many workers, and wait until they serve."""
        self.post(f"/workers?count={number}")
        self.wait_serving(number)

    def roll(self) -> None:
        """Replace every worker by a new one, one after the other."""
        before = frozenset(row["pid"] for row in self.serving())
        self.post("/roll")
        self.wait_serving(len(before), without=before)

    def upgrade(self) -> None:
        """Put a new main process with new workers in the old one's place."""
        old = self.overview()
        before = frozenset(row["pid"] for row in old["workers"] if row["pid"])
        serving = len(self.serving())
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            status, body = self.call("POST", "/upgrade")  # the one who answers may be gone before we have read it
            assert status == 200, (status, body)
        self.wait_serving(serving, without=before)
        assert self.main_pid() != old["main_pid"]

    def signal(self, number: signal.Signals) -> None:
        """To the process that was started; after an upgrade it passes it on."""
        self.process.signal(number)

    def tree(self) -> list[psutil.Process]:
        """Every process of the proxy: those below the one that was started, and those of its session."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process
        return list(found.values())

    def complaints(self) -> list[str]:
        """What the program itself said that it must not say."""
        output = self.process.output()
        return [output] if "Traceback (most recent call last)" in output else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.close()
        if error is None:
            assert not self.complaints(), self.complaints()


def variations(proxy: RunningProxy) -> list[Callable[[int], Json]]:
    """Changes of a site for ``apply``, each of another kind; all of them leave what carries the load in place."""
    first, second, third = proxy.origin_ports

    def routes(number: int) -> Json:
        some = [direct_route(f"/route{number + index}", "here") for index in range(number % 4)]
        return {"routes": [*some, {"match": {"prefix": "/upload"}, "route": {"cluster": "origin", "timeout": "60s"}}]}

    def clusters(number: int) -> Json:
        extra = [cluster(f"extra{index}", (third,)) for index in range(number % 3 + 1)]
        to_last = {"match": {"prefix": "/extra/"}, "route": {"cluster": extra[-1]["name"], "prefix_rewrite": "/"}}
        return {"clusters": extra, "routes": [to_last]}

    def hosts(number: int) -> Json:
        sets = ((first, second), (second, third), (third, first), (first, second, third), (second,))
        return {"origins": sets[number % len(sets)]}

    def cluster_options(number: int) -> Json:
        policy = ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM")[number % 3]
        return {"cluster": {"lb_policy": policy, "connect_timeout": f"{5 + number % 7}s"}}

    def filters(number: int) -> Json:
        manager = {
            "server_name": f"site{number}",
            "use_remote_address": number % 2 == 0,
            "normalize_path": number % 3 == 0,
            "stream_idle_timeout": f"{60 + number}s",
        }
        return {"manager": manager, "router": {"suppress_envoy_headers": number % 2 == 1}}

    return [routes, clusters, hosts, cluster_options, filters]


def essence(overview: Json) -> Json:
    """Of ``overview``, what an operation that was refused leaves as it is: the processes, and what they serve."""
    kept = ("worker", "state", "pid", "version", "restarts")
    return overview | {"workers": [{name: row[name] for name in kept} for row in overview["workers"]]}


def stopped(process: psutil.Process) -> bool:
    """Whether it is gone, or only waits for its parent to notice."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_ended(processes: Sequence[psutil.Process], timeout_s: float) -> float:
    """Return when all have ended; how many seconds that took."""
    started = time.monotonic()
    wait_until(lambda: all(map(stopped, processes)), timeout_s, f"the end of {processes}")
    return time.monotonic() - started

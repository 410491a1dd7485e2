"""A real workerproxy with real workers for tests of processes: start, find its parts, ask its admin pages."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any, Final

import psutil

from tests.support.client import RawClient
from tests.support.ports import free_port
from tests.support.processes import Process, http_get, wait_until
from tests.support.workerproxy import ROOT, start_workerproxy

HELLO: Final = b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n"

_CONFIG: Final = """
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
{listener}    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{path: /hello}}, direct_response: {{status: 200, body: {{inline_string: "{hello}"}}}}}}
              - {{match: {{prefix: /}}, route: {{cluster: origin}}}}
{listeners}  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {origin}}}}}}}
"""


class Proxy:
    """Used as a context manager; leaving it ends everything it started."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        workers: int = 1,
        origin: int = 9,
        module: str = "workerproxy",
        before: str = "",
        listener: str = "",
        listeners: str = "",
    ) -> None:
        """``module``: another main program; it gets the configuration file as its only argument.

        ``before``: lines that stand in the file before all others; ``listener``: further lines of the listener.
        """
        self.admin = free_port()
        self._before = before
        self._listener = listener
        self.origin = origin
        self._path = directory / "proxy.yaml"
        self.port = 0
        self.configure(listeners=listeners)
        if module == "workerproxy":
            self.process = start_workerproxy(self._path, self.admin, *arguments, workers=workers)
        else:
            self.process = Process([sys.executable, "-m", module, str(self._path)], env={"PYTHONPATH": str(ROOT)})
            self.process.wait_ready(lambda: http_get(self.admin, "/ready")[0] == 200)
        self.port = int(re.findall(r"::127\.0\.0\.1:(\d+)", self.get("/listeners"))[0])

    def configure(
        self, *, hello: str = "hello", port: int = 0, append: str = "", listeners: str = "", route: bool = True
    ) -> None:
        """Write the configuration file; a running proxy reads it at SIGHUP.

        ``append``: at the end, which is the cluster; ``listeners``: further ones; ``route``: if the origin has one.
        """
        text = (
            self._before
            + _CONFIG.format(
                admin=self.admin,
                port=port,
                hello=hello,
                origin=self.origin,
                listener=self._listener,
                listeners=listeners,
            )
            + append
        )
        if not route:
            text = text.replace("              - {match: {prefix: /}, route: {cluster: origin}}\n", "")
        self._path.write_text(text)

    # --- asking

    def get(self, path: str) -> str:
        status, body = http_get(self.admin, path, timeout_s=5.0)
        assert status == 200, (status, body)
        return body

    def stat(self, name: str) -> int:
        """The value of one statistic, 0 when there is none of that name."""
        found = re.search(rf"^{re.escape(name)}: (\d+)$", self.get(f"/stats?filter=^{name}$"), re.MULTILINE)
        return int(found[1]) if found else 0

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str) -> bytes:
        """The body of a POST's answer, which must be 200."""
        with RawClient(self.admin) as client:
            client.send(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode())
            assert client.read_response()
            assert client.received.startswith(b"HTTP/1.1 200 OK\r\n"), client.received
            return client.received.partition(b"\r\n\r\n")[2]

    def workers(self) -> list[psutil.Process]:
        """The worker processes, in order of their numbers."""
        return [psutil.Process(row["pid"]) for row in self.worker_rows() if row["pid"]]

    def worker_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json("/workers?format=json")["workers"]
        return rows

    def serving(self) -> int:
        """How many workers serve."""
        return sum(row["state"] == "serving" for row in self.worker_rows())

    def hello(self) -> bytes:
        """The body of /hello over a new connection."""
        with RawClient(self.port) as client:
            client.send(HELLO)
            client.read_response()
            return client.received.partition(b"\r\n\r\n")[2]

    def accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_workers(self, number: int, without: set[int] | None = None) -> None:
        """Return when ``number`` workers serve and none of the processes ``without`` is among them."""

        def all_serve() -> bool:
            serving = {row["pid"] for row in self.worker_rows() if row["state"] == "serving"}
            return len(serving) == number and serving.isdisjoint(without or ())

        wait_until(all_serve, 10.0, f"{number} workers")

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        children = psutil.Process(self.process.pid).children() if self.process.running() else []
        self.process.stop()
        for child in children:
            if child.is_running():
                child.kill()

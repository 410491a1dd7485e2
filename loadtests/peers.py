"""The proxies that are compared, at one feature level, and the origin behind them.

Every proxy: one worker (thread or process), keep-alive to clients and to the origin, no access log, x-forwarded-for
and x-forwarded-proto set, a request id made for each request, bodies passed on as they come, limits above what the
scenarios need. Envoy and workerproxy read the same file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests.scenarios import FILES, SMALL_BODY_BYTES
from tests.support.envoy import find_envoy
from tests.support.ports import free_port
from tests.support.processes import Process, http_get

ROOT: Final = Path(__file__).resolve().parents[1]

ENVOY_YAML: Final = """\
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}
static_resources:
  listeners:
  - name: compare
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: compare
          codec_type: HTTP1
          use_remote_address: true
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            name: compare
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: origin}}
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{max_connections: 10000, max_pending_requests: 10000, max_requests: 10000}}
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
{endpoints}"""

ENVOY_ENDPOINT: Final = """\
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}
"""

NGINX_HEAD: Final = """\
{user}daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8000; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  default_type text/plain;
  keepalive_timeout 300s; keepalive_requests 100000000; tcp_nodelay on; reset_timedout_connection on;
"""

NGINX_ORIGIN: Final = (
    NGINX_HEAD
    + """\
  sendfile on; open_file_cache max=100 inactive=600s; open_file_cache_valid 600s; etag off;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {directory}/www;
    location = /small {{ return 200 "{small}"; }}
    location = /post {{ return 200 "ok"; }}
  }}
}}
"""
)

NGINX_PROXY: Final = (
    NGINX_HEAD
    + """\
  upstream origin {{ server 127.0.0.1:{origin_port}; keepalive 2048;
    keepalive_requests 100000000; keepalive_timeout 300s; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_max_body_size 0;
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_max_temp_file_size 0;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-ID $request_id;
    }}
  }}
}}
"""
)

HAPROXY: Final = """\
global
  nbthread 1
  maxconn 4000
{tuning}defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
  option http-keep-alive
{options}  option forwardfor
  http-reuse always
  retries 1
  unique-id-format %{{+X}}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header X-Request-ID
frontend compare
  bind 127.0.0.1:{port} backlog 4096
  http-request set-header X-Forwarded-Proto http
  default_backend origin
backend origin
  server one 127.0.0.1:{origin_port} pool-max-conn -1
"""


def envoy_yaml(port: int, admin_port: int, *origin_ports: int) -> str:
    """The configuration that Envoy and workerproxy read."""
    endpoints = "".join(ENVOY_ENDPOINT.format(port=origin) for origin in origin_ports)
    return ENVOY_YAML.format(port=port, admin_port=admin_port, endpoints=endpoints)


def find_program(name: str) -> str | None:
    """A program on the PATH or where Debian puts servers."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


@dataclass(slots=True)
class Running:
    """A program under load."""

    name: str
    port: int
    process: Process
    admin_port: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_traceback(self) -> bool:
        """Whether anything went wrong inside that the program itself did not expect."""
        return "Traceback (most recent call last)" in self.process.output()

    def stop(self) -> None:
        self.process.stop()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs: its directory, the origin it forwards to, the command prefix that pins it to cores."""

    directory: Path
    origin_port: int = 0
    pin: tuple[str, ...] = ()
    workers: int = 1
    more_origin_ports: tuple[int, ...] = ()  # further endpoints, for Envoy and workerproxy

    def write(self, name: str, text: str) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / name
        path.write_text(text)
        return path


def _program(name: str) -> str:
    path = find_program(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed; scripts/install-peers.sh installs it")
    return path


def _nginx(place: Place, template: str, **values: object) -> Running:
    port = free_port()
    user = "user root;\n" if os.geteuid() == 0 else ""  # else its worker could not enter our directory
    text = template.format(user=user, directory=place.directory, port=port, **values)
    config = place.write("nginx.conf", text)
    argv = [*place.pin, _program("nginx"), "-p", str(place.directory), "-e", "stderr", "-c", str(config)]
    return Running("nginx", port, Process(argv))


def start_origin(place: Place) -> Running:
    """nginx as fast as it goes: a fixed small answer, an answer to uploads, and files."""
    www = place.directory / "www"
    www.mkdir(parents=True, exist_ok=True)
    for name, size in FILES.items():
        (www / name).write_bytes(b"0123456789abcdef" * (size // 16))
    origin = _nginx(place, NGINX_ORIGIN, small="x" * SMALL_BODY_BYTES)
    return _ready(origin, origin.port)


def start_nginx(place: Place) -> Running:
    return _nginx(place, NGINX_PROXY, origin_port=place.origin_port)


def _haproxy(place: Place, tuning: str = "", options: str = "") -> Running:
    port = free_port()
    text = HAPROXY.format(port=port, origin_port=place.origin_port, tuning=tuning, options=options)
    config = place.write("haproxy.cfg", text)
    return Running("haproxy", port, Process([*place.pin, _program("haproxy"), "-db", "-f", str(config)]))


def start_haproxy(place: Place) -> Running:
    return _haproxy(place)


def start_haproxy_splice(place: Place) -> Running:
    """With what its manual recommends for large bodies, and pipes of 256 KiB."""
    return _haproxy(place, "  tune.pipesize 262144\n", "  option splice-response\n")


def _start_on_envoy_yaml(name: str, place: Place, program: Sequence[str]) -> Running:
    port, admin_port = free_port(), free_port()
    text = envoy_yaml(port, admin_port, place.origin_port, *place.more_origin_ports)
    config = place.write("envoy.yaml", text)
    argv = [*place.pin, *program, "-c", str(config), "--concurrency", str(place.workers), "-l", "warning"]
    return Running(name, port, Process(argv, env={"PYTHONPATH": str(ROOT)}), admin_port)


def start_envoy(place: Place) -> Running:
    envoy = find_envoy()
    if envoy is None:
        raise FileNotFoundError("envoy is not installed; pip install 'workerproxy[parity]' installs it")
    return _start_on_envoy_yaml("envoy", place, [envoy, "--disable-hot-restart"])


def start_workerproxy(place: Place) -> Running:
    return _start_on_envoy_yaml("workerproxy", place, [sys.executable, "-m", "workerproxy"])


PROXIES: Final[dict[str, Callable[[Place], Running]]] = {
    "workerproxy": start_workerproxy,
    "envoy": start_envoy,
    "haproxy": start_haproxy,
    "haproxy-splice": start_haproxy_splice,
    "nginx": start_nginx,
}
BODIES_ONLY: Final = frozenset({"haproxy-splice"})  # differs from its sibling only where there is a body to splice


def _ready(running: Running, port: int) -> Running:
    running.process.wait_ready(lambda: http_get(port, "/small")[0] == 200)
    return running


def start(name: str, place: Place) -> Running:
    """Start one of PROXIES and return once it forwards a request. Raises FileNotFoundError, NotReadyError."""
    running = PROXIES[name](place)
    running.name = name
    return _ready(running, running.port)


def versions() -> dict[str, str]:
    """First line of what each program says of its version; programs that are not there are left out."""
    envoy = find_envoy()
    commands = {
        "envoy": [envoy, "--version"] if envoy else None,
        "haproxy": ["haproxy", "-v"],
        "nginx": ["nginx", "-v"],
        "wrk": ["wrk", "-v"],
    }
    found = {}
    for name, command in commands.items():
        program = find_program(command[0]) if command else None
        if command is None or program is None:
            continue
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=20, check=False)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        found[name] = lines[0] if lines else ""
    return found

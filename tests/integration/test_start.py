"""What is said, and with which exit code, when the proxy cannot start."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from tests.support.processes import Process
from tests.support.workerproxy import ROOT

LISTENER = """
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config: {{name: r, virtual_hosts: [{{name: v, domains: ["*"]}}]}}
"""

# A main process whose workers are a program that ends at once.
DYING_WORKERS = """
import sys
from workerproxy.config.load import load
from workerproxy.config.options import Options
from workerproxy.main_thread import server
options = Options(config_path=sys.argv[1])
sys.exit(server.run(options, load(options).bootstrap, (sys.executable, "-c", "import sys; sys.exit(3)")))
"""


def start(tmp_path: Path, port: int, *arguments: str) -> Process:
    config = tmp_path / "c.yaml"
    config.write_text(LISTENER.format(port=port))
    argv = [sys.executable, "-m", "workerproxy", "-c", str(config), "--concurrency", "1", *arguments]
    return Process(argv, env={"PYTHONPATH": str(ROOT)})


def test_an_address_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with start(tmp_path, port) as process:
            assert process.wait(15.0) == 1
            wanted = f"cannot listen on 127.0.0.1:{port} (listener 'l'): the address is in use by another program"
            assert process.output() == f"workerproxy: {wanted}\n"


def test_a_log_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with start(tmp_path, 0, "--log-path", "/nonexistent/log") as process:
        assert process.wait(15.0) == 1
        wanted = "cannot open the log file /nonexistent/log: No such file or directory"
        assert process.output() == f"workerproxy: {wanted}\n"


def test_workers_that_do_not_come_up_end_the_start(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(LISTENER.format(port=0))
    with Process([sys.executable, "-c", DYING_WORKERS, str(config)], env={"PYTHONPATH": str(ROOT)}) as process:
        assert process.wait(15.0) == 1
        wanted = "workerproxy: the configuration cannot be served:\nit ended before it answered Prepare: exit code 3\n"
        assert wanted in process.output()


def test_without_an_admin_address_there_is_none_and_sigterm_ends_it(tmp_path: Path) -> None:
    with start(tmp_path, 0) as process:
        process.wait_output("all workers serve; listening on 127.0.0.1:", timeout_s=15.0)
        process.popen.terminate()
        assert process.wait() == 0
        assert "admin address" not in process.output()


def test_a_signal_while_it_starts_ends_it_quietly(tmp_path: Path) -> None:
    with start(tmp_path, 0, "-l", "debug") as process:
        process.wait_output("worker 0: empty -> started", timeout_s=15.0)
        process.popen.terminate()
        assert process.wait() == 0
        assert "error" not in process.output()

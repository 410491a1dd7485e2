"""The units as they are shipped, under a real systemd: what an operator says to it, and what clients notice.

The machine it runs on is made of namespaces (``systemd_machine``), so port 80 is free in there and the service runs as
the unprivileged user, with every hardening directive, that the unit names.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.systemd_machine import Machine
from tests.support.processes import http_get, wait_until
from tests.support.workerproxy import ROOT

pytestmark = [pytest.mark.peers, pytest.mark.slow]

UNITS: Final = ROOT / "conf/systemd"
SERVICE: Final = "workerproxy.service"
SOCKET: Final = "workerproxy.socket"
CONFIG: Final = "/etc/workerproxy/workerproxy.yaml"
PROGRAM: Final = "/opt/workerproxy/bin/workerproxy"
ADMIN_PORT: Final = 9901
NET_BIND: Final = 1 << 10
SETTLED_S: Final = 15.0
REQUEST_TIMEOUT_S: Final = 10.0

CONFIGURATION: Final = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 0.0.0.0, port_value: 80}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {inline_string: "one"}}
"""

# The same, and: an access log, a Unix socket, a name to resolve, a regular expression.
MORE: Final = (
    CONFIGURATION.replace(
        "          http_filters:",
        """          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /var/log/workerproxy/access.log
          http_filters:""",
    ).replace(
        "              - match: {prefix: /}",
        """              - match: {safe_regex: {regex: "/via/[a-z]+"}}
                route: {cluster: itself, prefix_rewrite: /}
              - match: {prefix: /}""",
    )
    + """
  clusters:
  - name: itself
    type: STRICT_DNS
    dns_lookup_family: V4_ONLY
    load_assignment:
      cluster_name: itself
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: 80}}}}]}]
"""
).replace(
    "  clusters:",
    CONFIGURATION[CONFIGURATION.index("  - name: main") :]
    .replace("name: main", "name: unix")
    .replace("{socket_address: {address: 0.0.0.0, port_value: 80}}", "{pipe: {path: /run/workerproxy/http.sock}}")
    + "  clusters:",
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    files = {f"systemd/system/{name}": (UNITS / name).read_text() for name in (SERVICE, SOCKET)}
    files["sysusers.d/workerproxy.conf"] = (UNITS / "workerproxy.sysusers").read_text()
    with Machine(files) as running:
        running.run("systemd-sysusers")
        yield running


@pytest.fixture
def service(machine: Machine) -> Machine:
    """The machine with the service active on the configuration above."""
    machine.systemctl("reset-failed")
    machine.path("/etc/workerproxy").mkdir(exist_ok=True)
    machine.path(CONFIG).write_text(CONFIGURATION)
    machine.systemctl("start", SERVICE)
    machine.systemctl("reload", SERVICE)
    return machine


def body(machine: Machine) -> str:
    return machine.inside(lambda: http_get(80, "/", REQUEST_TIMEOUT_S))[1]


def main_pid(machine: Machine) -> int:
    return int(machine.show(SERVICE, "MainPID"))


def processes(machine: Machine) -> dict[str, list[int]]:
    """The service's processes by their titles, with the ids they have outside."""
    found: dict[str, list[int]] = {}
    group = machine.path(f"/sys/fs/cgroup/system.slice/{SERVICE}/cgroup.procs")
    for pid in map(int, group.read_text().split()):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        found.setdefault(re.sub(r" \d.*", "", title), []).append(pid)
    return found


def mains(machine: Machine) -> int:
    """How many main processes there are: two while one of them drains."""
    return sum(len(pids) for title, pids in processes(machine).items() if title.startswith("workerproxy: main"))


def outside(machine: Machine, pid: int) -> int:
    """The id that a process of the service has out here."""
    for candidates in processes(machine).values():
        for candidate in candidates:
            if f"\t{pid}\n" in re.search(r"NSpid:.*\n", Path(f"/proc/{candidate}/status").read_text())[0]:  # type: ignore[index]
                return candidate
    raise AssertionError(f"process {pid} is not one of the service's")


def listening_on(machine: Machine, port: int) -> int:
    """How many IPv4 sockets listen on a port."""
    table = Path(f"/proc/{machine.pid}/net/tcp").read_text()
    return len(re.findall(rf"(?m)^ *\d+: \w+:{port:04X} \w+:\w+ 0A ", table))


def capabilities(pid: int) -> int:
    return int(re.search(r"CapEff:\t(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16)  # type: ignore[index]


def journal(machine: Machine, *more: str) -> list[dict[str, Any]]:
    """What the service has written, with all that the journal knows of it."""
    machine.run("journalctl", "--sync", check=False)
    lines = machine.run("journalctl", "--no-pager", "-o", "json", "-u", SERVICE, *more)
    return [json.loads(line) for line in lines.splitlines() if line.startswith("{")]


class Visitors:
    """Clients that come one after the other, each with a connection of its own, and what became of them."""

    def __init__(self) -> None:
        self.served = 0
        self.failed: list[str] = []
        self.slowest_s = 0.0

    def come_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            begin = time.monotonic()
            try:
                with urllib.request.urlopen("http://127.0.0.1/", timeout=REQUEST_TIMEOUT_S) as response:
                    response.read()
                self.served += 1
            except OSError as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - begin)

    def __str__(self) -> str:
        slowest = f"the slowest waited {self.slowest_s:.2f} s"
        return f"{self.served} served, {len(self.failed)} failed {self.failed[:3]}, {slowest}"


@contextmanager
def visitors(machine: Machine, what: str) -> Iterator[Visitors]:
    """Three clients without a pause, from the first served one until a hundred more after the end of the block."""
    stop = threading.Event()
    seen = Visitors()
    threads = [threading.Thread(target=machine.inside, args=(lambda: seen.come_until(stop),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: seen.served > 50, SETTLED_S, "the first visitors")
        yield seen
        enough = seen.served + 100
        wait_until(lambda: seen.served > enough or len(seen.failed) > 100, SETTLED_S, "the last visitors")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        print(f"{what}: {seen}")


def test_it_is_active_when_it_serves_and_says_how_it_is(service: Machine) -> None:
    assert service.show(SERVICE, "ActiveState") == "active"
    assert body(service) == "one"
    assert re.fullmatch(r"version \d+, (\d+) of \1 workers serve, \d+ connections", service.show(SERVICE, "StatusText"))


def test_only_the_main_process_may_bind_low_ports_and_none_is_root(service: Machine) -> None:
    found = processes(service)
    assert set(found) == {"workerproxy: main", "workerproxy: worker"}
    assert [capabilities(pid) for pid in found["workerproxy: main"]] == [NET_BIND]
    assert {capabilities(pid) for pid in found["workerproxy: worker"]} == {0}
    for pid in [pid for pids in found.values() for pid in pids]:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Uid:\t0" not in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


def test_within_the_hardening_it_sees_its_workers(service: Machine) -> None:
    status, text = service.inside(lambda: http_get(ADMIN_PORT, "/workers"))
    assert status == 200
    assert re.search(r"rss_bytes=[1-9]\d+ descriptors=[1-9]", text), text


def test_within_the_hardening_there_is_all_that_a_configuration_asks_for(service: Machine) -> None:
    service.path(CONFIG).write_text(MORE)
    service.systemctl("reload", SERVICE)
    assert service.inside(lambda: http_get(80, "/via/itself")) == (200, "one")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(service.path("/run/workerproxy/http.sock")))
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
    log = service.path("/var/log/workerproxy/access.log")
    service.systemctl("restart", SERVICE)  # which writes what is buffered
    assert '"GET /via/itself HTTP/1.1" 200' in log.read_text()
    assert oct(log.stat().st_mode) == "0o100640"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(service.path("/run/workerproxy/http.sock")))


def test_reload_returns_when_the_new_configuration_is_served(service: Machine) -> None:
    service.path(CONFIG).write_text(CONFIGURATION.replace('"one"', '"two"'))
    pid = main_pid(service)
    service.systemctl("reload", SERVICE)
    assert body(service) == "two"
    assert main_pid(service) == pid
    assert service.show(SERVICE, "ActiveState") == "active"


def test_reload_fails_when_the_configuration_is_refused_and_the_old_one_goes_on(service: Machine) -> None:
    service.path(CONFIG).write_text(CONFIGURATION.replace("prefix:", "prefixx:"))
    assert "Job for workerproxy.service failed" in service.systemctl("reload", SERVICE, check=False)
    assert service.show(SERVICE, "ActiveState") == "active"
    assert body(service) == "one"
    wait_until(
        lambda: any("prefixx" in line["MESSAGE"] for line in journal(service, "-p", "err")), SETTLED_S, "the reason"
    )


def test_the_journal_knows_priorities_and_lines_have_no_time_of_their_own(service: Machine) -> None:
    lines = [line for line in journal(service) if "all workers serve" in line["MESSAGE"]]
    assert lines
    for line in lines:
        assert re.match(r"\[\d+\]\[info\]\[main\] \[workerproxy/", line["MESSAGE"])
        assert (line["PRIORITY"], line["SYSLOG_IDENTIFIER"]) == ("6", "workerproxy")


def test_a_restart_keeps_the_listening_sockets_and_refuses_nobody(service: Machine) -> None:
    before = main_pid(service)
    assert int(service.show(SERVICE, "NFileDescriptorStore")) > 0
    with visitors(service, "systemctl restart") as seen:
        service.systemctl("restart", SERVICE)
    assert main_pid(service) != before
    assert seen.failed == []


def test_after_its_death_it_is_back_and_those_who_came_meanwhile_are_served(service: Machine) -> None:
    before, restarts = main_pid(service), int(service.show(SERVICE, "NRestarts"))
    with visitors(service, "SIGKILL of the main process") as seen:
        service.systemctl("kill", "--kill-who=main", "--signal=KILL", SERVICE)
        wait_until(lambda: main_pid(service) not in (0, before), SETTLED_S, "its successor")
    assert int(service.show(SERVICE, "NRestarts")) == restarts + 1
    # Who was being served fails: systemd ends what is left of the service. Who only waited does not.
    assert [one for one in seen.failed if "refused" in one] == []
    assert len(seen.failed) <= 3


def test_a_main_process_that_hangs_is_replaced(service: Machine) -> None:
    drop_in = service.path(f"/etc/systemd/system/{SERVICE}.d/watchdog.conf")
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nWatchdogSec=1s\nTimeoutAbortSec=1s\nRestartSec=0\n")
    try:
        service.systemctl("daemon-reload")
        service.systemctl("restart", SERVICE)
        before = main_pid(service)
        service.systemctl("kill", "--kill-who=main", "--signal=STOP", SERVICE)
        wait_until(lambda: main_pid(service) not in (0, before), SETTLED_S, "its successor")
        assert "watchdog" in " ".join(line["MESSAGE"].lower() for line in journal(service))
        wait_until(lambda: body(service) == "one", SETTLED_S, "its service")
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        service.systemctl("daemon-reload")


def test_an_upgrade_hands_the_service_over(service: Machine) -> None:
    before, restarts = main_pid(service), service.show(SERVICE, "NRestarts")
    with visitors(service, "upgrade") as seen:
        service.run(PROGRAM, "upgrade", "-c", CONFIG)
        wait_until(lambda: main_pid(service) != before, SETTLED_S, "another main process")
        wait_until(lambda: mains(service) == 1, SETTLED_S, "the end of the old one")
    assert seen.failed == []
    assert service.show(SERVICE, "ActiveState") == "active"
    assert service.show(SERVICE, "NRestarts") == restarts
    assert capabilities(outside(service, main_pid(service))) == NET_BIND
    # Nobody who must not speak has spoken, and the next restart finds the sockets that the new one stored.
    assert [line for line in journal(service) if "reception only permitted" in line["MESSAGE"]] == []
    with visitors(service, "systemctl restart after the upgrade") as seen:
        service.systemctl("restart", SERVICE)
    assert seen.failed == []


def test_the_process_that_an_upgrade_leaves_is_watched_like_the_first(service: Machine) -> None:
    service.run(PROGRAM, "upgrade", "-c", CONFIG)
    wait_until(lambda: mains(service) == 1, SETTLED_S, "the end of the old one")
    upgraded = main_pid(service)
    service.systemctl("kill", "--kill-who=main", "--signal=KILL", SERVICE)
    wait_until(lambda: main_pid(service) not in (0, upgraded), SETTLED_S, "its successor")
    wait_until(lambda: body(service) == "one", SETTLED_S, "its service")


def test_stop_drains_and_leaves_nothing(service: Machine) -> None:
    with service.inside(lambda: socket.create_connection(("127.0.0.1", 80), timeout=REQUEST_TIMEOUT_S)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        service.systemctl("stop", SERVICE)
        assert client.recv(4096) == b""  # closed, not reset
    assert service.show(SERVICE, "Result") == "success"
    assert service.show(SERVICE, "ActiveState") == "inactive"
    assert service.inside(lambda: http_get(80, "/"))[0] == 0
    assert not service.path("/run/workerproxy").exists()
    assert not service.path(f"/sys/fs/cgroup/system.slice/{SERVICE}").exists()


def test_a_socket_unit_starts_it_with_the_first_client_and_keeps_its_sockets(service: Machine) -> None:
    service.systemctl("stop", SERVICE)
    service.systemctl("start", SOCKET)
    try:
        check_socket_activation(service)
    finally:
        service.systemctl("stop", SOCKET, SERVICE)


def check_socket_activation(service: Machine) -> None:
    assert service.show(SERVICE, "ActiveState") == "inactive"
    assert body(service) == "one"  # this client waited for the start
    wait_until(lambda: service.show(SERVICE, "ActiveState") == "active", SETTLED_S, "the end of the start")
    assert listening_on(service, 80) == 2  # the unit's own, and none beside them
    with visitors(service, "systemctl restart with a socket unit") as seen:
        service.systemctl("restart", SERVICE)
    assert seen.failed == []
    assert listening_on(service, 80) == 2

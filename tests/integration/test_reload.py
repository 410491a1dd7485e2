"""SIGHUP: accepted as a whole or refused as a whole, and connections stay."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

from tests.integration.proxy import HELLO, Proxy
from tests.integration.refusing_worker import TELLTALE
from tests.support.client import RawClient
from tests.support.ports import free_port
from tests.support.processes import wait_until


def test_a_reload_changes_what_is_answered_on_connections_that_stay_open(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy, RawClient(proxy.port) as client:
        client.send(HELLO)
        assert client.read_response()
        proxy.configure(hello="changed")
        proxy.process.signal(signal.SIGHUP)
        proxy.process.wait_output("version 2 is active: listener 'main' changed")
        client.send(HELLO)
        assert client.read_response()
        assert client.received.endswith(b"changed")
        assert proxy.hello() == b"changed"
        versions = [row["version"] for row in proxy.worker_rows()]
        assert versions == [2, 2]


def test_a_broken_file_is_refused_with_its_errors_and_nothing_changes(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        proxy.configure(hello="changed", append="  clusterz: []\n")
        proxy.process.signal(signal.SIGHUP)
        proxy.process.wait_output("reload refused, version 1 stays active")
        proxy.process.wait_output("clusterz")
        assert proxy.hello() == b"hello"
        refused = proxy.json("/config_dump")["configs"][-1]
        assert refused["@type"] == "workerproxy.RefusedConfigDump"
        assert "clusterz" in refused["details"]


def test_a_moved_listener_serves_at_its_new_address_and_drains_at_the_old_one(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "30", workers=2) as proxy, RawClient(proxy.port) as kept:
        kept.send(HELLO)
        assert kept.read_response()
        old, new = proxy.port, free_port()
        proxy.configure(hello="moved", port=new)
        answer = json.loads(proxy.post("/reload?format=json"))
        assert answer["changes"] == [f"listener 'main' moved from 127.0.0.1:0 to 127.0.0.1:{new}"]
        assert answer["drains"][0].startswith(f"listener 'main' on 127.0.0.1:{old} drains")
        proxy.port = new
        assert proxy.hello() == b"moved"
        kept.send(HELLO)  # a connection of the old listener keeps what it had, and is closed in the drain time
        assert kept.read_response()
        assert kept.received.endswith(b"hello")
        wait_until(lambda: not accepts(old), 5.0, "the old address to be free")
        assert f"main::127.0.0.1:{new}\n" == proxy.get("/listeners")
        (draining,) = proxy.json("/listeners?format=json")["draining_listener_statuses"]
        assert draining["local_address"]["socket_address"]["port_value"] == old


def test_a_successor_of_a_killed_worker_serves_the_version_that_is_active(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        proxy.configure(hello="second")
        proxy.process.signal(signal.SIGHUP)
        proxy.process.wait_output("version 2 is active")
        (worker,) = proxy.workers()
        worker.kill()
        proxy.wait_workers(1, without={worker.pid})
        assert proxy.hello() == b"second"


def test_many_reloads_at_once_end_with_the_last_configuration(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        for number in range(10):
            proxy.configure(hello=f"number{number}")
            proxy.process.signal(signal.SIGHUP)
        wait_until(lambda: proxy.hello() == b"number9", 10.0, "the last configuration")
        assert proxy.get("/ready") == "LIVE\n"


def test_a_worker_killed_in_the_middle_of_a_reload_ends_up_on_the_right_version(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        victim = proxy.workers()[0]
        victim.suspend()  # it will not answer the Prepare
        proxy.configure(hello="second")
        proxy.process.signal(signal.SIGHUP)
        wait_until(lambda: proxy.worker_rows()[1]["version"] == 1, 2.0)
        victim.kill()
        proxy.process.wait_output("version 2 is active", timeout_s=10.0)
        proxy.wait_workers(2, without={victim.pid})
        wait_until(lambda: [row["version"] for row in proxy.worker_rows()] == [2, 2], 10.0)
        assert {proxy.hello() for _ in range(10)} == {b"second"}


def test_what_one_worker_refuses_changes_nothing_on_any(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2, module="tests.integration.refusing_worker") as proxy:
        proxy.configure(hello="changed", append=f"  - name: {TELLTALE}\n")
        proxy.process.signal(signal.SIGHUP)
        proxy.process.wait_output(f"cluster {TELLTALE}: not on this worker")
        assert {proxy.hello() for _ in range(6)} == {b"hello"}
        assert [row["version"] for row in proxy.worker_rows()] == [1, 1]
        proxy.configure(hello="changed")
        proxy.process.signal(signal.SIGHUP)
        proxy.process.wait_output("version 3 is active")
        assert {proxy.hello() for _ in range(6)} == {b"changed"}


def test_statistics_of_a_cluster_go_and_come_with_it(tmp_path: Path) -> None:
    extra = "  - name: extra\n    circuit_breakers: {thresholds: [{track_remaining: true}]}\n"
    with Proxy(tmp_path, workers=2) as proxy:
        for version, append in ((2, extra), (3, ""), (4, extra)):
            proxy.configure(append=append)
            proxy.process.signal(signal.SIGHUP)
            proxy.process.wait_output(f"version {version} is active")
            names = {line.partition(":")[0] for line in proxy.get("/stats?filter=^cluster.extra.").splitlines()}
            assert bool(names) is bool(append), names
            if append:
                wanted = ("upstream_cx_total", "membership_total", "circuit_breakers.default.remaining_cx")
                assert {f"cluster.extra.{name}" for name in wanted} <= names
        assert proxy.stat("cluster.extra.circuit_breakers.default.remaining_cx") == 1024


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0

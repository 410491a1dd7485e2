"""What a reload changes, what it leaves alone, what drains, and what whoever asked is told."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

from tests.integration.proxy import HELLO, Proxy
from tests.support.client import RawClient
from tests.support.origin import Answer, Origin, Pause, Send
from tests.support.ports import free_port
from tests.support.processes import http_get, http_post, wait_until

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
STREAM = Answer(
    [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst"), Pause(1.5), Send(b"-last")],
)


def reload(proxy: Proxy, query: str = "") -> dict[str, Any]:
    _, body = http_post(proxy.admin, f"/reload?format=json{query}", timeout_s=20.0)
    answer: dict[str, Any] = json.loads(body)
    return answer


def listener(name: str, port: int, body: str) -> str:
    """A further listener of the file, as flow YAML, that answers everything with ``body``."""
    route = f'{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: "{body}"}}}}}}'
    manager = (
        f'{{"@type": {HCM}, stat_prefix: {name}, '
        f'http_filters: [{{name: router, typed_config: {{"@type": {ROUTER}}}}}], '
        f'route_config: {{virtual_hosts: [{{name: v, domains: ["*"], routes: [{route}]}}]}}}}'
    )
    address = f"{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}"
    return (
        f"  - {{name: {name}, address: {address}, "
        f"filter_chains: [{{filters: [{{name: hcm, typed_config: {manager}}}]}}]}}\n"
    )


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_listeners_come_and_go_while_the_others_stay(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "2", workers=2) as proxy, RawClient(proxy.port, timeout_s=10.0) as kept:
        kept.send(HELLO)
        assert kept.read_response()
        extra = free_port()
        proxy.configure(listeners=listener("extra", extra, "extra"))
        assert reload(proxy)["changes"] == ["listener 'extra' added"]
        assert http_get(extra, "/") == (200, "extra")
        assert proxy.stat("listener_manager.total_listeners_active") == 2
        proxy.configure()
        answer = reload(proxy)
        assert answer["changes"] == ["listener 'extra' removed"]
        assert answer["drains"] == [f"listener 'extra' on 127.0.0.1:{extra} drains within 2 s"]
        wait_until(lambda: not accepts(extra), 5.0, "the address to be free")
        wait_until(lambda: proxy.stat("listener_manager.total_listeners_draining") == 0, 5.0, "the end of the drain")
        kept.send(HELLO)
        assert kept.read_response()
        assert not kept.end
        assert proxy.stat("listener_manager.listener_removed") == 1


def test_what_waits_on_a_removed_listener_is_served(tmp_path: Path) -> None:
    extra = free_port()
    with Proxy(tmp_path, listeners=listener("extra", extra, "extra")) as proxy:
        (worker,) = proxy.workers()
        worker.suspend()
        clients = [RawClient(extra, timeout_s=10.0) for _ in range(5)]
        proxy.configure()
        proxy.process.signal(signal.SIGHUP)
        for client in clients:
            client.send(HELLO)
        worker.resume()
        for client in clients:
            assert client.read_response()
            assert client.received.endswith(b"extra")
            assert b"\r\nconnection: close\r\n" in client.received or not client.end
            client.close()
        wait_until(lambda: not accepts(extra), 5.0)


def test_an_address_that_is_taken_refuses_the_reload_by_name_and_half_of_it_is_not_applied(tmp_path: Path) -> None:
    free = free_port()
    with Origin() as other, Proxy(tmp_path, workers=2) as proxy:
        taken = listener("taken", other.port, "x")
        proxy.configure(hello="changed", listeners=listener("fine", free, "x") + taken)
        answer = reload(proxy)
        assert (answer["ok"], answer["version"]) == (False, 1)
        (error,) = answer["errors"]
        assert error.startswith(f"cannot listen on 127.0.0.1:{other.port} (listener 'taken'): ")
        assert proxy.hello() == b"hello"
        assert not accepts(free)
        assert proxy.get("/listeners") == f"main::127.0.0.1:{proxy.port}\n"


def test_all_errors_come_with_their_places_to_whoever_asked(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        proxy.configure(append="  clusterz: []\nadminn: {}\n")
        status, body = http_post(proxy.admin, "/reload")
        assert status == 400
        first, *errors = body.splitlines()
        assert first == "refused, version 1 stays active:"
        assert len(errors) == 2
        assert all(f"{tmp_path}/proxy.yaml:" in error and "did you mean" in error for error in errors)
        dump = proxy.json("/config_dump")["configs"][-1]
        assert dump["details"].splitlines() == errors


def test_a_dry_run_says_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    extra = free_port()
    with Proxy(tmp_path, workers=2) as proxy:
        proxy.configure(hello="changed", listeners=listener("extra", extra, "x"))
        answer = reload(proxy, "&dry_run")
        assert (answer["ok"], answer["dry_run"], answer["version"]) == (True, True, 1)
        assert answer["changes"] == ["listener 'extra' added", "listener 'main' changed"]
        assert proxy.hello() == b"hello"
        assert not accepts(extra)
        with Origin() as other:
            proxy.configure(listeners=listener("extra", other.port, "x"))
            answer = reload(proxy, "&dry_run")
            assert not answer["ok"]
            assert f"127.0.0.1:{other.port}" in answer["errors"][0]
        assert all(
            config["@type"] != "workerproxy.RefusedConfigDump" for config in proxy.json("/config_dump")["configs"]
        )


def test_the_admin_address_moves_and_the_answer_still_comes_on_the_old_one(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        old, new = proxy.admin, free_port()
        proxy.admin = new
        proxy.configure()
        proxy.admin = old
        assert reload(proxy)["changes"] == ["admin changed"]
        proxy.admin = new
        assert proxy.get("/ready") == "LIVE\n"
        wait_until(lambda: not accepts(old), 5.0, "the old admin address to be free")


def test_streams_survive_everything_but_the_removal_of_their_own_cluster_or_route(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, "--drain-time-s", "30", workers=1, origin=origin.port) as proxy:
        origin.play([STREAM] * 3)
        clients = [RawClient(proxy.port, timeout_s=10.0) for _ in range(3)]
        for client in clients:
            client.send(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.read_text(b"first")
        proxy.configure(hello="changed", append="    connect_timeout: 3s\n")
        answer = reload(proxy)
        assert answer["ok"]
        assert answer["drains"] == []
        proxy.configure(hello="changed", route=False)
        answer = reload(proxy)
        assert answer["drains"] == ["3 streams on removed routes or clusters end within 30 s"]
        for client in clients:  # they have the drain time to finish
            assert client.read_text(b"-last")
            client.close()


def test_a_stream_on_a_removed_route_ends_with_the_drain_time(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, "--drain-time-s", "1", origin=origin.port) as proxy:
        origin.play([Answer([Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst"), Pause(60.0)])])
        with RawClient(proxy.port, timeout_s=10.0) as client:
            client.send(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.read_text(b"first")
            proxy.configure(route=False)
            assert reload(proxy)["drains"] == ["1 streams on removed routes or clusters end within 1 s"]
            assert client.read_to_close()
            assert client.received.endswith(b"first")


def test_pools_and_statistics_of_what_is_the_same_go_on(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, origin=origin.port) as proxy, RawClient(proxy.port) as client:
        for number in range(3):
            client.send(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.read_response()
            proxy.configure(hello=f"number {number}")
            assert reload(proxy)["ok"]
        assert len(origin.connections) == 1
        assert proxy.stat("cluster.origin.upstream_cx_total") == 1
        assert proxy.stat("cluster.origin.upstream_rq_total") == 3


def test_a_watched_file_is_reloaded_by_itself(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--watch") as proxy:
        proxy.configure(hello="changed")
        wait_until(lambda: proxy.hello() == b"changed", 5.0, "the reload")
        proxy.configure(append="  clusterz: []\n")
        proxy.process.wait_output("reload refused, version 2 stays active")
        assert proxy.hello() == b"changed"
        proxy.configure(hello="mended")
        wait_until(lambda: proxy.hello() == b"mended", 5.0, "the reload")


def test_a_grace_before_the_drain_fails_readiness_and_serves_on(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-grace-s", "2") as proxy:
        proxy.process.signal(signal.SIGTERM)
        wait_until(lambda: http_get(proxy.admin, "/ready")[0] == 503, 5.0)
        with RawClient(proxy.port) as client:
            client.send(HELLO)
            assert client.read_response()
            assert b"connection: close" not in client.received
        assert proxy.process.wait(10.0) == 0


def test_only_inbound_listeners_are_drained_when_that_is_asked(tmp_path: Path) -> None:
    inner = free_port()
    with Proxy(
        tmp_path, listener="    traffic_direction: INBOUND\n", listeners=listener("inner", inner, "in")
    ) as proxy:
        assert proxy.post("/drain_listeners?inboundonly") == b"OK\n"
        wait_until(lambda: not accepts(proxy.port), 5.0)
        assert http_get(inner, "/") == (200, "in")


def test_health_that_was_failed_holds_for_a_worker_that_comes_later(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        assert proxy.post("/healthcheck/fail") == b"OK\n"
        (worker,) = proxy.workers()
        worker.kill()
        proxy.wait_workers(1, without={worker.pid})
        with RawClient(proxy.port) as client:
            client.send(HELLO)
            assert client.read_response()
            assert b"\r\nconnection: close\r\n" in client.received
        assert proxy.post("/healthcheck/ok") == b"OK\n"
        with RawClient(proxy.port) as client:
            client.send(HELLO)
            assert client.read_response()
            assert b"connection: close" not in client.received

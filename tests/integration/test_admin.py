"""The admin pages of a running proxy: Envoy's paths, methods, bodies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy.admin.v3 import (
    clusters_pb2,
    config_dump_pb2,
    config_dump_shared_pb2,
    listeners_pb2,
    memory_pb2,
    server_info_pb2,
)
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - what /config_dump holds must be known
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from google.protobuf import json_format

from tests.integration.proxy import Proxy
from tests.support.client import RawClient
from tests.support.processes import http_get


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("admin"), "--service-node", "n1", workers=2) as running:
        assert running.hello() == b"hello"
        yield running


def ask(proxy: Proxy, request: str, *, head: bool = False) -> bytes:
    with RawClient(proxy.admin) as client:
        client.send(request.encode())
        client.read_response(head=head)
        return client.received


def test_ready_and_the_headers_of_every_answer(proxy: Proxy) -> None:
    head, _, body = ask(proxy, "GET /ready HTTP/1.1\r\nhost: a\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b"LIVE\n"
    lines = head.split(b"\r\n")
    assert lines[:4] == [
        b"HTTP/1.1 200 OK",
        b"content-type: text/plain; charset=UTF-8",
        b"cache-control: no-cache, max-age=0",
        b"x-content-type-options: nosniff",
    ]


def test_head_has_the_headers_alone(proxy: Proxy) -> None:
    answer = ask(proxy, "HEAD /ready HTTP/1.1\r\nhost: a\r\n\r\n", head=True)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


def test_a_connection_serves_several_requests(proxy: Proxy) -> None:
    with RawClient(proxy.admin) as client:
        for _ in range(3):
            client.send(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.read_response()
        assert client.received.count(b"LIVE\n") == 3


def test_an_unknown_path_is_answered_with_the_list_of_commands(proxy: Proxy) -> None:
    status, body = http_get(proxy.admin, "/nope")
    assert status == 404
    assert body.startswith("invalid path. admin commands are:\n  /: Admin home page\n")
    assert body.removeprefix("invalid path. ") == proxy.get("/help")


@pytest.mark.parametrize(
    "path", ["/quitquitquit", "/logging", "/healthcheck/fail", "/drain_listeners", "/reset_counters"]
)
def test_what_changes_something_needs_post(proxy: Proxy, path: str) -> None:
    assert http_get(proxy.admin, path) == (405, "Method GET not allowed, POST required.")


@pytest.mark.parametrize(
    "request_text",
    ["NONSENSE\r\n\r\n", "GET /ready HTTP/1.1\r\n\r\n", f"GET / HTTP/1.1\r\nhost: a\r\nx: {'y' * 200_000}\r\n\r\n"],
)
def test_bad_requests_are_refused_and_hurt_nobody(proxy: Proxy, request_text: str) -> None:
    assert ask(proxy, request_text).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert proxy.get("/ready") == "LIVE\n"


def test_server_info_is_envoys_message(proxy: Proxy) -> None:
    info = json_format.Parse(proxy.get("/server_info"), server_info_pb2.ServerInfo())
    assert info.state == server_info_pb2.ServerInfo.LIVE
    assert info.command_line_options.concurrency == 2
    assert info.node.id == "n1"


def test_json_pages_are_envoys_messages(proxy: Proxy) -> None:
    json_format.Parse(proxy.get("/memory"), memory_pb2.Memory())
    listeners = json_format.Parse(proxy.get("/listeners?format=json"), listeners_pb2.Listeners())
    (listener,) = listeners.listener_statuses
    assert (listener.name, listener.local_address.socket_address.port_value) == ("main", proxy.port)
    clusters = json_format.Parse(proxy.get("/clusters?format=json"), clusters_pb2.Clusters())
    assert [cluster.name for cluster in clusters.cluster_statuses] == ["origin"]


def test_config_dump_has_what_is_active(proxy: Proxy) -> None:
    dump = proxy.json("/config_dump")
    kinds = [config["@type"].rpartition(".")[2] for config in dump["configs"]]
    assert kinds == ["BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump"]
    for config in dump["configs"]:
        kind = config["@type"].rpartition(".")[2]
        plain = {key: value for key, value in config.items() if key != "@type"}
        module = config_dump_pb2 if kind == "BootstrapConfigDump" else config_dump_shared_pb2
        json_format.ParseDict(plain, getattr(module, kind)())
    assert dump["configs"][3]["static_route_configs"][0]["route_config"]["name"] == "local"
    (only,) = proxy.json("/config_dump?resource=static_clusters")["configs"]
    assert only["cluster"]["name"] == "origin"
    assert http_get(proxy.admin, "/config_dump?resource=bogus") == (404, "bogus not found in config dump")


def test_stats_are_sorted_text_and_histograms_come_last(proxy: Proxy) -> None:
    lines = proxy.get("/stats").splitlines()
    names = [line.partition(": ")[0] for line in lines]
    times = [name for name in names if name.endswith(("_ms", "_time")) and not name.endswith(".loop_lag_ms")]
    assert names == [*sorted(set(names) - set(times)), *sorted(times)]
    assert "server.live: 1" in lines
    assert "server.concurrency: 2" in lines
    assert any(line.startswith("http.ingress.downstream_rq_time: P0(") for line in lines)


def test_stats_as_json_and_as_prometheus_text(proxy: Proxy) -> None:
    assert proxy.json("/stats?format=json&filter=^server.live$") == {"stats": [{"name": "server.live", "value": 1}]}
    text = "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n"
    assert proxy.get("/stats/prometheus?filter=^server.live$") == text
    assert proxy.get("/stats?format=prometheus&filter=^server.live$") == text


def test_bad_queries_are_400(proxy: Proxy) -> None:
    for query in ("filter=(", "type=Bogus", "format=bogus", "histogram_buckets=bogus"):
        assert http_get(proxy.admin, f"/stats?{query}")[0] == 400, query


def test_log_levels_change_in_all_processes(proxy: Proxy) -> None:
    assert b"  dns: info\n" in proxy.post("/logging")
    assert b"  dns: debug\n" in proxy.post("/logging?dns=debug")
    assert b"  dns: info\n" in proxy.post("/logging?level=info")
    bad = ask(proxy, "POST /logging?level=loud HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
    assert bad.startswith(b"HTTP/1.1 400 ")
    assert b"error: unknown logger level\n\nusage: " in bad


def test_failed_health_is_draining_until_it_is_taken_back(proxy: Proxy) -> None:
    assert proxy.post("/healthcheck/fail") == b"OK\n"
    assert http_get(proxy.admin, "/ready") == (503, "DRAINING\n")
    assert proxy.post("/healthcheck/ok") == b"OK\n"
    assert http_get(proxy.admin, "/ready") == (200, "LIVE\n")


def test_counters_are_reset_everywhere(proxy: Proxy) -> None:
    assert proxy.hello() == b"hello"
    assert proxy.stat("http.ingress.downstream_rq_total") > 0
    assert proxy.post("/reset_counters") == b"OK\n"
    assert proxy.stat("http.ingress.downstream_rq_total") == 0
    assert proxy.hello() == b"hello"
    assert proxy.stat("http.ingress.downstream_rq_total") == 1


def test_the_home_page_names_every_other_page(proxy: Proxy) -> None:
    home = proxy.get("/")
    for line in proxy.get("/help").splitlines()[1:]:
        if line.startswith("  /") and not line.startswith("  /:"):
            assert line.split("(")[0].split(":")[0].strip()[1:] in home


def test_quitquitquit_answers_and_ends_at_once(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        assert proxy.post("/quitquitquit") == b"OK\n"
        assert proxy.process.wait() == 0


def test_drained_listeners_refuse_and_open_connections_go_on(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy, RawClient(proxy.port) as client:
        client.send(b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.read_response()
        assert proxy.post("/drain_listeners") == b"OK\n"
        assert not proxy.accepts()
        client.send(b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.read_response()
        assert proxy.process.running()

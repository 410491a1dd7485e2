"""Clusters: which host a request goes to, how connections to it are kept, and the kinds of address there are."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.integration.answering import TIMEOUT_S, AnsweringOrigin, ok, target
from tests.integration.stage import Json, Listener, Plan, Stage, cluster, endpoint, pipe, route, tcp, upstream_options
from tests.support.client import RawClient
from tests.support.framing import head_end
from tests.support.ports import free_port
from tests.support.processes import wait_until

HOSTS: Final = 3


class Host:
    """Answers with its number; keeps a request for ``/.../hold`` until ``release`` if it is number 0."""

    def __init__(self, number: int, listener: socket.socket | None = None) -> None:
        self._name = b"%d" % number
        self._gate = threading.Event()
        self.origin = AnsweringOrigin(self._answer, listener)

    def _answer(self, peer: socket.socket, request: bytes) -> bool:
        if target(request).endswith(b"hold") and self._name == b"0":
            self._gate.wait(TIMEOUT_S)
        peer.sendall(ok(self._name))
        return True

    def release(self) -> None:
        self._gate.set()

    def stop(self) -> None:
        self.release()
        self.origin.stop()


class Scene:
    """The hosts of all clusters, the proxy in front of them, and where its Unix listener is."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self.shared = [self._host(number) for number in range(HOSTS)]
        self.single = {name: self._host(7) for name in ("reuse", "idle", "two", "many", "dns", "unix", "ipv6", "gone")}
        self.socket = directory / "proxy.sock"
        self.stage = stack.enter_context(Stage(directory, self._plan(directory)))

    def _host(self, number: int, listener: socket.socket | None = None) -> Host:
        host = Host(number, listener)
        self._stack.callback(host.stop)
        return host

    def _plan(self, directory: Path) -> Plan:
        three = [endpoint(tcp(host.origin.port)) for host in self.shared]
        weighted = [endpoint(tcp(host.origin.port), weight) for weight, host in enumerate(self.shared, 1)]
        one = {name: [endpoint(tcp(host.origin.port))] for name, host in self.single.items()}
        clusters = [
            cluster("round", three, lb_policy="ROUND_ROBIN"),
            cluster("weighted", weighted, lb_policy="ROUND_ROBIN"),
            cluster("random", three, lb_policy="RANDOM"),
            cluster("least", three, lb_policy="LEAST_REQUEST"),
            cluster("sick", [three[0] | {"health_status": "UNHEALTHY"}, *three[1:]]),
            cluster("empty", []),
            cluster("reuse", one["reuse"]),
            cluster("many", one["many"]),
            cluster("idle", one["idle"], **upstream_options(idle_timeout="0.3s")),
            cluster("two", one["two"], **upstream_options(max_requests_per_connection=2)),
            cluster("dns", [endpoint(tcp(self.single["dns"].origin.port, "localhost"))], **_dns("V4_ONLY")),
            cluster("nowhere", [endpoint(tcp(9, "nowhere.invalid"))], **_dns("AUTO")),
            cluster("unix", [endpoint(pipe(self._unix_host(directory)))]),
        ]
        listeners = {"main": Listener(), "unix": Listener(address=pipe(self.socket))}
        if ipv6():
            listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
            host = self.single["ipv6"] = self._host(6, listening)
            clusters.append(cluster("ipv6", [endpoint(tcp(host.origin.port, "::1"))]))
            self.port6 = free_port()
            listeners["ipv6"] = Listener(address=tcp(self.port6, "::1"))
        routes = [route(f"/{each['name']}/", each["name"]) for each in clusters]
        return Plan(listeners, clusters=clusters, routes=routes)

    def _unix_host(self, directory: Path) -> Path:
        path = directory / "origin.sock"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
        self._host(5, listening)
        return path


def _dns(family: str) -> Json:
    return {"type": "STRICT_DNS", "dns_lookup_family": family}


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack, tmp_path_factory.mktemp("p"))


def ask(client: RawClient, path: str) -> str:
    """The number of the host that has answered."""
    before = len(client.received)
    client.send(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert client.read_response()
    response = client.received[before:]
    assert response.startswith(b"HTTP/1.1 200 OK\r\n"), response
    return response[head_end(response) :].decode()


def hosts(scene: Scene, cluster_name: str, requests: int) -> list[str]:
    """Who answers so many requests, one after the other."""
    with scene.stage.client() as client:
        return [ask(client, f"/{cluster_name}/") for _ in range(requests)]


# --- balancing


def test_round_robin_takes_one_host_after_the_other(scene: Scene) -> None:
    found = hosts(scene, "round", 30)
    assert Counter(found) == {"0": 10, "1": 10, "2": 10}
    assert found[:27] == found[3:]


def test_round_robin_by_weight_gives_each_host_its_share(scene: Scene) -> None:
    found = hosts(scene, "weighted", 60)
    assert Counter(found) == {"0": 10, "1": 20, "2": 30}
    assert "222" not in "".join(found)  # spread, not in a row


def test_random_gives_about_equal_shares_in_no_order(scene: Scene) -> None:
    found = hosts(scene, "random", 300)
    shares = Counter(found)
    assert set(shares) == {"0", "1", "2"}
    assert all(60 <= share <= 140 for share in shares.values()), shares  # 100, five times the standard deviation
    assert found[:297] != found[3:]


def test_least_request_avoids_the_host_that_has_most_to_do(scene: Scene) -> None:
    busy = scene.shared[0]
    with ExitStack() as stack:
        waiting = []
        while busy.origin.active < 6:
            client = stack.enter_context(scene.stage.client(timeout_s=TIMEOUT_S))
            client.send(b"GET /least/hold HTTP/1.1\r\nhost: a\r\n\r\n")
            client.read_available(0.05)  # answered at once, by another host, or held
            waiting.append(client)
        shares = Counter(hosts(scene, "least", 90))
        busy.release()
        assert all(client.received or client.read_response() for client in waiting)
    # Two hosts are drawn and the one with fewer requests is taken: the busy one only when drawn twice.
    assert shares["0"] < 30, shares
    assert min(shares["1"], shares["2"]) > 20, shares


def test_an_unhealthy_host_gets_nothing(scene: Scene) -> None:
    assert Counter(hosts(scene, "sick", 20)) == {"1": 10, "2": 10}


def test_a_cluster_without_hosts_is_503(scene: Scene) -> None:
    response = scene.stage.exchange(b"GET /empty/ HTTP/1.1\r\nhost: a\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 503 ")
    assert response.endswith(b"no healthy upstream")
    assert scene.stage.log("/empty/")["flags"] == "UH"


# --- connections


def test_requests_one_after_the_other_share_a_connection(scene: Scene) -> None:
    for _ in range(5):
        hosts(scene, "reuse", 10)
    host = scene.single["reuse"].origin
    assert (host.total, host.connections) == (50, 1)
    scene.stage.wait_stats({"cluster.reuse.upstream_cx_total": 1, "cluster.reuse.upstream_rq_total": 50})


def test_requests_at_once_have_a_connection_each_and_it_is_kept(scene: Scene) -> None:
    host = scene.single["many"].origin
    with ExitStack() as stack:
        clients = [stack.enter_context(scene.stage.client()) for _ in range(8)]
        for client in clients:
            client.send(b"GET /many/ HTTP/1.1\r\nhost: a\r\n\r\n")
        assert all(client.read_response() for client in clients)
        connections = host.connections
        assert 1 <= connections <= 8
        for client in clients:
            ask(client, "/many/")
    assert host.connections == connections
    assert host.open_connections() == connections


def test_an_idle_upstream_connection_is_closed(scene: Scene) -> None:
    host = scene.single["idle"].origin
    hosts(scene, "idle", 3)
    assert host.connections == 1
    wait_until(lambda: not host.open_connections(), 5.0, "the end of the idle connection")
    scene.stage.wait_stats({"cluster.idle.upstream_cx_idle_timeout": 1, "cluster.idle.upstream_cx_active": 0})
    hosts(scene, "idle", 1)
    assert host.connections == 2


def test_an_upstream_connection_carries_so_many_requests(scene: Scene) -> None:
    hosts(scene, "two", 6)
    assert scene.single["two"].origin.connections == 3
    scene.stage.wait_stats({"cluster.two.upstream_cx_max_requests": 3})


# --- addresses


def test_a_name_is_resolved(scene: Scene) -> None:
    assert hosts(scene, "dns", 3) == ["7"] * 3
    assert f"dns::127.0.0.1:{scene.single['dns'].origin.port}::" in _clusters(scene)


def _clusters(scene: Scene) -> str:
    with RawClient(scene.stage.admin) as client:
        client.send(b"GET /clusters HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        client.read_to_close()
        return client.received.decode()


def test_a_name_that_does_not_resolve_is_503(scene: Scene) -> None:
    response = scene.stage.exchange(b"GET /nowhere/ HTTP/1.1\r\nhost: a\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 503 ")
    assert response.endswith(b"no healthy upstream")


def test_an_origin_may_be_behind_a_unix_socket(scene: Scene) -> None:
    assert hosts(scene, "unix", 3) == ["5"] * 3


def test_a_listener_may_be_a_unix_socket(scene: Scene) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(str(scene.socket))
        for _ in range(2):
            client.sendall(b"GET /unix/ HTTP/1.1\r\nhost: a\r\n\r\n")
            assert _read_one(client).endswith(b"\r\n\r\n5")


def _read_one(client: socket.socket) -> bytes:
    """A response with a body of one byte."""
    received = b""
    while head_end(received) < 0 or len(received) == head_end(received):
        data = client.recv(65536)
        assert data, received
        received += data
    return received


@pytest.mark.skipif(not ipv6(), reason="this machine has no IPv6 loopback address")
def test_ipv6_on_both_sides(scene: Scene) -> None:
    with socket.create_connection(("::1", scene.port6), TIMEOUT_S) as client:
        client.sendall(b"GET /ipv6/ HTTP/1.1\r\nhost: a\r\n\r\n")
        assert _read_one(client).endswith(b"\r\n\r\n6")
    assert scene.stage.log("/ipv6/", "ipv6")["status"] == 200

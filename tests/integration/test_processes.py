"""Real processes: workers are killed, the proxy is told to stop, and what was accepted is served all the same."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.proxy import HELLO, Proxy
from tests.support.client import RawClient
from tests.support.origin import Answer, Origin, Pause, Send
from tests.support.processes import wait_until

SLOW = Answer([Pause(0.5), Send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")])


def test_a_killed_worker_is_replaced_and_counters_do_not_go_backwards(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        for _ in range(10):
            assert proxy.hello() == b"hello"
        assert proxy.stat("http.ingress.downstream_rq_total") == 10
        victim = proxy.workers()[0]
        victim.kill()
        proxy.wait_workers(2, without={victim.pid})
        assert proxy.stat("server.worker_restarts") == 1
        assert proxy.stat("http.ingress.downstream_rq_total") == 10
        for _ in range(10):
            assert proxy.hello() == b"hello"
        assert proxy.stat("http.ingress.downstream_rq_total") == 20
        assert proxy.stat("http.ingress.downstream_cx_active") == 0
        assert re.search(r"worker 0 ended after .* s: killed by SIGKILL; its successor starts", proxy.process.output())


def test_what_waits_in_a_dead_workers_accept_queue_is_served_by_its_successor(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        (worker,) = proxy.workers()
        worker.suspend()
        clients = [RawClient(proxy.port, timeout_s=10.0) for _ in range(5)]
        for client in clients:
            client.send(HELLO)
        worker.kill()
        for client in clients:
            assert client.read_response()
            assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
            client.close()


def test_sigterm_finishes_what_is_in_flight_tells_clients_to_close_and_exits_with_0(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, workers=2, origin=origin.port) as proxy:
        origin.play([SLOW])
        with RawClient(proxy.port) as client:
            client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            origin.wait_requests(1)
            proxy.process.signal(signal.SIGTERM)
            assert client.read_response()
            assert client.received.endswith(b"slow")
            assert b"\r\nconnection: close\r\n" in client.received
            assert client.read_to_close()
        assert proxy.process.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 1.0)


def test_readiness_fails_while_draining(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, origin=origin.port) as proxy:
        origin.play([SLOW])
        with RawClient(proxy.port) as client, RawClient(proxy.admin) as admin:
            client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            origin.wait_requests(1)
            proxy.process.signal(signal.SIGTERM)
            wait_until(lambda: "draining 1 workers" in proxy.process.output(), 2.0)
            admin.send(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n")
            assert admin.read_response()
            assert admin.received.startswith(b"HTTP/1.1 503 ")
            assert admin.received.endswith(b"\r\n\r\nDRAINING\n")
        assert proxy.process.wait() == 0


def test_what_is_queued_at_sigterm_is_served_and_not_reset(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        (worker,) = proxy.workers()
        worker.suspend()
        clients = [RawClient(proxy.port, timeout_s=10.0) for _ in range(5)]
        for client in clients:
            client.send(HELLO)
        proxy.process.signal(signal.SIGTERM)
        wait_until(lambda: "draining 1 workers" in proxy.process.output(), 2.0)
        worker.resume()
        for client in clients:
            assert client.read_response()
            assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
            client.close()
        assert proxy.process.wait() == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, origin=origin.port) as proxy:
        origin.play([Answer([Pause(60.0)])])
        with RawClient(proxy.port) as client:
            client.send(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n")
            origin.wait_requests(1)
            proxy.process.signal(signal.SIGINT)
            wait_until(lambda: "draining 1 workers" in proxy.process.output(), 2.0)
            assert proxy.process.running()
            proxy.process.signal(signal.SIGINT)
            assert proxy.process.wait() == 0


def test_the_drain_time_bounds_the_drain(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, "--drain-time-s", "1", origin=origin.port) as proxy:
        origin.play([Answer([Pause(60.0)])])
        with RawClient(proxy.port) as client:
            client.send(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n")
            origin.wait_requests(1)
            proxy.process.signal(signal.SIGTERM)
            assert proxy.process.wait() == 0
        assert "the drain time of 1 s is over; closing 1 connections" in proxy.process.output()


def test_when_the_main_process_is_killed_workers_finish_and_leave_and_the_port_is_free(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, workers=2, origin=origin.port) as proxy:
        origin.play([SLOW])
        with RawClient(proxy.port) as client:
            client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            origin.wait_requests(1)
            workers = proxy.workers()
            proxy.process.signal(signal.SIGKILL)
            assert client.read_response()
            assert client.received.endswith(b"slow")
        gone, alive = psutil.wait_procs(workers, timeout=5.0)
        assert (len(gone), alive) == (2, [])
        with socket.create_server(("127.0.0.1", proxy.port)):
            pass


def test_a_stuck_worker_does_not_block_the_admin_pages(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        for _ in range(4):
            proxy.hello()
        before = proxy.stat("http.ingress.downstream_rq_total")
        stuck = proxy.workers()[0]
        stuck.suspend()
        try:
            started = time.monotonic()
            assert proxy.stat("http.ingress.downstream_rq_total") == before
            for path in ("/clusters", "/stats/prometheus", "/server_info", "/listeners", "/config_dump", "/ready"):
                proxy.get(path)
            assert time.monotonic() - started < 3.0
            wait_until(lambda: proxy.stat("server.worker_0.watchdog_mega_miss") == 1, 5.0, "a missed heartbeat")
        finally:
            stuck.resume()


def test_an_idle_keep_alive_connection_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy, RawClient(proxy.port) as client:
        client.send(HELLO)
        assert client.read_response()
        proxy.process.signal(signal.SIGTERM)
        assert client.read_to_close()
        assert proxy.process.wait() == 0


def test_processes_are_called_what_they_are(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        assert psutil.Process(proxy.process.pid).cmdline()[0] == "workerproxy: main"
        assert [worker.cmdline()[0] for worker in proxy.workers()] == ["workerproxy: worker 0", "workerproxy: worker 1"]


def test_a_worker_inherits_nothing_but_its_pipe(tmp_path: Path) -> None:
    """Of sockets, that is: the pipe, its own listening socket, and no other's."""
    with Proxy(tmp_path, workers=2) as proxy:
        listening = {number: _listening_inodes(worker.pid) for number, worker in enumerate(proxy.workers())}
        assert [len(inodes) for inodes in listening.values()] == [1, 1]
        assert listening[0].isdisjoint(listening[1])


def _listening_inodes(pid: int) -> set[str]:
    sockets = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if _is_socket(link)}
    listening = {
        f"socket:[{line.split()[9]}]"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    return sockets & listening


def _is_socket(link: Path) -> bool:
    try:
        return link.readlink().name.startswith("socket:")
    except FileNotFoundError:
        return False

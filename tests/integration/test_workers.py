"""Workers that hang, crash again and again, become more and fewer, and are replaced one by one."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.integration.proxy import HELLO, Proxy
from tests.support.client import RawClient
from tests.support.origin import Answer, Origin, Pause, Send
from tests.support.processes import http_post, wait_until

WATCHDOG = "watchdogs: {worker_watchdog: {miss_timeout: 0.1s, megamiss_timeout: 0.3s, kill_timeout: 1.5s}}\n"
SLOW = Answer([Pause(1.0), Send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")])


def listening_sockets(pid: int) -> set[str]:
    """The inodes of the listening TCP sockets a process has."""
    listening = {
        f"socket:[{line.split()[9]}]"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    return listening & {link for fd in Path(f"/proc/{pid}/fd").iterdir() if (link := _target(fd))}


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:
        return ""


def test_a_stopped_worker_is_replaced_after_the_kill_timeout_and_its_queue_is_served(tmp_path: Path) -> None:
    with Proxy(tmp_path, before=WATCHDOG) as proxy:
        (worker,) = proxy.workers()
        worker.suspend()
        clients = [RawClient(proxy.port, timeout_s=10.0) for _ in range(3)]
        for client in clients:
            client.send(HELLO)
        for client in clients:
            assert client.read_response()
            assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
            client.close()
        assert f"worker 0 (pid {worker.pid}, stopped) has not answered for 0.3 s" in proxy.process.output()
        assert f"worker 0 (pid {worker.pid}) has not answered for 1." in proxy.process.output()
        assert proxy.stat("server.worker_restarts") == 1
        assert proxy.stat("server.worker_0.watchdog_mega_miss") == 1


def test_while_a_worker_hangs_the_others_serve_what_waits_for_it(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2, before=WATCHDOG.replace("1.5s", "0s")) as proxy:
        hung = proxy.workers()[0]
        hung.suspend()
        clients = [RawClient(proxy.port, timeout_s=5.0) for _ in range(20)]
        for client in clients:
            client.send(HELLO)
        for client in clients:
            assert client.read_response()
            client.close()
        assert [row["sockets"] for row in proxy.worker_rows()] == [0, 2]
        hung.resume()
        wait_until(lambda: [row["sockets"] for row in proxy.worker_rows()] == [1, 1], 5.0, "its own socket again")
        assert {proxy.hello() for _ in range(20)} == {b"hello"}
        assert proxy.stat("server.worker_restarts") == 0


def test_a_worker_that_is_busy_for_too_long_is_shown_with_its_stack(tmp_path: Path) -> None:
    with Proxy(tmp_path, module="tests.integration.hanging_worker", before=WATCHDOG) as proxy:
        with RawClient(proxy.port) as client:
            client.send(b"GET /hello HTTP/1.1\r\nhost: a\r\nx-hang: yes\r\n\r\n")
            proxy.process.wait_output("and replaced")
        output = proxy.process.output()
        assert "what it is doing:" in output
        assert re.search(r'hanging_worker\.py", line \d+ in hang_for_good', output)
        wait_until(lambda: proxy.get("/ready") == "LIVE\n" and proxy.worker_rows()[0]["state"] == "serving", 10.0)
        assert proxy.hello() == b"hello"


def test_a_late_worker_is_not_killed_when_the_kill_timeout_is_0(tmp_path: Path) -> None:
    never = WATCHDOG.replace("1.5s", "0s")
    with Proxy(tmp_path, before=never) as proxy:
        (worker,) = proxy.workers()
        worker.suspend()
        proxy.process.wait_output("has not answered for 0.3 s")
        wait_until(lambda: proxy.stat("server.worker_0.loop_lag_ms") > 1000, 5.0)
        worker.resume()
        assert proxy.hello() == b"hello"
        assert proxy.stat("server.worker_restarts") == 0


def test_while_a_crashing_worker_is_throttled_the_others_serve_what_waits_on_its_socket(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        for _ in range(3):
            victim = proxy.worker_rows()[0]["pid"]
            psutil.Process(victim).kill()
            wait_until(lambda: proxy.worker_rows()[0]["pid"] != victim, 5.0)  # noqa: B023 - called at once
            if proxy.worker_rows()[0]["state"] == "throttled":
                break
            proxy.wait_workers(2)
        proxy.process.wait_output("its successor starts in")
        first, second = proxy.worker_rows()
        if first["state"] == "throttled":  # else its pause is over already
            assert second["sockets"] == 2
        assert {proxy.hello() for _ in range(20)} == {b"hello"}
        assert proxy.get("/ready") == "LIVE\n"
        proxy.wait_workers(2)
        wait_until(lambda: [row["sockets"] for row in proxy.worker_rows()] == [1, 1], 5.0, "its own socket again")


def test_without_any_worker_the_proxy_is_not_ready_and_says_so(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        for deaths in range(1, 6):
            (worker,) = proxy.workers()
            worker.kill()
            wait_until(lambda: proxy.process.output().count("its successor starts") == deaths, 5.0)  # noqa: B023
            if "its successor starts in" in proxy.process.output():
                break  # the third quick death in a row
            proxy.wait_workers(1, without={worker.pid})
        with RawClient(proxy.admin) as admin:
            admin.send(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n")
            assert admin.read_response()
            assert admin.received.startswith(b"HTTP/1.1 503 ")
            assert admin.received.endswith(b"INITIALIZING\n")
        assert proxy.hello() == b"hello"  # it waits in the accept queue for the successor
        assert proxy.get("/ready") == "LIVE\n"


def test_more_and_fewer_workers_by_admin_and_by_signal(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5", workers=2) as proxy:
        assert proxy.post("/workers?count=4") == b"2 workers -> 4\n"
        assert [row["state"] for row in proxy.worker_rows()] == ["serving"] * 4
        assert proxy.stat("server.concurrency") == 4
        proxy.process.signal(signal.SIGTTOU)
        wait_until(lambda: proxy.serving() == 3, 5.0)
        proxy.process.signal(signal.SIGTTIN)
        wait_until(lambda: proxy.serving() == 4, 5.0)
        assert proxy.post("/workers?count=4") == b"there are 4 workers\n"
        assert {proxy.hello() for _ in range(20)} == {b"hello"}


def test_what_a_leaving_worker_has_is_finished_and_its_socket_is_read_by_another(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, "--drain-time-s", "10", workers=2, origin=origin.port) as proxy:
        origin.play([SLOW] * 8)
        sockets = listening_sockets(proxy.process.pid)
        clients = [RawClient(proxy.port, timeout_s=10.0) for _ in range(8)]
        for client in clients:
            client.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        origin.wait_requests(8)
        leaving = proxy.workers()[1]
        assert proxy.post("/workers?count=1") == b"2 workers -> 1\n"
        assert any(row["state"] == "leaving" for row in proxy.worker_rows())
        title = f"workerproxy: worker 1 (draining, {proxy.worker_rows()[-1]['connections']} connections)"
        assert leaving.cmdline()[0] == title
        for client in clients:
            assert client.read_response()
            assert client.received.endswith(b"slow")
            client.close()
        leaving.wait(5.0)
        (row,) = proxy.worker_rows()
        assert row["sockets"] == 2
        assert listening_sockets(proxy.process.pid) == sockets  # none was closed
        assert {proxy.hello() for _ in range(20)} == {b"hello"}


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("0", "0 workers are not possible"),
        ("129", "129 workers are not possible"),
        ("x", "is not a number"),
        ("", "no"),
    ],
)
def test_a_number_of_workers_that_cannot_be_is_refused(tmp_path: Path, count: str, why: str) -> None:
    with Proxy(tmp_path) as proxy:
        status, body = http_post(proxy.admin, f"/workers?count={count}")
        assert status == 400
        assert why in body
        assert http_post(proxy.admin, "/workers?count=1")[0] == 200
        assert len(proxy.worker_rows()) == 1


def test_get_does_not_scale(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy, RawClient(proxy.admin) as admin:
        admin.send(b"GET /workers?count=2 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert admin.read_response()
        assert admin.received.startswith(b"HTTP/1.1 405 ")
        assert len(proxy.worker_rows()) == 1


def test_a_roll_gives_every_worker_a_new_process_and_keeps_the_counters(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5", workers=2) as proxy:
        for _ in range(10):
            assert proxy.hello() == b"hello"
        before = [worker.pid for worker in proxy.workers()]
        shown = set(re.findall(r"^([\w.]+): ", proxy.get("/stats"), re.MULTILINE))
        lines = proxy.post("/roll").decode().splitlines()
        after = [row["pid"] for row in proxy.worker_rows() if row["state"] == "serving"]
        assert lines == [f"worker {number}: pid {before[number]} -> {after[number]}" for number in range(2)]
        assert set(before).isdisjoint(after)
        for _ in range(10):
            assert proxy.hello() == b"hello"
        assert proxy.stat("http.ingress.downstream_rq_total") == 20
        assert set(re.findall(r"^([\w.]+): ", proxy.get("/stats"), re.MULTILINE)) == shown  # the probe left no trace
        wait_until(lambda: proxy.serving() == len(proxy.worker_rows()) == 2, 5.0, "the old ones to leave")


def test_a_roll_ends_at_a_worker_that_is_of_no_use_and_the_old_ones_go_on(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2, module="tests.integration.useless_successor") as proxy:
        before = [worker.pid for worker in proxy.workers()]
        status, body = http_post(proxy.admin, "/roll", timeout_s=30.0)
        assert status == 500
        assert "the roll ends here, the old worker goes on" in body
        assert [row["pid"] for row in proxy.worker_rows() if row["state"] == "serving"] == before
        assert {proxy.hello() for _ in range(10)} == {b"hello"}


def test_each_worker_has_a_processor_with_cpu_affinity(tmp_path: Path) -> None:
    usable = sorted(psutil.Process().cpu_affinity())
    with Proxy(tmp_path, "--cpu-affinity", workers=2) as proxy:
        expected = [[usable[number % len(usable)]] for number in range(2)]
        assert [worker.cpu_affinity() for worker in proxy.workers()] == expected


def test_the_workers_page_shows_what_the_system_says(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy, socket.create_connection(("127.0.0.1", proxy.port)):
        wait_until(lambda: sum(row["connections"] for row in proxy.worker_rows()) == 1, 5.0, "the heartbeat")
        page = json.loads(proxy.get("/workers?format=json"))
        assert page["main_pid"] == proxy.process.pid
        for row in page["workers"]:
            assert {"cpu_s", "rss_bytes", "descriptors", "threads", "requests", "lag_ms"} <= row.keys()
            assert row["rss_bytes"] > 1 << 20
            assert row["threads"] >= 1

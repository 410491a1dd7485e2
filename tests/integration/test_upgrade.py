"""One program hands over to the next: by signal, by admin page, and in Envoy's way by epochs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.proxy import HELLO, Proxy
from tests.support.client import RawClient
from tests.support.origin import Answer, Origin, Pause, Send
from tests.support.ports import free_port
from tests.support.processes import Process, http_get, http_post, wait_until
from tests.support.workerproxy import ROOT

SLOW = Answer([Pause(1.0), Send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")])


def main_pid(proxy: Proxy) -> int:
    return int(proxy.json("/workers?format=json")["main_pid"])


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == "zombie"
    except psutil.NoSuchProcess:
        return True


def test_the_new_program_serves_on_the_same_sockets_and_goes_on_counting(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, "--drain-time-s", "10", workers=2, origin=origin.port) as proxy:
        origin.play([SLOW])
        for _ in range(10):
            assert proxy.hello() == b"hello"
        before, port, workers = main_pid(proxy), proxy.port, proxy.workers()
        with RawClient(proxy.port, timeout_s=10.0) as slow:
            slow.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            origin.wait_requests(1)
            status, body = http_post(proxy.admin, "/upgrade", timeout_s=30.0)
            assert (status, body) == (200, f"process {main_pid(proxy)} serves now\n")
            assert main_pid(proxy) != before
            assert proxy.get("/listeners") == f"main::127.0.0.1:{port}\n"
            for _ in range(10):
                assert proxy.hello() == b"hello"
            assert proxy.stat("http.ingress.downstream_rq_total") == 21
            assert proxy.stat("server.hot_restart_epoch") == 1
            wait_until(lambda: proxy.stat("server.parent_connections") == 1, 5.0)
            assert slow.read_response()
            assert slow.received.endswith(b"slow")
        psutil.wait_procs(workers, timeout=5.0)
        assert not any(worker.is_running() for worker in workers)
        wait_until(lambda: proxy.stat("server.parent_connections") == 0, 5.0)
        assert proxy.stat("http.ingress.downstream_rq_total") == 21


def test_whoever_started_it_keeps_its_process_which_passes_signals_on_and_ends_with_it(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5", workers=1) as proxy:
        started = proxy.process.pid
        for _ in range(2):
            before = main_pid(proxy)
            proxy.process.signal(signal.SIGUSR2)
            wait_until(lambda: main_pid(proxy) != before, 20.0, "the successor")  # noqa: B023 - called at once
            wait_until(lambda: gone(before) or before == started, 10.0, "the end of the predecessor")  # noqa: B023
        wait_until(lambda: psutil.Process(started).cmdline()[:1] == ["workerproxy: keeper"], 10.0)
        proxy.configure(hello="changed")
        proxy.process.signal(signal.SIGHUP)
        wait_until(lambda: proxy.hello() == b"changed", 5.0)
        last = main_pid(proxy)
        proxy.process.signal(signal.SIGTERM)
        assert proxy.process.wait(10.0) == 0
        assert gone(last)


def test_the_number_of_workers_and_the_configuration_of_now_are_taken_along(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5", workers=1) as proxy:
        proxy.post("/workers?count=3")
        proxy.configure(hello="from the file")
        assert http_post(proxy.admin, "/upgrade", timeout_s=30.0)[0] == 200
        assert proxy.hello() == b"from the file"
        assert proxy.serving() == 3


def test_a_program_that_cannot_serve_changes_nothing(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        before, workers = main_pid(proxy), [worker.pid for worker in proxy.workers()]
        proxy.configure(append="  clusterz: []\n")
        status, body = http_post(proxy.admin, "/upgrade", timeout_s=30.0)
        assert status == 500
        assert body.startswith("upgrade failed, everything goes on as it was: ")
        assert "clusterz" in proxy.process.output()
        assert main_pid(proxy) == before
        assert [worker.pid for worker in proxy.workers()] == workers
        assert {proxy.hello() for _ in range(10)} == {b"hello"}
        proxy.configure(hello="mended")
        assert http_post(proxy.admin, "/upgrade", timeout_s=30.0)[0] == 200
        assert proxy.hello() == b"mended"


def test_the_reason_of_a_program_that_cannot_bind_is_told_to_whoever_asked(tmp_path: Path) -> None:
    with Origin() as other, Proxy(tmp_path) as proxy:
        proxy.configure(port=other.port)
        status, body = http_post(proxy.admin, "/upgrade", timeout_s=30.0)
        assert status == 500
        assert f"cannot listen on 127.0.0.1:{other.port}" in body
        assert proxy.hello() == b"hello"


def test_a_listener_the_new_configuration_has_no_more_drains(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "10") as proxy, RawClient(proxy.port, timeout_s=10.0) as kept:
        kept.send(HELLO)
        assert kept.read_response()
        new = free_port()
        proxy.configure(hello="moved", port=new)
        assert http_post(proxy.admin, "/upgrade", timeout_s=30.0)[0] == 200
        proxy.port = new
        assert proxy.hello() == b"moved"
        assert kept.read_to_close()


def test_a_restarted_successor_of_a_killed_worker_reads_the_same_sockets(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5") as proxy:
        assert http_post(proxy.admin, "/upgrade", timeout_s=30.0)[0] == 200
        (worker,) = proxy.workers()
        worker.suspend()
        with RawClient(proxy.port, timeout_s=10.0) as client:
            client.send(HELLO)
            worker.kill()
            assert client.read_response()
            assert client.received.endswith(b"hello")


def test_a_stop_after_an_upgrade_waits_for_what_the_older_program_still_has(tmp_path: Path) -> None:
    with Origin() as origin, Proxy(tmp_path, "--drain-time-s", "20", origin=origin.port) as proxy:
        origin.play([Answer([Pause(3.0), Send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")])])
        with RawClient(proxy.port, timeout_s=15.0) as slow:
            slow.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            origin.wait_requests(1)
            assert http_post(proxy.admin, "/upgrade", timeout_s=30.0)[0] == 200
            last = main_pid(proxy)
            proxy.process.signal(signal.SIGTERM)
            proxy.process.wait_output("to finish", timeout_s=10.0)
            assert psutil.pid_exists(last)
            assert slow.read_response()
            assert slow.received.endswith(b"slow")
        assert proxy.process.wait(10.0) == 0


@pytest.mark.parametrize("wait_s", [0.05, 0.3, 0.6, 0.8, 1.0])
def test_a_stop_in_the_middle_of_an_upgrade_ends_all_of_it(tmp_path: Path, wait_s: float) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5") as proxy:
        proxy.process.signal(signal.SIGUSR2)
        proxy.process.wait_output("starts")
        time.sleep(wait_s)  # wherever in the hand-over that is
        proxy.process.signal(signal.SIGTERM)
        assert proxy.process.wait(15.0) == 0
        wait_until(lambda: not proxy.accepts(), 5.0, "the end of whoever listens")


class Epoch(Process):
    """A program of a hot restart, as a wrapper starts it."""

    def __init__(self, config: Path, base_id: int, epoch: int, *more: str) -> None:
        argv = [sys.executable, "-m", "workerproxy", "-c", str(config), "--concurrency", "2"]
        argv += ["--base-id", str(base_id), "--restart-epoch", str(epoch), "--drain-time-s", "20"]
        super().__init__([*argv, *more], env={"PYTHONPATH": str(ROOT)})


def test_epochs_hand_over_through_the_domain_socket(tmp_path: Path) -> None:
    base_id = free_port()
    with Proxy(tmp_path, "--base-id", str(base_id), "--drain-time-s", "20", workers=2) as proxy:
        config = tmp_path / "proxy.yaml"
        with RawClient(proxy.port, timeout_s=20.0) as idle:
            idle.send(HELLO)
            assert idle.read_response()
            first = main_pid(proxy)
            with Epoch(config, base_id, 1, "--parent-shutdown-time-s", "2") as second:
                wait_until(lambda: main_pid(proxy) == second.pid, 20.0, "the second epoch")
                assert proxy.hello() == b"hello"
                assert proxy.stat("server.hot_restart_epoch") == 1
                assert proxy.stat("http.ingress.downstream_rq_total") == 2
                assert idle.read_to_close()  # at the latest after the parent shutdown time
                assert proxy.process.wait(10.0) == 0
                assert gone(first) or proxy.process.popen.returncode == 0
                with Epoch(config, base_id, 2, "--skip-hot-restart-parent-stats") as third:
                    wait_until(lambda: main_pid(proxy) == third.pid, 20.0, "the third epoch")
                    assert proxy.hello() == b"hello"
                    assert proxy.stat("http.ingress.downstream_rq_total") == 1


def test_an_epoch_without_a_predecessor_does_not_start_unless_that_is_allowed(tmp_path: Path) -> None:
    with Proxy(tmp_path) as proxy:
        config = tmp_path / "alone.yaml"
        text = (tmp_path / "proxy.yaml").read_text()
        admin = free_port()
        config.write_text(text.replace(str(proxy.admin), str(admin)))
        base_id = free_port()
        with Epoch(config, base_id, 1) as alone:
            assert alone.wait(20.0) == 1
            assert f"no program with base id {base_id} and epoch 0 answers" in alone.output()
        with Epoch(config, base_id, 1, "--skip-hot-restart-on-no-parent") as alone:
            wait_until(lambda: http_get(admin, "/ready")[0] == 200, 20.0)
            assert "starting anew" in alone.output()


def test_two_programs_cannot_have_one_base_id_and_a_dynamic_one_is_written_down(tmp_path: Path) -> None:
    chosen = tmp_path / "base-id"
    with Proxy(tmp_path, "--use-dynamic-base-id", "--base-id-path", str(chosen)) as proxy:
        config = tmp_path / "other.yaml"
        config.write_text((tmp_path / "proxy.yaml").read_text().replace(str(proxy.admin), str(free_port())))
        argv = [sys.executable, "-m", "workerproxy", "-c", str(config), "--base-id", chosen.read_text()]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
        assert done.returncode == 1
        assert "another program with this base id runs (see --base-id)" in done.stderr
        assert json.loads(proxy.get("/server_info"))["command_line_options"]["use_dynamic_base_id"]


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.1, 0.2, 0.3])
def test_a_new_program_that_is_killed_before_it_serves_takes_nothing_from_the_old_one(
    tmp_path: Path, wait_s: float
) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5", workers=2) as proxy:
        first = main_pid(proxy)
        proxy.process.signal(signal.SIGUSR2)
        wait_until(lambda: proxy.process.output().count(") starts 2 workers") == 2, 15.0, "the new program's workers")
        new = int(re.findall(r"upgrade: .* \(pid (\d+)\) starts", proxy.process.output())[0])
        time.sleep(wait_s)  # wherever it is: workers come up, prepare, have the sockets
        psutil.Process(new).kill()
        time.sleep(0.5)  # for its orphans to notice
        if main_pid(proxy) == new:
            return  # it was quicker: the upgrade was over
        assert {proxy.hello() for _ in range(20)} == {b"hello"}
        assert main_pid(proxy) == first
        wait_until(lambda: "everything goes on as it was" in proxy.process.output(), 10.0)


def test_an_old_program_that_is_killed_in_the_hand_over_takes_nothing_from_the_new_one(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "5", workers=2) as proxy, RawClient(proxy.port) as kept:
        kept.send(HELLO)
        assert kept.read_response()
        first = main_pid(proxy)
        proxy.process.signal(signal.SIGUSR2)
        proxy.process.wait_output("draining 2 workers", timeout_s=15.0)
        psutil.Process(first).kill()
        wait_until(lambda: http_get(proxy.admin, "/ready")[0] == 200 and main_pid(proxy) != first, 10.0)
        new = psutil.Process(main_pid(proxy))
        try:
            wait_until(lambda: {proxy.hello() for _ in range(5)} == {b"hello"}, 5.0)
        finally:
            new.terminate()
            psutil.wait_procs([new], timeout=10.0)

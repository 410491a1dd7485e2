"""What an operator does in the middle of the day, under continuous load: no client notices.

Each scenario prints one line with the requests, the failures by kind and the first reasons (``pytest -rP`` shows them).
What may fail: requests in flight on a worker that is killed. Everything else: nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.checked_connection import CheckedConnection, Kind
from tests.support.load import BUSY_MIX, SMALL_MIX, ContinuousLoad, stream_request
from tests.support.operations import RunningProxy, essence, variations, wait_ended
from tests.support.ports import free_port
from tests.support.processes import wait_until

pytestmark = pytest.mark.slow

KILLS: Final = 20
RELOADS: Final = 50
LISTENER_RELOADS: Final = 20  # half of them add one, half remove it
UPGRADES: Final = 10
FAILED_UPGRADES: Final = 5
ROLLS: Final = 10
SCALES: Final = 10  # 2 -> 4 -> 2
TERMINATIONS: Final = 4

WARM_UP: Final = 400  # requests before the first operation
BETWEEN: Final = 30  # requests from one operation to the next, at least
BETWEEN_KILLS: Final = 250
UNTIL_SPREAD: Final = 200  # until further workers have connections too
STUCK_S: Final = 0.6
DRAIN_TIME_S: Final = 15
DRAIN_SOON: Final = ("--drain-time-s", str(DRAIN_TIME_S), "--drain-strategy", "immediate")
SLOW_ANSWER_S: Final = 6.0  # longer than a main process needs to start


def test_sigkill_of_workers_costs_only_what_was_in_flight_on_them(tmp_path: Path) -> None:
    rng = random.Random(20)
    counted = 0
    with RunningProxy(tmp_path, workers=4) as proxy:
        with ContinuousLoad(proxy.port) as load:
            load.wait_requests(WARM_UP)
            for _ in range(KILLS):
                killed = proxy.kill_random_worker(rng)
                load.ledger.worker_killed(killed.client_ports)
                load.wait_requests(BETWEEN_KILLS)
                proxy.wait_serving(2, or_more=True)  # who is killed too often comes back later
                before, counted = counted, proxy.stat("http.main.downstream_rq_total")
                assert counted >= before
            proxy.wait_serving(4)
        print(load.report(f"{KILLS} x SIGKILL"))
        assert load.ledger.others() == []
        assert load.ledger.count(Kind.REFUSED, Kind.RESET_BEFORE_REQUEST) == 0
        assert proxy.stat("server.worker_restarts") == KILLS


def test_reloads_cost_nothing(tmp_path: Path) -> None:
    with RunningProxy(tmp_path) as proxy, ContinuousLoad(proxy.port) as load:
        changes = itertools.cycle(variations(proxy))
        load.wait_requests(WARM_UP)
        for number in range(RELOADS):
            answer = proxy.apply(**next(changes)(number))
            assert answer["changes"], answer
            assert proxy.marker() == f"version {proxy.site.version}"
            load.wait_requests(BETWEEN)
    finish(load, f"{RELOADS} reloads of routes, clusters, hosts and filters")


def test_listeners_that_come_and_go_cost_nothing_on_what_stays_nor_on_them(tmp_path: Path) -> None:
    guests: list[ContinuousLoad] = []  # one load for each listener that comes
    with (
        RunningProxy(tmp_path, *DRAIN_SOON) as proxy,
        ContinuousLoad(proxy.port) as load,
        contextlib.ExitStack() as visits,
    ):
        load.wait_requests(WARM_UP)
        staying = proxy.site.listeners
        for number in range(LISTENER_RELOADS // 2):
            port = free_port()
            proxy.apply(listeners=staying | {f"extra{number}": port})
            guests.append(visits.enter_context(ContinuousLoad(port, SMALL_MIX, seed=number)))
            guests[-1].wait_requests(BETWEEN)
            load.wait_requests(BETWEEN)
            guests[-1].expect_the_end()
            proxy.apply(listeners=staying)
            load.wait_requests(BETWEEN)
        for visit in guests:
            visit.wait_clients(timeout_s=15.0)
    for number, visit in enumerate(guests):
        print(visit.report(f"listener {number}, added and removed"))
    finish(load, f"{LISTENER_RELOADS} reloads that add and remove listeners")
    assert [failure for visit in guests for failure in visit.ledger.failures()] == []


def test_upgrades_cost_nothing(tmp_path: Path) -> None:
    with RunningProxy(tmp_path, *DRAIN_SOON) as proxy, ContinuousLoad(proxy.port) as load:
        load.wait_requests(WARM_UP)
        for _ in range(UPGRADES):
            proxy.upgrade()
            load.wait_requests(BETWEEN)
        proxy.wait_settled(DRAIN_TIME_S)
    finish(load, f"{UPGRADES} upgrades")


def test_rolls_cost_nothing(tmp_path: Path) -> None:
    with RunningProxy(tmp_path, *DRAIN_SOON) as proxy, ContinuousLoad(proxy.port) as load:
        load.wait_requests(WARM_UP)
        for _ in range(ROLLS):
            proxy.roll()
            load.wait_requests(BETWEEN)
        proxy.wait_settled(DRAIN_TIME_S)
    finish(load, f"{ROLLS} rolls")


def test_scaling_costs_nothing(tmp_path: Path) -> None:
    with RunningProxy(tmp_path, *DRAIN_SOON) as proxy, ContinuousLoad(proxy.port) as load:
        load.wait_requests(WARM_UP)
        for _ in range(SCALES):
            proxy.scale(4)
            load.wait_requests(UNTIL_SPREAD)
            proxy.scale(2)
            load.wait_requests(BETWEEN)
        proxy.wait_settled(DRAIN_TIME_S)
    finish(load, f"{SCALES} x 2 -> 4 -> 2 workers")


def test_sigterm_costs_nothing_and_tells_clients_to_close(tmp_path: Path) -> None:
    """Every other time all workers are stuck for a moment, so that clients wait in their queues."""
    for number in range(TERMINATIONS):
        with RunningProxy(tmp_path) as proxy, ContinuousLoad(proxy.port, BUSY_MIX, seed=number) as load:
            load.wait_requests(WARM_UP)
            processes = proxy.tree()
            load.expect_the_end()
            with stuck(proxy) if number % 2 else contextlib.nullcontext():
                proxy.signal(signal.SIGTERM)
            assert proxy.process.wait(timeout_s=20.0) == 0
            load.wait_clients(timeout_s=15.0)
            wait_ended(processes, timeout_s=2.0)
        finish(load, f"SIGTERM under load, {number + 1}")


def test_sigterm_in_the_middle_of_an_upgrade_ends_both_programs_and_costs_nothing(tmp_path: Path) -> None:
    with RunningProxy(tmp_path) as proxy, ContinuousLoad(proxy.port) as load, ThreadPoolExecutor(1) as pool:
        load.wait_requests(WARM_UP)
        pool.submit(proxy.post, "/upgrade")  # what it answers, if anything, is not the matter here
        wait_until(lambda: len(titled(proxy, "workerproxy: main")) == 2, 10.0, "the new main process")
        processes = proxy.tree()
        load.expect_the_end()
        proxy.signal(signal.SIGTERM)
        assert proxy.process.wait(timeout_s=20.0) == 0
        load.wait_clients(timeout_s=15.0)
        wait_ended([*processes, *proxy.tree()], timeout_s=5.0)
    finish(load, "SIGTERM in the middle of an upgrade")


def test_upgrades_that_fail_cost_nothing(tmp_path: Path) -> None:
    """The new program has a broken configuration, or it is killed when its workers have the listening sockets."""
    with RunningProxy(tmp_path) as proxy, ContinuousLoad(proxy.port, BUSY_MIX) as load, ThreadPoolExecutor(1) as pool:
        load.wait_requests(WARM_UP)
        before = proxy.overview()
        proxy.write("nonsense: {}")
        status, _ = proxy.call("POST", "/upgrade")
        assert status == 500
        proxy.configure(proxy.site)
        for _ in range(FAILED_UPGRADES):
            asked = pool.submit(proxy.call, "POST", "/upgrade")
            wait_until(lambda: len(titled(proxy, "workerproxy: worker")) == 4, 10.0, "the new workers")
            (new,) = (main for main in titled(proxy, "workerproxy: main") if main.pid != before["main_pid"])
            new.kill()
            assert asked.result()[0] == 500
            wait_until(lambda: len(titled(proxy, "workerproxy: worker")) == 2, 10.0, "the end of the new workers")
            load.wait_requests(BETWEEN)
            assert proxy.marker() == "version 1"
        assert essence(proxy.overview()) == essence(before)
    finish(load, f"{FAILED_UPGRADES + 1} failed upgrades")


def test_a_worker_that_comes_up_while_its_program_hands_over_accepts_nothing(tmp_path: Path) -> None:
    """It would go on for the whole drain time, and what is in flight then would be cut."""
    with (
        RunningProxy(tmp_path, *DRAIN_SOON) as proxy,
        ContinuousLoad(proxy.port, BUSY_MIX) as load,
        ThreadPoolExecutor(1) as pool,
    ):
        load.wait_requests(WARM_UP)
        old = proxy.process.pid
        asked = pool.submit(proxy.post, "/upgrade")
        wait_until(lambda: len(titled(proxy, "workerproxy: main")) == 2, 10.0, "the new main process")
        known = psutil.Process(old).children()
        killed = proxy.kill_random_worker(random.Random(1))
        load.ledger.worker_killed(killed.client_ports)
        wait_until(lambda: set(psutil.Process(old).children()) - set(known) != set(), 10.0, "the next worker")
        (late,) = set(psutil.Process(old).children()) - set(known)
        late.suspend()
        proxy.process.wait_output("draining")
        late.resume()
        asked.result(timeout=20.0)
        wait_until(lambda: not proxy.listens(late.pid), 5.0, "a late worker without listening sockets")
        wait_ended([late], 10.0)
    print(load.report("an upgrade while a worker comes up"))
    assert load.ledger.others() == []


def test_when_main_is_killed_workers_finish_and_leave_and_a_new_main_binds_at_once(tmp_path: Path) -> None:
    with RunningProxy(tmp_path, "--drain-time-s", str(DRAIN_TIME_S)) as proxy:
        with ContinuousLoad(proxy.port) as load, ThreadPoolExecutor(1) as pool:
            load.wait_requests(WARM_UP)
            slow = CheckedConnection(proxy.port)
            answered = pool.submit(slow.ask, stream_request(SLOW_ANSWER_S))
            wait_until(lambda: any(slow.client_port in proxy.accepted(row["pid"]) for row in proxy.workers()), 5.0)
            processes = proxy.tree()
            load.expect_the_end()
            proxy.signal(signal.SIGKILL)
            proxy.process.wait()
            proxy.start_main()
            proxy.wait_ready()
            assert not answered.done()  # the old workers still drain
            took_s = wait_ended(processes, DRAIN_TIME_S + 2.0)
            answered.result(timeout=0.0)
            slow.close()
        print(f"workers ended {took_s:.1f} s after the new main process was ready")
        finish(load, "SIGKILL of the main process")
        with ContinuousLoad(proxy.port) as load:
            load.wait_requests(WARM_UP)
        finish(load, "the main process started again")


@contextlib.contextmanager
def stuck(proxy: RunningProxy) -> Iterator[None]:
    """From before what is done inside until a little later all workers are stopped: clients wait in their queues."""
    workers = [psutil.Process(row["pid"]) for row in proxy.workers()]
    for worker in workers:
        worker.suspend()
    try:
        yield
        time.sleep(STUCK_S)
    finally:
        for worker in workers:
            worker.resume()


def titled(proxy: RunningProxy, title: str) -> list[psutil.Process]:
    """The proxy's processes whose title begins so."""
    found = []
    for process in proxy.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()[:1]).startswith(title):
                found.append(process)
    return found


def finish(load: ContinuousLoad, title: str) -> None:
    """Print what came of it; nothing may have failed."""
    print(load.report(title))
    assert load.ledger.failures() == []

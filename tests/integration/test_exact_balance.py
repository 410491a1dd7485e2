"""``connection_balance_config.exact_balance``: long-lived connections are spread evenly over the workers."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.integration.proxy import HELLO, Proxy
from tests.support.client import RawClient
from tests.support.processes import wait_until

BALANCED = "    connection_balance_config: {exact_balance: {}}\n"


def connect(proxy: Proxy, number: int, threads: int = 8) -> list[RawClient]:
    """So many connections at once, each with one request that was answered."""
    clients: list[RawClient] = []

    def some(count: int) -> None:
        for _ in range(count):
            client = RawClient(proxy.port, timeout_s=10.0)
            client.send(HELLO)
            assert client.read_response()
            clients.append(client)

    shares = [number // threads + (index < number % threads) for index in range(threads)]
    running = [threading.Thread(target=some, args=(share,)) for share in shares]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(clients) == number
    return clients


def counts(proxy: Proxy, workers: int) -> list[int]:
    return [proxy.stat(f"listener.127.0.0.1_0.worker_{number}.downstream_cx_active") for number in range(workers)]


def test_50_long_lived_connections_on_4_workers_are_no_more_than_one_above_the_mean(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=4, listener=BALANCED) as proxy:
        clients = connect(proxy, 50)
        wait_until(lambda: sum(counts(proxy, 4)) == 50, 5.0)
        assert sorted(counts(proxy, 4)) == [12, 12, 13, 13]
        for client in clients[:20]:
            client.close()
        wait_until(lambda: sum(counts(proxy, 4)) == 30, 5.0)
        clients[:20] = connect(proxy, 20)
        wait_until(lambda: sum(counts(proxy, 4)) == 50, 5.0)
        assert max(counts(proxy, 4)) <= 13
        for client in clients:
            client.close()


def test_the_balance_holds_over_the_death_of_a_worker_a_roll_and_another_number_of_them(tmp_path: Path) -> None:
    with Proxy(tmp_path, "--drain-time-s", "1", workers=2, listener=BALANCED) as proxy:
        clients = connect(proxy, 10)
        victim = proxy.workers()[0]
        victim.kill()
        proxy.process.wait_output("serves version 1", timeout_s=10.0)  # and is known to the other one
        clients += connect(proxy, 5)
        wait_until(lambda: counts(proxy, 2) == [5, 5], 5.0)
        proxy.post("/roll")
        wait_until(lambda: len(proxy.worker_rows()) == 2, 10.0, "the old workers to leave")
        clients += connect(proxy, 10)
        wait_until(lambda: counts(proxy, 2) == [5, 5], 5.0)
        proxy.post("/workers?count=3")
        clients += connect(proxy, 8)
        wait_until(lambda: counts(proxy, 3) == [6, 6, 6], 5.0)
        for client in clients:
            client.close()


def test_without_it_nothing_is_handed_on(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy:
        clients = connect(proxy, 4)
        for worker in proxy.workers():
            assert not [one for one in worker.net_connections("unix") if "SEQPACKET" in str(one.type)]
        for client in clients:
            client.close()

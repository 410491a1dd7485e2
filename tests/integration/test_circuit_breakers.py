"""Circuit breakers hold over all workers, and what was in use is free again afterwards, even by a worker that died."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

import psutil
import pytest

from tests.integration.answering import TIMEOUT_S, AnsweringOrigin, ok
from tests.integration.stage import PATIENCE_S, Json, Plan, Stage, cluster, endpoint, route, tcp, wait_quiet
from tests.support.client import RawClient
from tests.support.framing import head_end
from tests.support.processes import wait_until

WORKERS: Final = 4
CLIENTS: Final = 40
LIMIT: Final = 5
# Envoy's words: a limit is checked against a sum that may be a moment old, so each other worker may go over it by one.
OVERSHOOT: Final = WORKERS - 1


class Held:
    """An origin that answers when ``release`` is called."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        self.origin = AnsweringOrigin(self._answer)

    def _answer(self, peer: socket.socket, request: bytes) -> bool:
        self._gate.wait(TIMEOUT_S)
        peer.sendall(ok(b"held"))
        return True

    def release(self) -> None:
        self._gate.set()

    def stop(self) -> None:
        self.release()
        self.origin.stop()


LIMITS: Final[dict[str, dict[str, Any]]] = {
    "connections": {"max_connections": LIMIT, "max_pending_requests": 1000},
    "overflowing": {"max_connections": LIMIT, "max_pending_requests": 0},
    "pending": {"max_connections": 1, "max_pending_requests": LIMIT},
    "requests": {"max_requests": LIMIT},
    "killed": {"max_requests": LIMIT},
    "open": {"max_requests": 1},
}


@pytest.fixture(scope="module")
def origins() -> Iterator[dict[str, Held]]:
    with ExitStack() as stack:
        running = {name: Held() for name in LIMITS}
        for held in running.values():
            stack.callback(held.stop)
        yield running


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, origins: dict[str, Held]) -> Iterator[Stage]:
    clusters = [
        cluster(name, [endpoint(tcp(held.origin.port))], circuit_breakers={"thresholds": [LIMITS[name]]})
        for name, held in origins.items()
    ]
    plan = Plan(clusters=clusters, routes=[route(f"/{name}", name) for name in origins], workers=WORKERS)
    with Stage(tmp_path_factory.mktemp("proxy"), plan) as running:
        yield running


class Crowd:
    """Clients that each have sent one request; spread by the kernel over all workers."""

    def __init__(self, stage: Stage, path: str, number: int = CLIENTS) -> None:
        self.clients = [stage.client(timeout_s=TIMEOUT_S) for _ in range(number)]
        self._request = f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        for client in self.clients:
            client.send(self._request)

    def responses(self) -> list[bytes]:
        """What each got; waits for all."""
        with ThreadPoolExecutor(len(self.clients)) as threads:
            assert all(threads.map(RawClient.read_response, self.clients))
        return [client.received for client in self.clients]

    def close(self) -> None:
        for client in self.clients:
            client.close()


def refused(responses: list[bytes]) -> list[bytes]:
    """Those that are 503; the others must be whole answers of the origin."""
    assert all(response.endswith(b"\r\n\r\nheld") for response in responses if response.startswith(b"HTTP/1.1 200 "))
    found = [response for response in responses if not response.startswith(b"HTTP/1.1 200 ")]
    for response in found:
        assert response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nx-envoy-overloaded: true\r\n" in response
        assert response[head_end(response) :].endswith(b"reset reason: overflow")
    return found


def settle(*measures: Callable[[], int]) -> tuple[int, ...]:
    """The values of these once they stand still."""
    settled: tuple[int, ...] = wait_quiet(lambda: tuple(measure() for measure in measures))
    return settled


def test_connections_are_limited_over_all_workers(stage: Stage, origins: dict[str, Held]) -> None:
    held = origins["connections"]
    crowd = Crowd(stage, "/connections")
    (opened,) = settle(held.origin.open_connections)
    # A worker without any connection may have one, or its requests would wait for ever (as in Envoy).
    assert LIMIT <= opened <= LIMIT + OVERSHOOT
    held.release()
    assert refused(crowd.responses()) == []  # the others have waited
    assert held.origin.total == CLIENTS
    assert held.origin.connections <= LIMIT + OVERSHOOT
    crowd.close()
    assert stage.stats("cluster.connections")["cluster.connections.upstream_cx_overflow"] > 0


def test_without_room_to_wait_requests_are_refused(stage: Stage, origins: dict[str, Held]) -> None:
    crowd = Crowd(stage, "/overflowing/path", 8)
    assert len(refused(crowd.responses())) == 8
    crowd.close()
    assert origins["overflowing"].origin.total == 0
    entries: list[Json] = []

    def logged() -> bool:  # the lines are written a moment after the answers
        entries[:] = [entry for entry in stage.log_entries() if entry["path"] == "/overflowing/path"]
        return len(entries) == 8

    wait_until(logged, PATIENCE_S, "the log entries")
    assert {(entry["status"], entry["flags"]) for entry in entries} == {(503, "UO")}
    details = "upstream_reset_before_response_started{overflow}"
    assert {entry["details"] for entry in entries} == {details}
    stage.wait_stats({"cluster.overflowing.upstream_rq_pending_overflow": 8})


def test_waiting_requests_are_limited_over_all_workers(stage: Stage, origins: dict[str, Held]) -> None:
    held = origins["pending"]
    crowd = Crowd(stage, "/pending")
    (active,) = settle(lambda: held.origin.active)
    assert 1 <= active <= WORKERS
    held.release()
    served = CLIENTS - len(refused(crowd.responses()))
    crowd.close()
    # What has waited for a connection when it was made waited in the same five places.
    assert active <= served <= active + LIMIT + OVERSHOOT
    stage.wait_stats({"cluster.pending.upstream_rq_pending_active": 0})


def test_requests_are_limited_over_all_workers(stage: Stage, origins: dict[str, Held]) -> None:
    held = origins["requests"]
    crowd = Crowd(stage, "/requests")
    (active,) = settle(lambda: held.origin.active)
    assert LIMIT <= active <= LIMIT + OVERSHOOT
    stage.wait_stats({"cluster.requests.upstream_rq_active": active})
    held.release()
    assert len(refused(crowd.responses())) == CLIENTS - active
    crowd.close()
    assert held.origin.most == active
    stage.wait_stats({"cluster.requests.upstream_rq_active": 0})

    for _ in range(2 * LIMIT):
        assert stage.exchange(b"GET /requests HTTP/1.1\r\nhost: a\r\n\r\n").endswith(b"held")


def test_the_state_of_a_breaker_is_a_gauge(stage: Stage, origins: dict[str, Held]) -> None:
    held = origins["open"]
    gauge = "cluster.open.circuit_breakers.default.rq_open"
    stage.wait_stats({gauge: 0})
    crowd = Crowd(stage, "/open", 1)
    wait_until(lambda: held.origin.active == 1, 5.0)
    wait_until(lambda: stage.stats(gauge)[gauge] > 0, 5.0)
    held.release()
    crowd.responses()
    crowd.close()
    stage.wait_stats({gauge: 0})


def test_what_a_killed_worker_had_in_use_is_free_again(stage: Stage, origins: dict[str, Held]) -> None:
    held = origins["killed"]
    crowd = Crowd(stage, "/killed")
    (active,) = settle(lambda: held.origin.active)
    assert active >= LIMIT
    before = {worker.pid for worker in stage.workers()}
    for worker in stage.workers():
        worker.send_signal(signal.SIGKILL)

    def replaced() -> bool:
        try:
            now = {worker.pid for worker in stage.workers()}
        except psutil.NoSuchProcess:
            return False
        return len(now) == WORKERS and not now & before

    wait_until(replaced, 15.0, "new workers")
    crowd.close()
    stage.wait_stats({"cluster.killed.upstream_rq_active": 0, "cluster.killed.upstream_cx_active": 0})
    again = Crowd(stage, "/killed", LIMIT)
    wait_until(lambda: held.origin.total >= active + LIMIT, 10.0, "as many requests as are allowed")
    held.release()
    assert refused(again.responses()) == []
    again.close()

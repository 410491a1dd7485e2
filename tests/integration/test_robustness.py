"""What a worker must survive: garbage by the thousand, clients that crawl, and running out of descriptors."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.integration.stage import Lane, Listener, Plan, Stage
from tests.support.client import RawClient
from tests.support.origin import Answer, Pause
from tests.support.processes import wait_until

CONNECTIONS: Final = 3000
CRAWLERS: Final = 100
SEED: Final = 20


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    listeners = {
        "main": Listener(),
        "garbage": Listener(),
        "crawl": Listener({"request_headers_timeout": "0.5s"}),
        "request": Listener({"request_timeout": "0.5s"}),
    }
    with Stage(tmp_path_factory.mktemp("proxy"), Plan(listeners, lanes=8)) as running:
        yield running


@pytest.fixture
def lane(stage: Stage) -> Iterator[Lane]:
    """The worker must outlive the test, and hold no more descriptors than before when its pool is empty again."""
    worker = stage.worker()
    before = worker.num_fds()
    lane = stage.lane()
    yield lane
    assert stage.worker().pid == worker.pid
    for connection in lane.origin.connections:
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: worker.num_fds() <= before, 10.0, "the descriptors' return")


# --- garbage


def noise(choose: random.Random, request: bytes) -> bytes:
    """Random bytes, or a request with something wrong in it, or a piece of one."""
    kind = choose.randrange(6)
    if kind == 0:
        return choose.randbytes(choose.randrange(1, 2000))
    if kind == 1:
        return request[: choose.randrange(1, len(request))]
    if kind == 2:
        at = choose.randrange(len(request))
        return request[:at] + choose.randbytes(choose.randrange(1, 8)) + request[at:]
    if kind == 3:
        return b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + choose.randbytes(100)
    if kind == 4:
        return request * choose.randrange(1, 20) + choose.randbytes(10)
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + choose.randbytes(500)  # a TLS hello


def leave(sock: socket.socket, choose: random.Random) -> None:
    """Go in one of the ways there are."""
    how = choose.randrange(4)
    with contextlib.suppress(OSError):
        if how == 0:
            sock.settimeout(0.05)
            sock.recv(1000)
        elif how == 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == 2:
            sock.shutdown(socket.SHUT_WR)
    sock.close()


def test_garbage_by_the_thousand_leaves_nothing_behind(stage: Stage, lane: Lane) -> None:
    request = lane.get(headers="user-agent: test\r\n")

    def attack(number: int) -> None:
        choose = random.Random(SEED * 1_000_000 + number)
        with socket.create_connection(("127.0.0.1", stage.ports["garbage"]), 10) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(noise(choose, request))
            leave(sock, choose)

    with ThreadPoolExecutor(16) as threads:
        assert sum(1 for _ in threads.map(attack, range(CONNECTIONS))) == CONNECTIONS
    assert stage.exchange(lane.get(), "garbage").endswith(b"\r\n\r\nok")
    stage.wait_stats({"http.garbage.downstream_cx_active": 0, "http.garbage.downstream_rq_active": 0})
    assert stage.stats("http.garbage")["http.garbage.downstream_cx_total"] == CONNECTIONS + 1
    stage.wait_stats({lane.stat("upstream_rq_active"): 0, lane.stat("upstream_rq_pending_active"): 0})


# --- slow clients


def crawl(clients: list[RawClient], piece: Callable[[int], bytes]) -> None:
    """Every client sends a little, again and again, until the proxy has had enough of all of them."""
    deadline = time.monotonic() + 10
    for turn in count():
        for client in clients:
            if not client.end:
                client.send(piece(turn))
                client.read_available(0.0001)
        if all(client.end for client in clients):
            return
        assert time.monotonic() < deadline, sum(not client.end for client in clients)


@pytest.mark.parametrize("listener, begin", [("crawl", b""), ("request", b"content-length: 9999\r\n\r\n")])
def test_clients_that_crawl_are_sent_away(stage: Stage, lane: Lane, listener: str, begin: bytes) -> None:
    clients = [stage.client(listener) for _ in range(CRAWLERS)]
    for client in clients:
        client.send(b"POST %bcrawl HTTP/1.1\r\nhost: a\r\n%b" % (lane.path.encode(), begin))
    assert stage.exchange(lane.get("meanwhile"), listener).endswith(b"ok")  # others are served all the while
    crawl(clients, lambda turn: b"0" if begin else b"x-%d: y\r\n" % turn)
    for client in clients:
        assert client.received.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), client.received
        client.close()
    stage.wait_stats({f"http.{listener}.downstream_cx_active": 0, lane.stat("upstream_rq_active"): 0})
    name = "downstream_rq_timeout" if begin else "downstream_rq_header_timeout"
    stage.wait_stats({f"http.{listener}.{name}": CRAWLERS})


# --- no descriptors left


@contextlib.contextmanager
def no_descriptor_left(pid: int, spare: int) -> Iterator[None]:
    """The process can open ``spare`` more files and no further one."""
    free = (fd for fd in count() if not Path(f"/proc/{pid}/fd/{fd}").exists())
    for _ in range(spare):
        next(free)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(free), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_new_connections_wait_and_old_ones_are_served(stage: Stage, lane: Lane) -> None:
    worker = stage.worker()
    with stage.client() as old, contextlib.ExitStack() as stack:
        old.send(lane.get())
        assert old.read_response()
        with no_descriptor_left(worker.pid, 0):
            waiting = [stack.enter_context(stage.client()) for _ in range(20)]
            for client in waiting:
                client.send(lane.get("late"))
            stage.process.wait_output("Too many open files", 10.0)
            before = worker.cpu_times().user + worker.cpu_times().system
            for _ in range(20):
                old.send(lane.get())
                assert old.read_response()
                time.sleep(0.02)  # the time in which a worker that does not rest would burn its processor
            spent = worker.cpu_times().user + worker.cpu_times().system - before
            assert spent < 0.3
            assert not any(client.received for client in waiting)
        for client in waiting:
            assert client.read_response()
            assert client.received.endswith(b"\r\n\r\nok")


def test_without_a_descriptor_for_the_origin_a_request_is_503(stage: Stage, lane: Lane) -> None:
    with stage.client() as client:
        client.send(b"GET /direct HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.read_response()
        with no_descriptor_left(stage.worker().pid, 0):
            before = len(client.received)
            client.send(lane.get("fault"))
            assert client.read_response()
            assert client.received[before:].startswith(b"HTTP/1.1 503 ")
        client.send(lane.get("next"))
        assert client.read_response()
        assert client.received.endswith(b"\r\n\r\nok")
    assert stage.log(lane.path + "fault")["flags"] == "UF"
    stage.wait_stats({lane.stat("upstream_cx_active"): 1, lane.stat("upstream_rq_pending_active"): 0})


def test_clients_that_leave_in_the_middle_leave_nothing_behind(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([Pause(20)], when="head")] * 400)
    for number in range(400):
        client = stage.client()
        client.send(lane.get() if number % 2 else lane.post(1000) + b"some")
        client.reset() if number % 3 else client.close()
    stage.wait_stats(
        {
            "http.main.downstream_cx_active": 0,
            "http.main.downstream_rq_active": 0,
            lane.stat("upstream_cx_active"): 0,
            lane.stat("upstream_rq_active"): 0,
            lane.stat("upstream_rq_pending_active"): 0,
        }
    )

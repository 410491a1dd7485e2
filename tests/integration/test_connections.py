"""Downstream connections: how long they live, how they end, and that each client gets its own bytes and no others."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.integration.answering import AnsweringOrigin, ok, target
from tests.integration.bulk import MemoryWatch
from tests.integration.stage import Json, Lane, Listener, Plan, Stage, cluster, endpoint, route, tcp, wait_quiet
from tests.support.client import RawClient
from tests.support.framing import dechunk, head_end
from tests.support.origin import Answer, Pause, Send, answer
from tests.support.processes import wait_until

OK: Final = b"HTTP/1.1 200 OK\r\n"
STALL: Final = Pause(20)
LEAVE: Final = {"fin": RawClient.close, "rst": RawClient.reset}


def misbehave(peer: socket.socket, request: bytes) -> bool:
    """Answers with the request's path, and does what its last letter says besides."""
    path = target(request)
    body = path * (1 + len(path) % 50)
    fault = path[-1:]
    if fault == b"s":  # surplus bytes
        peer.sendall(ok(body) + b"STOLEN")
    elif fault == b"t":  # two responses
        peer.sendall(ok(body) + ok(b"STOLEN" * 10))
    elif fault == b"c":  # cut short
        peer.sendall(ok(body)[:-1])
        return False
    elif fault == b"r":  # reset inside
        peer.sendall(ok(body)[:-1])
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    elif fault == b"g":  # garbage
        peer.sendall(b"STOLEN\r\n\r\n")
    elif fault == b"x":  # closes after a whole response
        peer.sendall(ok(body))
        return False
    elif fault == b"k":  # chunks
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(path), path) for _ in range(3))
        peer.sendall(OK + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    else:
        peer.sendall(ok(body))
    return True


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[AnsweringOrigin]:
    with AnsweringOrigin(misbehave) as running:
        yield running


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, misbehaving: AnsweringOrigin) -> Iterator[Stage]:
    common = "common_http_protocol_options"
    listeners: dict[str, Json] = {
        "main": {},
        "gone": {},
        "linger": {},
        "idle": {common: {"idle_timeout": "0.3s"}, "drain_timeout": "0.1s"},
        "stream": {"stream_idle_timeout": "0.3s"},
        "two": {common: {"max_requests_per_connection": 2}},
        "aged": {common: {"max_connection_duration": "0.5s"}, "drain_timeout": "0.1s"},
        "brief": {"delayed_close_timeout": "0.2s"},
    }
    plan = Plan(
        listeners={name: Listener(manager) for name, manager in listeners.items()},
        lanes=30,
        clusters=[cluster("misbehaving", [endpoint(tcp(misbehaving.port))])],
        routes=[route("/mis/", "misbehaving")],
    )
    with Stage(tmp_path_factory.mktemp("proxy"), plan) as running:
        yield running


@pytest.fixture
def lane(stage: Stage) -> Lane:
    return stage.lane()


# --- the client goes away


@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize(
    "sent, script",
    [
        ("GET {path}fault HTTP/1.1\r\nhost: a\r\n\r\n", []),
        ("POST {path}fault HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello", []),
        ("POST {path}fault HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999\r\n\r\nhello", []),
        ("POST {path}fault HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", []),
        ("GET {path}fault HTTP/1.1\r\nhost: a\r\n\r\n", [Send(OK + b"content-length: 10\r\n\r\nhello")]),
        ("GET {path}fault HTTP/1.1\r\nhost: a\r\n\r\n", [Send(OK + b"content-length: 9999999\r\n\r\nhello")]),
        (
            "GET {path}fault HTTP/1.1\r\nhost: a\r\n\r\n",
            [Send(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")],
        ),
    ],
    ids=["waiting", "in-body", "in-large-body", "in-chunks", "of-body", "of-large-body", "of-chunks"],
)
def test_a_client_that_leaves_takes_the_upstream_request_with_it(
    stage: Stage, lane: Lane, how: str, sent: str, script: list[Send]
) -> None:
    names = [
        "http.gone.downstream_cx_destroy_remote",
        "http.gone.downstream_cx_destroy_remote_active_rq",
        "http.gone.downstream_rq_rx_reset",
    ]
    before = stage.stats("http.gone")
    lane.origin.play([Answer([*script, STALL], when="head")])
    client = stage.client("gone")
    client.send(sent.format(path=lane.path).encode())
    lane.origin.wait_requests(1)
    if script:
        assert client.read_text(b"hello")
    LEAVE[how](client)
    wait_until(lane.origin.connections[0].ended_by_peer, 5.0, "the end of the upstream connection")
    entry = stage.log(lane.path + "fault", "gone")
    assert entry["flags"] == "DC"
    assert entry["details"] == "downstream_remote_disconnect"
    assert entry["status"] == (200 if script else 0)
    stage.wait_stats({name: before.get(name, 0) + 1 for name in names} | {lane.stat("upstream_rq_active"): 0})


def test_a_reset_together_with_the_request_is_noticed(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([STALL])])
    for _ in range(5):
        client = stage.client("gone")
        client.send(b"GET %bfault HTTP/1.1\r\nhost: a\r\nx-unfinished: " % lane.path.encode())
        client.reset()
    stage.wait_stats({"http.gone.downstream_cx_active": 0})
    assert lane.origin.request_count() == 0


def test_a_client_that_closes_its_side_is_gone(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([STALL])])
    with stage.client() as client:
        client.send(lane.get("fault"))
        lane.origin.wait_requests(1)
        client.finish_sending()
        assert client.read_to_close()
    assert client.received == b""
    wait_until(lane.origin.connections[0].ended_by_peer, 5.0)
    assert stage.log(lane.path + "fault")["flags"] == "DC"


# --- many requests on one connection


def test_pipelined_requests_are_answered_in_order(stage: Stage, lane: Lane) -> None:
    bodies = [bytes([65 + number]) * size for number, size in enumerate((300_000, 5, 1 << 20, 0, 200_000))]
    framed = [answer(ok(body)) if number % 2 else chunked(body) for number, body in enumerate(bodies)]
    lane.origin.play(framed)
    with stage.client() as client:
        client.send(b"".join(lane.get(str(number)) for number in range(5)))
        for _ in bodies:
            assert client.read_response()
    assert [content for _, content in split(client.received, len(bodies))] == bodies
    assert len(lane.origin.connections) == 1
    order = [line.split()[1] for line in lane.origin.connections[0].received.split(b"\r\n") if line[:4] == b"GET "]
    assert order == [f"{lane.path}{number}".encode() for number in range(5)]


def chunked(body: bytes) -> Answer:
    return answer(OK + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))


def split(received: bytes, number: int) -> list[tuple[bytes, bytes]]:
    """Head and content of each of the responses."""
    found = []
    for _ in range(number):
        head, rest = received[: head_end(received)], received[head_end(received) :]
        if b"transfer-encoding: chunked" in head:
            complete = dechunk(rest)
            assert complete is not None
            content = complete[0]
            received = rest[rest.index(b"\r\n0\r\n\r\n") + 7 :]
        else:
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            content, received = rest[:length], rest[length:]
        found.append((head, content))
    assert not received
    return found


def test_pipelined_requests_whose_responses_are_not_read_take_little_memory(stage: Stage, lane: Lane) -> None:
    number, size = 60, 1 << 20
    lane.origin.play([answer(ok(bytes([number]) * size)) for number in range(number)])
    with MemoryWatch(stage.worker()) as memory, socket.create_connection(("127.0.0.1", stage.port), 20) as client:
        client.sendall(lane.get() * number)
        held = wait_quiet(lane.origin.request_count)
        received = 0
        while received < number * size:
            data = client.recv(1 << 20)
            assert data
            received += len(data)
    assert held < number
    assert memory.growth < 24 << 20


def test_a_connection_carries_a_thousand_requests(stage: Stage, lane: Lane) -> None:
    with stage.client(timeout_s=20) as client:
        for number in range(1000):
            client.send(lane.get(str(number)))
            assert client.read_response()
    assert client.received.count(b"\r\n\r\nok") == 1000
    assert len(lane.origin.connections) == 1
    stage.wait_stats({lane.stat("upstream_rq_total"): 1000, lane.stat("upstream_cx_total"): 1})


def test_a_client_that_asks_for_a_close_gets_one(stage: Stage, lane: Lane) -> None:
    with stage.client() as client:
        client.send(lane.get(headers="connection: close\r\n") + lane.get("never"))
        assert client.read_to_close()
    assert client.end == "eof"
    assert client.received.count(b"HTTP/1.1 200") == 1
    assert b"\r\nconnection: close\r\n" in client.received
    assert lane.origin.request_count() == 1
    stage.exchange(lane.get())
    assert len(lane.origin.connections) == 1  # the upstream connection is not the client's


def test_the_last_request_of_a_connection_is_announced(stage: Stage, lane: Lane) -> None:
    with stage.client("two") as client:
        client.send(lane.get() * 3)
        assert client.read_to_close()
    heads = [head for head, _ in split(client.received, 2)]
    assert [b"connection: close" in head for head in heads] == [False, True]
    assert lane.origin.request_count() == 2
    stage.wait_stats({"http.two.downstream_cx_max_requests_reached": 1})


# --- timeouts of connections and streams


def test_an_idle_connection_is_closed(stage: Stage, lane: Lane) -> None:
    began = time.monotonic()
    with stage.client("idle") as client, stage.client("idle") as silent:
        client.send(lane.get())
        assert client.read_response()
        answered = time.monotonic()
        assert silent.read_to_close()
        assert time.monotonic() - began >= 0.29
        assert client.read_to_close()
        assert time.monotonic() - answered >= 0.29
    assert (client.end, silent.end) == ("eof", "eof")
    stage.wait_stats({"http.idle.downstream_cx_idle_timeout": 2, "http.idle.downstream_cx_active": 0})


def test_a_busy_connection_is_not_idle(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([Pause(0.8), *answer(ok(b"late")).steps])])
    assert stage.exchange(lane.get(), "idle").endswith(b"late")


def test_an_idle_stream_is_ended(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([STALL])])
    response = stage.exchange(lane.get("fault"), "stream")
    assert response.startswith(b"HTTP/1.1 504 ")
    assert response.endswith(b"stream timeout")
    assert stage.log(lane.path + "fault", "stream")["flags"] == "SI"
    wait_until(lane.origin.connections[0].ended_by_peer, 5.0)


def test_a_request_that_stops_coming_is_ended(stage: Stage, lane: Lane) -> None:
    with stage.client("stream") as client:
        client.send(lane.post(10, "fault") + b"hello")
        assert client.read_to_close()
    assert client.received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert client.received.endswith(b"stream timeout")
    assert stage.log(lane.path + "fault", "stream")["flags"] == "SI"
    wait_until(lane.origin.connections[0].ended_by_peer, 5.0)


def test_a_connection_of_its_highest_age_is_closed_after_the_response(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([Pause(0.8), *answer(ok(b"late")).steps])])
    with stage.client("aged") as busy, stage.client("aged") as idle:
        busy.send(lane.get())
        assert idle.read_to_close()
        assert busy.read_response()
        assert busy.received.endswith(b"late")
        assert busy.read_to_close()
    assert (busy.end, idle.end) == ("eof", "eof")
    stage.wait_stats({"http.aged.downstream_cx_max_duration_reached": 2, "http.aged.downstream_cx_active": 0})


# --- delayed close: what was answered must arrive, even at a client that goes on sending


@pytest.mark.parametrize(
    "request_head, status",
    [
        (b"POST /direct HTTP/1.1\r\nhost: a\r\ncontent-length: 8388608\r\n\r\n", b"200"),
        (b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 8388608\r\n\r\n", b"404"),
        (b"POST /direct HTTP/1.1\r\nhost: a\r\ncontent-length: nonsense\r\n\r\n", b"400"),
        (b"POST /direct HTTP/1.1\r\nhost: a\r\n" + b"x: %b\r\n\r\n" % (b"y" * 100_000), b"431"),
    ],
    ids=["answered", "not-found", "bad", "too-large"],
)
def test_a_client_that_goes_on_sending_reads_the_whole_response(
    stage: Stage, request_head: bytes, status: bytes
) -> None:
    with stage.client("linger") as client:
        client.send(request_head)
        sent = 0
        while sent < 8 << 20 and client.send(bytes(65536)):
            sent += 65536
        client.finish_sending()
        assert client.read_to_close()
    assert client.end == "eof"
    assert client.received.startswith(b"HTTP/1.1 %b " % status)
    (found,) = split(client.received, 1)
    assert b"connection: close" in found[0]
    stage.wait_stats({"http.linger.downstream_cx_active": 0})


def test_a_client_that_does_not_close_is_closed_in_the_end(stage: Stage) -> None:
    with stage.client("brief") as client:
        client.send(b"POST /direct HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
        assert client.read_response()
        assert client.read_to_close()
        stage.wait_stats(
            {"http.brief.downstream_cx_active": 0, "http.brief.downstream_cx_delayed_close_timeout": 1},
        )


# --- nobody gets what is another's


def test_no_client_gets_another_clients_bytes(stage: Stage, misbehaving: AnsweringOrigin) -> None:
    pid = stage.worker().pid

    def visit(number: int) -> int:
        """One client; how many of its requests were answered by the origin."""
        choose = random.Random(number)
        answered = 0
        client = stage.client()
        for turn in range(40):
            if client.end:
                client.close()
                client = stage.client()
            path = f"/mis/{number}-{turn}-{'z' * choose.randrange(200)}/{choose.choice('nnnnstcrgxk')}".encode()
            before = len(client.received)
            client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path)
            client.read_response()
            response = client.received[before:]
            body = response[head_end(response) :]
            if response.startswith(OK):
                answered += 1
                if b"chunked" not in response:
                    assert body == (path * len(body))[: len(body)], (path, response)
                else:
                    assert body.count(b"/mis/") == body.count(path), (path, response)
            else:
                assert response.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 ")), (path, response)
            assert b"STOLEN" not in response
            assert response.count(b"HTTP/1.1 ") == 1
        client.close()
        return answered

    with ThreadPoolExecutor(16) as threads:
        answered = list(threads.map(visit, range(16)))
    assert min(answered) > 20
    assert stage.worker().pid == pid
    stage.wait_stats({"cluster.misbehaving.upstream_rq_active": 0})

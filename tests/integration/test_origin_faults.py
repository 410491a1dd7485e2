"""Origins that fail: what the client sees, what the access log says, and that nothing of it reaches the next request.

Every test has a lane of its own and ends with ``recovers``: the next request, over a fresh connection to the proxy, is
answered over a fresh connection to the origin, by the same worker.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.integration.stage import Lane, Listener, Plan, Stage, cluster, endpoint, route, tcp
from tests.support.client import RawClient
from tests.support.framing import body_end, dechunk, head_end
from tests.support.origin import DEFAULT_ANSWER, Answer, Close, Finish, Origin, Pause, Send, Step, answer
from tests.support.ports import free_port
from tests.support.processes import wait_until

OK: Final = b"HTTP/1.1 200 OK\r\n"
BEFORE_HEADERS: Final = "upstream_reset_before_response_started{connection_termination}"
INSIDE_HEADERS: Final = "upstream_reset_before_response_started{protocol_error}"
INSIDE_BODY: Final = "upstream_reset_after_response_started{protocol_error}"
# How an origin ends a connection. A reset may come with the last bytes or after them: different events to the proxy.
ENDS: Final[dict[str, list[Step]]] = {
    "fin": [Close()],
    "rst": [Close(reset=True)],
    "rst-later": [Pause(0.1), Close(reset=True)],
}
UPSTREAM_ERROR: Final = b"upstream connect error or disconnect/reset before headers. reset reason: "
LARGE: Final = 1 << 20  # bytes: a body of which the proxy makes a splice
REFUSING_PORT: Final = free_port()


class FullBacklog:
    """A port that neither accepts nor refuses, for its accept queue is full, until ``accept``."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))

    def close(self) -> None:
        for each in (self._listener, *self._fillers):
            each.close()


@pytest.fixture(scope="module")
def backlog() -> Iterator[FullBacklog]:
    full = FullBacklog()
    yield full
    full.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, backlog: FullBacklog) -> Iterator[Stage]:
    http_10 = Listener({"http_protocol_options": {"accept_http_10": True}})
    plan = Plan(
        listeners={"main": Listener(), "http10": http_10},
        lanes=90,
        lane_route={"timeout": "0.5s"},
        clusters=[
            cluster("refusing", [endpoint(tcp(REFUSING_PORT))]),
            cluster("full", [endpoint(tcp(backlog.port))], connect_timeout="0.3s"),
        ],
        routes=[route("/refusing/", "refusing"), route("/full/", "full")],
    )
    with Stage(tmp_path_factory.mktemp("proxy"), plan) as running:
        yield running


@pytest.fixture
def lane(stage: Stage) -> Iterator[Lane]:
    """One that nobody has used. The worker must outlive the test."""
    pid = stage.worker().pid
    yield stage.lane()
    assert stage.worker().pid == pid


def fails(stage: Stage, lane: Lane, *script: Answer, request: bytes | None = None) -> bytes:
    """All that the client gets for a request when the origin plays ``script``; the proxy must close the connection."""
    lane.origin.play(script)
    with stage.client() as client:
        client.send(request or lane.get("fault"))
        assert client.read_to_close(), client.received
        return client.received


def answered(stage: Stage, lane: Lane, *script: Answer) -> bytes:
    """The response to a request when the origin plays ``script``; it must be complete."""
    lane.origin.play(script)
    return stage.exchange(lane.get("fault"))


def recovers(stage: Stage, lane: Lane) -> None:
    """The broken upstream connection is gone, and the next request is answered over a new one."""
    wait_until(lambda: lane.origin.connections[0].ended_by_peer() or lane.origin.connections[0].closed_here, 5.0)
    assert stage.exchange(lane.get("next")).endswith(b"\r\n\r\nok")
    assert len(lane.origin.connections) == 2
    stage.wait_stats({lane.stat("upstream_cx_active"): 1, lane.stat("upstream_rq_active"): 0})


def logged(stage: Stage, lane: Lane) -> tuple[int, str, str]:
    entry = stage.log(lane.path + "fault")
    return entry["status"], entry["flags"], entry["details"]


def is_cut_short(response: bytes) -> bool:
    """Whether the client can tell that the message in ``response`` is not complete."""
    body = head_end(response)
    return body < 0 or body_end(response, 0, body, until_close=True) < 0


# --- no connection


def test_a_refused_connection_is_503_and_the_next_is_tried_anew(stage: Stage) -> None:
    request = b"GET /refusing/%b HTTP/1.1\r\nhost: a\r\n\r\n"
    response = stage.exchange(request % b"fault")
    assert response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert UPSTREAM_ERROR + b"remote connection failure" in response
    entry = stage.log("/refusing/fault")
    assert entry["flags"] == "UF"
    assert entry["details"].startswith("upstream_reset_before_response_started{remote_connection_failure")
    with Origin(port=REFUSING_PORT):
        assert stage.exchange(request % b"next").endswith(b"\r\n\r\nok")
    stage.wait_stats({"cluster.refusing.upstream_cx_connect_fail": 1, "cluster.refusing.upstream_cx_active": 0})


def test_a_connection_that_is_never_accepted_ends_at_the_connect_timeout(stage: Stage) -> None:
    began = time.monotonic()
    response = stage.exchange(b"GET /full/fault HTTP/1.1\r\nhost: a\r\n\r\n")
    assert 0.29 <= time.monotonic() - began < 3
    assert response.startswith(b"HTTP/1.1 503 ")
    assert response.endswith(UPSTREAM_ERROR + b"connection timeout")
    entry = stage.log("/full/fault")
    assert (entry["flags"], entry["details"]) == ("UF", "upstream_reset_before_response_started{connection_timeout}")
    stage.wait_stats(
        {
            "cluster.full.upstream_cx_connect_timeout": 1,
            "cluster.full.upstream_cx_active": 0,
            "cluster.full.upstream_rq_pending_active": 0,
        }
    )


# --- an end before the response


def test_an_origin_that_stalls_is_504_at_the_route_timeout(stage: Stage, lane: Lane) -> None:
    response = answered(stage, lane, Answer([Pause(20)]))
    assert response.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert response.endswith(b"\r\n\r\nupstream request timeout")
    assert logged(stage, lane) == (504, "UT", "response_timeout")
    recovers(stage, lane)
    stage.wait_stats({lane.stat("upstream_rq_timeout"): 1})


@pytest.mark.parametrize("end", ENDS)
def test_an_origin_that_ends_without_a_byte_is_503(stage: Stage, lane: Lane, end: str) -> None:
    response = answered(stage, lane, Answer(ENDS[end]))
    assert response.startswith(b"HTTP/1.1 503 ")
    assert response.endswith(UPSTREAM_ERROR + b"connection termination")
    assert logged(stage, lane) == (503, "UC", BEFORE_HEADERS)
    recovers(stage, lane)


@pytest.mark.parametrize("end", ENDS)
def test_an_origin_that_ends_inside_its_headers_is_502(stage: Stage, lane: Lane, end: str) -> None:
    response = answered(stage, lane, Answer([Send(OK + b"content-len"), *ENDS[end]]))
    assert response.startswith(b"HTTP/1.1 502 ")
    assert response.endswith(UPSTREAM_ERROR + b"protocol error")
    assert logged(stage, lane) == (502, "UPE", INSIDE_HEADERS)
    recovers(stage, lane)


@pytest.mark.parametrize("end", ENDS)
def test_the_client_connection_survives_a_fault_before_the_response(stage: Stage, lane: Lane, end: str) -> None:
    lane.origin.play([Answer(ENDS[end])])
    with stage.client() as client:
        client.send(lane.get("fault"))
        assert client.read_response()
        client.send(lane.get("next"))
        assert client.read_response()
    assert client.received.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("end", ["rst", "rst-later"])
def test_a_reset_after_a_whole_response_is_not_met_by_the_next_request(stage: Stage, lane: Lane, end: str) -> None:
    assert answered(stage, lane, Answer([*DEFAULT_ANSWER.steps, *ENDS[end]])).endswith(b"\r\n\r\nok")
    stage.wait_stats({lane.stat("upstream_cx_active"): 0})
    recovers(stage, lane)


# --- an end inside the response: the client must see that something is missing


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "sent",
    [
        b"content-length: 10\r\n\r\n",
        b"content-length: 10\r\n\r\n123456789",
        b"content-length: %d\r\n\r\n%b" % (LARGE, bytes(LARGE - 1)),
        b"transfer-encoding: chunked\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
    ids=["length", "length-body", "length-large", "chunked", "chunk-end", "chunk-middle", "last-chunk"],
)
def test_an_end_inside_the_body_cuts_the_response_short(stage: Stage, lane: Lane, sent: bytes, end: str) -> None:
    response = fails(stage, lane, Answer([Send(OK + sent), *ENDS[end]]))
    assert response.startswith(OK)
    assert is_cut_short(response)
    assert logged(stage, lane) == (200, "UPE", INSIDE_BODY)
    recovers(stage, lane)


def test_a_reset_inside_a_close_delimited_body_cuts_the_response_short(stage: Stage, lane: Lane) -> None:
    response = fails(stage, lane, Answer([Send(OK + b"\r\nhello"), Pause(0.1), Close(reset=True)]))
    assert response.startswith(OK)
    assert is_cut_short(response)
    assert logged(stage, lane) == (200, "UPE", INSIDE_BODY)


def test_a_close_delimited_body_is_complete_at_fin(stage: Stage, lane: Lane) -> None:
    response = answered(stage, lane, Answer([Send(OK + b"\r\nhello"), Close()]))
    assert dechunk(response[head_end(response) :]) == (b"hello", b"")
    assert logged(stage, lane) == (200, "-", "via_upstream")
    recovers(stage, lane)


def test_a_stall_inside_the_body_ends_at_the_route_timeout(stage: Stage, lane: Lane) -> None:
    response = fails(stage, lane, Answer([Send(OK + b"content-length: 10\r\n\r\nhello"), Pause(20)]))
    assert response.startswith(OK)
    assert is_cut_short(response)
    assert logged(stage, lane) == (200, "UT", "response_timeout")
    recovers(stage, lane)


def test_a_stall_inside_a_large_body_ends_at_the_route_timeout(stage: Stage, lane: Lane) -> None:
    part = OK + b"content-length: %d\r\n\r\n%b" % (LARGE, bytes(LARGE // 2))
    response = fails(stage, lane, Answer([Send(part), Pause(20)]))
    assert is_cut_short(response)
    assert len(response) > LARGE // 2  # what came was passed on
    assert logged(stage, lane) == (200, "UT", "response_timeout")
    recovers(stage, lane)


@pytest.mark.parametrize(
    "sent", [b"content-length: 10\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)
def test_an_http_10_client_is_not_told_that_a_cut_response_is_complete(stage: Stage, lane: Lane, sent: bytes) -> None:
    lane.origin.play([Answer([Send(OK + sent), Pause(0.1), Close()])])
    with stage.client("http10") as client:
        client.send(lane.get("fault").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert client.read_to_close()
        response = client.received
    # Without content-length the only way to say so to HTTP/1.0 is a reset.
    has_length = b"content-length" in response
    assert client.end == "reset" or (has_length and is_cut_short(response)), (client.end, response)
    recovers(stage, lane)


# --- bytes that are no response


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=["binary", "ssh", "tls", "status", "colon", "two-lengths", "negative-length", "nul", "huge"],
)
def test_garbage_is_502_and_none_of_it_gets_through(stage: Stage, lane: Lane, garbage: bytes) -> None:
    response = answered(stage, lane, answer(garbage))
    assert response.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert response.endswith(UPSTREAM_ERROR + b"protocol error")
    status, flags, details = logged(stage, lane)
    assert (status, flags) == (502, "UPE")
    assert details.startswith("upstream_reset_before_response_started{protocol_error")
    recovers(stage, lane)


def test_garbage_inside_a_chunked_body_cuts_the_response_short(stage: Stage, lane: Lane) -> None:
    begin = Send(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    response = fails(stage, lane, Answer([begin, Pause(0.1), Send(b"SECRET\r\n")]))
    assert response.startswith(OK)
    assert is_cut_short(response)
    assert b"SECRET" not in response
    assert logged(stage, lane)[:2] == (200, "UPE")
    recovers(stage, lane)


# --- more than was asked for: nobody may ever get it


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize(
    "sent, surplus",
    [
        (OK + b"content-length: 2\r\n\r\nok", b"SURPLUS"),
        (OK + b"content-length: 2\r\n\r\nok", OK + b"content-length: 7\r\n\r\nSURPLUS"),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"SURPLUS"),
        (OK + b"content-length: 0\r\n\r\n", OK + b"content-length: 7\r\n\r\nSURPLUS"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"SURPLUS"),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", b"SURPLUS"),
        (OK + b"content-length: %d\r\n\r\n%b" % (LARGE, bytes(LARGE)), OK + b"content-length: 7\r\n\r\nSURPLUS"),
    ],
    ids=["bytes", "response", "after-chunks", "after-empty", "after-204", "after-304", "after-large"],
)
def test_bytes_after_the_response_reach_nobody(
    stage: Stage, lane: Lane, sent: bytes, surplus: bytes, segments: int
) -> None:
    steps: list[Step] = [Send(sent + surplus)] if segments == 1 else [Send(sent), Pause(0.05), Send(surplus)]
    lane.origin.play([Answer(steps)])
    with stage.client() as client:
        client.send(lane.get("fault"))
        assert client.read_response()
        wait_until(lane.origin.connections[0].ended_by_peer, 5.0, "the end of the upstream connection")
        client.send(lane.get("after"))
        assert client.read_response()
    assert b"SURPLUS" not in client.received
    assert client.received.endswith(b"\r\n\r\nok")
    assert len(lane.origin.connections) == 2


def test_the_body_of_a_response_to_head_reaches_nobody(stage: Stage, lane: Lane) -> None:
    lane.origin.play([answer(OK + b"content-length: 7\r\n\r\nSURPLUS")])
    with stage.client() as client:
        client.send(lane.get("fault").replace(b"GET", b"HEAD"))
        assert client.read_response(head=True)
        client.send(lane.get("after"))
        assert client.read_response()
    assert b"SURPLUS" not in client.received
    assert client.received.endswith(b"\r\n\r\nok")


def test_a_connection_closed_while_idle_is_not_used_again(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([*DEFAULT_ANSWER.steps, Finish()])])
    stage.exchange(lane.get("fault"))
    recovers(stage, lane)


# --- answers at unusual moments


def upload_until_answered(stage: Stage, lane: Lane, size: int) -> RawClient:
    """Send a request of ``size`` bytes, as far as the proxy takes it, and read until the proxy closes."""
    with stage.client() as client:
        client.send(lane.post(size, "fault"))
        lane.origin.wait_requests(1)
        sent = 0
        while sent < size and client.send(bytes(65536)):
            sent += 65536
        client.read_to_close()
        return client


@pytest.mark.parametrize("size", [65536, 4 << 20])
@pytest.mark.parametrize("then", [[], [Pause(0.05), Close()]], ids=["stays", "closes"])
def test_an_answer_before_the_end_of_the_request_reaches_the_client(
    stage: Stage, lane: Lane, size: int, then: list[Step]
) -> None:
    early = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nbig"
    lane.origin.play([Answer([Send(early), *then], when="head")])
    client = upload_until_answered(stage, lane, size)
    assert client.received.startswith(b"HTTP/1.1 413 "), (client.end, client.received)
    assert client.received.endswith(b"\r\n\r\nbig")
    assert client.end == "eof"
    assert logged(stage, lane) == (413, "-", "via_upstream")
    recovers(stage, lane)


def test_an_answer_before_the_request_goes_on_is_not_followed_by_another(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([Send(OK + b"content-length: 5\r\n\r\nearly")], when="head")])
    with stage.client() as client:
        client.send(lane.post(10, "fault"))
        assert client.read_response()
        client.send(b"0123456789" + lane.get("smuggled"))
        assert client.read_to_close()
    assert client.received.count(b"HTTP/1.1") == 1
    assert b"connection: close" in client.received
    recovers(stage, lane)
    assert all(b"smuggled" not in each.received for each in lane.origin.connections)


def test_headers_may_come_byte_by_byte(stage: Stage, lane: Lane) -> None:
    head = OK + b"x-slow: yes\r\ncontent-length: 2\r\n\r\n"
    response = answered(stage, lane, Answer([*(Send(bytes([byte])) for byte in head), Send(b"ok")]))
    assert b"\r\nx-slow: yes\r\n" in response
    assert response.endswith(b"\r\n\r\nok")
    assert logged(stage, lane) == (200, "-", "via_upstream")
    assert len(lane.origin.connections) == 1
    stage.exchange(lane.get("next"))
    assert len(lane.origin.connections) == 1  # and the connection is as good as any


def test_headers_that_never_end_stop_at_the_route_timeout(stage: Stage, lane: Lane) -> None:
    trickle = [step for _ in range(200) for step in (Send(b"x: y\r\n"), Pause(0.02))]
    response = answered(stage, lane, Answer([Send(OK), *trickle]))
    assert response.startswith(b"HTTP/1.1 504 ")
    assert logged(stage, lane) == (504, "UT", "response_timeout")
    recovers(stage, lane)


def test_informational_responses_come_before_the_final_one(stage: Stage, lane: Lane) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
    final = OK + b"content-length: 2\r\n\r\nok"
    lane.origin.play([Answer([Send(b"HTTP/1.1 100 Continue\r\n\r\n" + hints), Pause(0.02), Send(hints + final)])])
    with stage.client() as client:
        client.send(lane.get("fault"))
        for _ in range(3):
            assert client.read_response()
    assert client.received.count(b"HTTP/1.1 103 ") == 2
    assert b"HTTP/1.1 100" not in client.received  # unless proxy_100_continue, a matter of each connection
    assert client.received.endswith(b"\r\n\r\nok")
    stage.exchange(lane.get("next"))
    assert len(lane.origin.connections) == 1


def test_an_end_after_an_informational_response_is_503(stage: Stage, lane: Lane) -> None:
    lane.origin.play([Answer([Send(b"HTTP/1.1 103 Early Hints\r\n\r\n"), Close()])])
    with stage.client() as client:
        client.send(lane.get("fault"))
        assert client.read_response()
        assert client.read_response()
    assert client.received.count(b"HTTP/1.1") == 2
    assert b"HTTP/1.1 503 " in client.received
    assert logged(stage, lane) == (503, "UC", BEFORE_HEADERS)
    recovers(stage, lane)

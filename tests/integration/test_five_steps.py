"""The five steps of a request, seen from outside: which system calls a worker makes, on which socket, in which order.

docs/life_of_a_request.md says why the order is this one. Events: (A) downstream readable, (B) upstream connected,
(C) upstream readable, (D) downstream writable.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.integration.stage import Plan, Stage, wait_quiet
from tests.integration.strace import Call, Strace
from tests.support.client import RawClient
from tests.support.origin import Answer, Send

CALLS: Final = (
    "socket,connect,accept,accept4,getsockopt,ioctl,fcntl,epoll_wait,epoll_pwait,"
    "read,recvfrom,recvmsg,readv,write,sendto,sendmsg,writev,splice,close"
)
MOVES_BYTES: Final = ("read", "recvfrom", "recvmsg", "readv", "write", "sendto", "sendmsg", "writev", "splice")
NEW_CONNECTION: Final = [
    "event A",
    "recvfrom downstream",
    "socket upstream",
    "connect upstream",
    "event B",
    "getsockopt upstream",
    "sendto upstream",
    "event C",
    "recvfrom upstream",
    "sendto downstream",
]
REUSED_CONNECTION: Final = [
    "event A",
    "recvfrom downstream",
    "sendto upstream",
    "event C",
    "recvfrom upstream",
    "sendto downstream",
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("proxy"), Plan(lanes=4)) as running:
        yield running


def downstream(client: RawClient) -> str:
    """How strace names the proxy's end of this client's connection."""
    return f"->127.0.0.1:{client.port}]"


class Watch:
    """The calls on one downstream and one upstream connection, told by their ports, and named by what they mean."""

    def __init__(self, calls: list[Call], client: RawClient, origin_port: int) -> None:
        self._sides = {downstream(client): "downstream", f"->127.0.0.1:{origin_port}]": "upstream"}
        self.calls = calls
        self.downstream = self._first_fd("downstream")
        self.upstream = self._first_fd("upstream")

    def steps(self) -> list[str]:
        """Everything that moves bytes, opens or checks a connection, and the events in front of it."""
        return [step for call in self.calls for step in self._named(call)]

    def _first_fd(self, side: str) -> int:
        return next((call.fd for call in self.calls if call.name in MOVES_BYTES and self._side(call) == side), -1)

    def _named(self, call: Call) -> list[str]:
        if call.name.startswith("epoll"):
            return self._events(call.arguments)
        if call.name == "socket" and call.result == self.upstream:
            return ["socket upstream"]
        if call.name == "connect" and call.fd == self.upstream:
            return ["connect upstream"]
        side = self._side(call)
        if side and (call.name in MOVES_BYTES or (call.name == "getsockopt" and "SO_ERROR" in call.arguments)):
            return [f"{call.name} {side}"]
        return []

    def _events(self, text: str) -> list[str]:
        kinds = {
            f"EPOLLIN, data={{u32={self.downstream},": "event A",
            f"EPOLLOUT, data={{u32={self.upstream},": "event B",
            f"EPOLLIN, data={{u32={self.upstream},": "event C",
            f"EPOLLOUT, data={{u32={self.downstream},": "event D",
        }
        return [event for mark, event in kinds.items() if mark in text]

    def _side(self, call: Call) -> str:
        return next((side for mark, side in self._sides.items() if mark in call.arguments), "")


def test_a_new_upstream_connection_takes_the_five_steps_in_order(stage: Stage, tmp_path: Path) -> None:
    lane = stage.lane()
    with stage.client() as client, Strace(stage.worker().pid, CALLS, tmp_path) as strace:
        client.send(lane.get())
        assert client.read_response()
        strace.wait("sendto", downstream(client))
    watch = Watch(strace.calls(), client, lane.origin.port)
    assert watch.steps() == NEW_CONNECTION
    calls = {call.name: call for call in watch.calls if call.name in ("connect", "getsockopt")}
    assert calls["connect"].rest.startswith("EINPROGRESS") or calls["connect"].result == 0
    assert "[0]" in calls["getsockopt"].arguments  # no error


def test_the_upstream_socket_does_not_block(stage: Stage, tmp_path: Path) -> None:
    lane = stage.lane()
    with stage.client() as client, Strace(stage.worker().pid, CALLS, tmp_path) as strace:
        client.send(lane.get())
        assert client.read_response()
        strace.wait("sendto", downstream(client))
    watch = Watch(strace.calls(), client, lane.origin.port)
    before = watch.calls[: [call.name for call in watch.calls].index("connect")]
    assert any(
        (call.name == "socket" and "SOCK_NONBLOCK" in call.arguments)
        or (call.name == "ioctl" and call.fd == watch.upstream and "FIONBIO, [1]" in call.arguments)
        or (call.name == "fcntl" and call.fd == watch.upstream and "O_NONBLOCK" in call.arguments)
        for call in before
    ), before


def test_a_keep_alive_request_costs_one_read_and_one_write_per_direction(stage: Stage, tmp_path: Path) -> None:
    lane = stage.lane()
    with stage.client() as client:
        client.send(lane.get())
        assert client.read_response()
        with Strace(stage.worker().pid, CALLS, tmp_path) as strace:
            for _ in range(3):
                client.send(lane.get(headers="user-agent: test\r\naccept: */*\r\n"))
                assert client.read_response()
            strace.wait("sendto", downstream(client), 3)
        assert len(lane.origin.connections) == 1
    steps = Watch(strace.calls(), client, lane.origin.port).steps()
    assert steps == REUSED_CONNECTION * 3


def test_what_the_client_does_not_take_waits_for_event_d(stage: Stage, tmp_path: Path) -> None:
    lane = stage.lane()
    size = 8 << 20  # more than the sockets' buffers hold
    body = Send(b"%x\r\n%b\r\n" % (size, bytes(size)))  # chunked: it passes through the worker's memory
    head = Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    lane.origin.play([Answer([head, body, Send(b"0\r\n\r\n")])])
    with stage.client(receive_buffer=65536) as client:
        with Strace(stage.worker().pid, CALLS, tmp_path) as strace:
            client.send(lane.get())
            lane.origin.wait_requests(1)
            wait_quiet(lambda: stage.stats("tx_bytes")["http.main.downstream_cx_tx_bytes_total"], quiet_s=1.2)
            assert client.read_response()
        steps = Watch(strace.calls(), client, lane.origin.port).steps()
    assert "event D" in steps
    after = steps[steps.index("event D") + 1 :]
    assert after[0] in ("sendto downstream", "sendmsg downstream"), after[:5]

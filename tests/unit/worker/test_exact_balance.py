"""A listener with ``exact_balance``: what it counts on the board, and what becomes of connections handed to it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.unit.worker.fakes import FakeSocket, Peer
from tests.unit.worker.plane import BALANCE_SLOT, Plane, listener
from workerproxy.control.board import LimitsBoard
from workerproxy.worker.network.connection_balancer import ConnectionBalancer, Share

BALANCED: Any = {"connection_balance_config": {"exact_balance": {}}}
LIMIT = {"envoy.resource_limits.listener.a.connection_limit": 1}


class Lab(Plane):
    """This worker and, in the group, one more that takes part once it is started. ``of_other``: what that one got."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.of_other: list[socket.socket] = []
        board = LimitsBoard(self.board_memory, 1, 2)
        self.context.board.set_rows(2)
        self.balancer = ConnectionBalancer(cast(Any, self.loop), board, -1, lambda _, sock: self.of_other.append(sock))
        self.plane.balance_group([0, 1], self.queue[0].dup(), self.sending_ends())
        self.bind(1)

    def sending_ends(self) -> list[socket.socket]:
        return [self.queue[1].dup(), self.other[1].dup()]

    def start_other(self) -> None:
        self.balancer.share("a", BALANCE_SLOT).begin(0)
        self.balancer.join([0, 1], self.other[0].dup(), self.sending_ends())

    @property
    def share(self) -> Share:
        return self.plane._balancer._shares["a"]

    @property
    def count(self) -> int:
        """How many connections the board says this worker has."""
        return self.share.loads()[0]

    def handed(self, name: str = "a") -> Peer:
        sock = FakeSocket(self.network)
        self.plane._on_handed_over(name, cast(Any, sock))
        return sock.peer

    def close(self) -> None:
        self.plane.close_all()
        self.balancer.close()
        for sock in (*self.queue, *self.other):
            sock.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


def test_what_a_balanced_listener_has_open_is_on_the_board(lab: Lab) -> None:
    lab.commit({"a": [1]}, listener("a", **BALANCED))
    accepted, handed = lab.client(), lab.handed()
    assert lab.count == 2
    assert lab.exchange(accepted)
    assert lab.exchange(handed)
    assert lab.shown().counters["listener.10.0.0.1_80.downstream_cx_total"] == 2
    accepted.fin()
    assert lab.count == 1
    handed.reset()
    assert lab.count == 0


def test_it_can_be_switched_on_and_off(lab: Lab) -> None:
    lab.commit({"a": [1]}, listener("a"))
    clients = [lab.client(), lab.client()]
    assert not lab.plane._balancer._shares
    lab.commit({"a": [1]}, listener("a", **BALANCED))
    assert lab.count == 2
    clients[0].fin()
    assert lab.count == 1
    lab.commit({"a": [1]}, listener("a"))
    assert lab.share.loads() == {}
    clients[1].fin()
    clients += [lab.client(), lab.handed(), lab.client()]
    assert lab.exchange(clients[-2])
    lab.commit({"a": [1]}, listener("a", **BALANCED))
    assert lab.count == 3
    for client in clients[2:]:
        client.fin()
    assert lab.count == 0


def test_connections_over_the_limit_do_not_count(lab: Lab) -> None:
    runtime = {"layered_runtime": {"layers": [{"name": "l", "static_layer": LIMIT}]}}
    lab.commit({"a": [1]}, listener("a", **BALANCED), **runtime)
    first, refused, handed = lab.client(), lab.client(), lab.handed()
    assert (first.is_closed, refused.is_closed, handed.is_closed) == (False, True, True)
    assert lab.count == 1
    first.fin()
    assert lab.count == 0


def test_an_old_listener_of_the_same_name_does_not_count(lab: Lab) -> None:
    lab.commit({"a": [1]}, listener("a", **BALANCED))
    old = lab.client()
    lab.bind(2, port=81)
    lab.commit({"a": [2]}, listener("a", 81, **BALANCED))
    lab.client(1)
    assert lab.count == 0
    new = lab.client(2)
    old.fin()
    assert lab.count == 1
    new.fin()
    assert lab.count == 0


def test_a_connection_handed_to_a_listener_that_was_removed_drains_with_it(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.commit({"a": [1]}, listener("a", **BALANCED))
    lab.commit({})
    client = lab.handed()
    assert lab.exchange(client)[b"connection"] == b"close"
    client.fin()
    lab.plane.stop_accepting([1])
    assert lab.plane.active_connections() == 0
    with caplog.at_level(logging.WARNING, "workerproxy"):
        assert lab.handed().is_closed
    assert [record.getMessage() for record in caplog.records] == [
        "listener a is gone: a connection that was handed over is closed"
    ]


def test_a_client_that_left_while_it_was_handed_over_counts_nowhere(lab: Lab) -> None:
    lab.commit({"a": [1]}, listener("a", **BALANCED))
    sock = FakeSocket(lab.network)
    sock.peer.reset()
    lab.plane._on_handed_over("a", cast(Any, sock))
    assert sock.is_closed
    assert lab.count == 0


@pytest.mark.parametrize("stopping", [False, True])
def test_a_worker_that_stops_to_accept_serves_what_is_queued_itself(lab: Lab, stopping: bool) -> None:
    """The others may be about to leave too."""
    lab.commit({"a": [1]}, listener("a", **BALANCED))
    lab.client()
    lab.start_other()
    client, accepted = socket.socketpair()
    lab.sockets[1, 0].backlog.append((cast(Any, accepted), ("192.0.2.7", 5000)))
    if stopping:
        lab.plane.stop_accepting(None)
    lab.loop.run()
    assert lab.plane.active_connections() == (2 if stopping else 1)
    assert len(lab.of_other) == (0 if stopping else 1)
    client.close()
    for sock in lab.of_other:
        sock.close()

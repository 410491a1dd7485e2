"""From one configuration's listeners to the next one's: what keeps its sockets, what is bound, what drains."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from google.protobuf import json_format

from tests.support.ports import free_port
from workerproxy.main_thread.listener_manager import ACTIVE, CLOSED, DRAINING, ListenerManager
from workerproxy.main_thread.listener_sockets import ListenError


@pytest.fixture
def manager() -> Iterator[ListenerManager]:
    one = ListenerManager(2)
    yield one
    one.close_all()


def tcp(name: str, port: int = 0, **more: Any) -> Any:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return json_format.ParseDict({"name": name, "address": address, **more}, listener_pb2.Listener())


def adopt(manager: ListenerManager, *configs: Any) -> Any:
    plan = manager.plan(configs)
    manager.adopt(plan)
    return plan


def numbers(manager: ListenerManager) -> dict[str, list[int]]:
    return {name: [bind.bind_id for bind in one.binds] for name, one in manager.active.items()}


def test_what_is_the_same_keeps_its_sockets_and_its_identity(manager: ListenerManager) -> None:
    port = free_port()
    adopt(manager, tcp("a", port))
    before = manager.active["a"]
    plan = adopt(manager, tcp("a", port, per_connection_buffer_limit_bytes=1))
    assert manager.active["a"] is before
    assert (plan.opened, plan.gone, plan.removed) == ([], [], [])
    assert before.config.per_connection_buffer_limit_bytes.value == 1


def test_a_renamed_listener_takes_the_sockets_along(manager: ListenerManager) -> None:
    port = free_port()
    adopt(manager, tcp("a", port))
    (bind,) = manager.active["a"].binds
    plan = adopt(manager, tcp("b", port))
    assert manager.active["b"].binds == [bind]
    assert (plan.opened, plan.gone) == ([], [])
    assert [one.name for one in plan.removed] == ["a"]


def test_two_listeners_swap_their_addresses(manager: ListenerManager) -> None:
    first, second = free_port(), free_port()
    adopt(manager, tcp("a", first), tcp("b", second))
    before = numbers(manager)
    plan = adopt(manager, tcp("a", second), tcp("b", first))
    assert numbers(manager) == {"a": before["b"], "b": before["a"]}
    assert (plan.opened, plan.gone) == ([], [])


def test_a_moved_listener_is_bound_anew_and_the_old_one_drains(manager: ListenerManager) -> None:
    adopt(manager, tcp("a", free_port()))
    old = manager.active["a"]
    plan = adopt(manager, tcp("a", free_port()))
    assert (old.state, manager.active["a"].state) == (DRAINING, ACTIVE)
    assert manager.draining == [old]
    assert plan.gone == old.binds
    manager.close(plan.gone)
    manager.drained([old])
    assert (old.state, manager.draining) == (CLOSED, [])


def test_port_0_stays_where_it_is(manager: ListenerManager) -> None:
    adopt(manager, tcp("a"))
    address = manager.active["a"].addresses
    adopt(manager, tcp("a"), tcp("b"))
    assert manager.active["a"].addresses == address
    assert manager.active["b"].addresses != address


def test_a_refused_plan_leaves_nothing_open(manager: ListenerManager) -> None:
    port = free_port()
    adopt(manager, tcp("a"))
    plan = manager.plan([tcp("a"), tcp("b", port)])
    manager.discard(plan)
    assert list(manager.active) == ["a"]
    assert len(manager.binds) == 1
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_all_addresses_that_cannot_be_had_are_named(manager: ListenerManager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
        with pytest.raises(ListenError) as raised:
            manager.plan([tcp("a", ports[0]), tcp("b"), tcp("c", ports[1])])
    lines = str(raised.value).splitlines()
    assert [("'a'" in line, "'c'" in line) for line in lines] == [(True, False), (False, True)]
    assert manager.binds == {}


def test_an_option_that_needs_the_address_free_is_refused_by_name(manager: ListenerManager) -> None:
    port = free_port()
    adopt(manager, tcp("a", port))
    with pytest.raises(ListenError, match="listener 'a': its socket options changed"):
        manager.plan([tcp("a", port, enable_reuse_port=False)])
    assert manager.active["a"].state == ACTIVE


def test_a_trial_binds_and_does_not_listen(manager: ListenerManager) -> None:
    port = free_port()
    plan = manager.plan([tcp("a", port)], trial=True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1.0)
    manager.discard(plan)


def test_a_changed_backlog_applies_to_the_sockets_there_are(manager: ListenerManager) -> None:
    port = free_port()
    adopt(manager, tcp("a", port, enable_reuse_port=False))
    plan = adopt(manager, tcp("a", port, enable_reuse_port=False, tcp_backlog_size=1))
    assert plan.opened == []
    clients = [socket.socket() for _ in range(8)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
    (sock,) = manager.active["a"].binds[0].sockets
    accepted = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            break
        accepted += 1
    assert accepted <= 2
    for client in clients:
        client.close()


def test_given_sockets_are_taken_by_address_and_by_name_for_port_0(tmp_path: Path) -> None:
    giving = ListenerManager(2)
    port = free_port()
    path = str(tmp_path / "s.sock")
    pipe = json_format.ParseDict({"name": "p", "address": {"pipe": {"path": path}}}, listener_pb2.Listener())
    adopt(giving, tcp("a", port), tcp("zero"), pipe)
    taking = ListenerManager(3)
    for listener in giving.active.values():
        for bind in listener.binds:
            taking.give([sock.dup() for sock in bind.sockets], shared=bind.shared, listener=listener.name)
    plan = adopt(taking, tcp("a", port), tcp("zero"), pipe, tcp("new"))
    assert taking.active["a"].addresses == giving.active["a"].addresses
    assert taking.active["zero"].addresses == giving.active["zero"].addresses
    assert taking.active["p"].addresses == [path]
    assert [len(one.binds[0].sockets) for one in plan.listeners.values()] == [3, 3, 1, 3]
    assert taking.not_taken() == []
    for one in giving.active.values():
        one.binds[0].pipe_path = ""
    giving.close_all()
    taking.close_all()


def test_what_was_given_and_is_not_wanted_is_left_to_the_caller() -> None:
    giving, taking = ListenerManager(1), ListenerManager(1)
    adopt(giving, tcp("a", free_port()))
    (bind,) = giving.active["a"].binds
    taking.give([bind.sockets[0].dup()], shared=False)
    adopt(taking, tcp("b", free_port()))
    (left,) = taking.not_taken()
    assert left.address == bind.address
    left.close()
    giving.close_all()
    taking.close_all()

"""Listening sockets: one for each worker, the same port, and clear errors."""

from __future__ import annotations

import base64
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from google.protobuf import json_format

from workerproxy.main_thread.listener_sockets import Bind, BindKey, ListenError, open_bind


def listener(address: dict[str, Any], **more: Any) -> Any:
    return json_format.ParseDict({"name": "l", "address": address, **more}, listener_pb2.Listener())


def tcp(ip: str = "127.0.0.1", port: int = 0, **more: Any) -> Any:
    return listener({"socket_address": {"address": ip, "port_value": port}}, **more)


def open_listeners(listeners: list[Any], workers: int) -> list[Bind]:
    return [open_bind(one, number, workers) for number, one in enumerate(listeners)]


def test_every_worker_has_a_socket_of_its_own_on_the_same_port() -> None:
    (opened,) = open_listeners([tcp()], 3)
    try:
        ports = {sock.getsockname()[1] for sock in opened.sockets}
        assert len(opened.sockets) == len({sock.fileno() for sock in opened.sockets}) == 3
        assert ports == {int(opened.address.rpartition(":")[2])}
        assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in opened.sockets)
    finally:
        opened.close()
    assert all(sock.fileno() < 0 for sock in opened.sockets)


def test_ipv6_addresses_are_printed_in_brackets() -> None:
    (opened,) = open_listeners([tcp("::1")], 1)
    assert opened.address.startswith("[::1]:")
    opened.close()


def test_a_pipe_is_shared_has_its_mode_and_is_removed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    (opened,) = open_listeners([listener({"pipe": {"path": str(path), "mode": 0o600}})], 2)
    assert opened.shared
    assert len(opened.sockets) == 1
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    opened.close()
    assert not path.exists()


def test_a_stale_pipe_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    (opened,) = open_listeners([listener({"pipe": {"path": str(path)}})], 1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    opened.close()


def test_a_pipe_somebody_listens_on_and_a_plain_file_stay(tmp_path: Path) -> None:
    busy, plain = tmp_path / "busy", tmp_path / "plain"
    plain.write_text("data")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(busy))
        other.listen()
        with pytest.raises(ListenError, match="in use"):
            open_listeners([listener({"pipe": {"path": str(busy)}})], 1)
    with pytest.raises(ListenError, match="no socket"):
        open_listeners([listener({"pipe": {"path": str(plain)}})], 1)
    assert plain.read_text() == "data"


def test_an_address_in_use_is_named_with_its_listener_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ListenError, match=rf"cannot listen on 127\.0\.0\.1:{port} \(listener 'l'\): .* in use"):
            open_listeners([tcp(port=port)], 2)
        assert len(os.listdir("/proc/self/fd")) == before


def test_an_address_this_machine_does_not_have_is_said() -> None:
    with pytest.raises(ListenError, match="no such address"):
        open_listeners([tcp("192.0.2.1")], 1)


def options_of(**more: Any) -> socket.socket:
    """A listening socket with these fields of the listener."""
    (opened,) = open_listeners([tcp(**more)], 1)
    return opened.sockets[0]


def test_without_reuse_port_all_workers_share_one_socket() -> None:
    (opened,) = open_listeners([tcp(enable_reuse_port=False)], 3)
    assert opened.shared
    assert len(opened.sockets) == 1
    assert not opened.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    opened.close()


def test_with_freebind_an_address_of_no_interface_can_be_listened_on() -> None:
    with options_of(ip="192.0.2.1", freebind=True) as sock:
        assert sock.getsockname()[0] == "192.0.2.1"


def test_fast_open_is_asked_for() -> None:
    with options_of(tcp_fast_open_queue_length=16) as sock, options_of() as plain:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN) == 16
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN) == 0


@pytest.mark.parametrize("state", ["STATE_PREBIND", "STATE_BOUND", "STATE_LISTENING"])
def test_socket_options_are_set_in_any_state(state: str) -> None:
    number = {"level": socket.SOL_SOCKET, "name": socket.SO_KEEPALIVE, "int_value": 1, "state": state}
    linger = struct.pack("ii", 1, 7)
    text = {"level": socket.SOL_SOCKET, "name": socket.SO_LINGER, "buf_value": base64.b64encode(linger), "state": state}
    with options_of(socket_options=[number, text]) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(linger)) == linger


def test_a_socket_option_the_system_refuses_names_the_listener() -> None:
    option = {"level": socket.SOL_SOCKET, "name": 0x7FFF, "int_value": 1}
    with pytest.raises(ListenError, match=r"cannot listen on 127\.0\.0\.1:0 \(listener 'l'\): "):
        open_listeners([tcp(socket_options=[option])], 1)


def test_a_bind_grows_on_its_own_port_and_a_shared_one_does_not() -> None:
    config = tcp()
    (opened,) = open_listeners([config], 1)
    opened.grow(config, 3)
    assert {sock.getsockname() for sock in opened.sockets} == {opened.sockets[0].getsockname()}
    assert len(opened.sockets) == 3
    opened.grow(config, 2)
    assert len(opened.sockets) == 3  # none is ever closed for being too many
    opened.close()
    alone = tcp(enable_reuse_port=False)
    (shared,) = open_listeners([alone], 1)
    shared.grow(alone, 3)
    assert len(shared.sockets) == 1
    shared.close()


def test_new_connections_are_steered_to_as_many_sockets_as_there_are_readers() -> None:
    (opened,) = open_listeners([tcp()], 4)
    address = opened.sockets[0].getsockname()

    def arrivals() -> list[int]:
        clients = [socket.create_connection(address) for _ in range(80)]
        counts = []
        for sock in opened.sockets:
            accepted = 0
            while True:
                try:
                    sock.accept()[0].close()
                except BlockingIOError:
                    break
                accepted += 1
            counts.append(accepted)
        for client in clients:
            client.close()
        return counts

    opened.steer(2)
    assert opened.steered_to == 2
    first, second, *others = arrivals()
    assert others == [0, 0]
    assert min(first, second) > 10
    opened.steer(4)
    assert min(arrivals()) > 0
    opened.close()


def test_who_begins_after_refuse_new_is_not_answered_and_who_came_before_is_accepted() -> None:
    (opened,) = open_listeners([tcp()], 1)
    address = opened.sockets[0].getsockname()
    with socket.create_connection(address):
        opened.refuse_new()
        with pytest.raises(TimeoutError):
            socket.create_connection(address, 0.3)
        opened.sockets[0].accept()[0].close()
    opened.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 1.0)


def test_the_same_address_with_the_same_options_is_the_same_bind_whatever_the_listener_is_called() -> None:
    one, other = tcp(port=1), tcp(port=1)
    other.name = "other"
    other.tcp_backlog_size.value = 7
    assert BindKey.of(one) == BindKey.of(other)
    assert BindKey.of(one) != BindKey.of(tcp(port=1, freebind=True))
    assert BindKey.of(one) != BindKey.of(tcp(port=2))
    any_port, of_other = tcp(), tcp()
    of_other.name = "other"
    assert BindKey.of(any_port) == BindKey.of(tcp())
    assert BindKey.of(any_port) != BindKey.of(of_other)

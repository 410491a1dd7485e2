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

from workerproxy.main_thread.listener_sockets import ListenError, open_listeners


def listener(address: dict[str, Any], **more: Any) -> Any:
    return json_format.ParseDict({"name": "l", "address": address, **more}, listener_pb2.Listener())


def tcp(ip: str = "127.0.0.1", port: int = 0, **more: Any) -> Any:
    return listener({"socket_address": {"address": ip, "port_value": port}}, **more)


def test_every_worker_has_a_socket_of_its_own_on_the_same_port() -> None:
    (opened,) = open_listeners([tcp()], 3)
    try:
        ports = {sock.getsockname()[1] for sock in opened.sockets}
        assert len(opened.sockets) == len({sock.fileno() for sock in opened.sockets}) == 3
        assert ports == {int(opened.address.rpartition(":")[2])}
        assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in opened.sockets)
    finally:
        opened.close()
    assert not opened.open


def test_ipv6_addresses_are_printed_in_brackets() -> None:
    (opened,) = open_listeners([tcp("::1")], 1)
    assert opened.address.startswith("[::1]:")
    opened.close()


def test_a_pipe_is_shared_has_its_mode_and_is_removed_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    (opened,) = open_listeners([listener({"pipe": {"path": str(path), "mode": 0o600}})], 2)
    assert opened.for_worker(0) is opened.for_worker(1)
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
            open_listeners([tcp(), tcp(port=port)], 2)
        assert len(os.listdir("/proc/self/fd")) == before


def test_an_address_this_machine_does_not_have_is_said() -> None:
    with pytest.raises(ListenError, match="no such address"):
        open_listeners([tcp("192.0.2.1")], 1)


def test_a_listener_that_is_not_to_be_bound_has_no_socket() -> None:
    assert open_listeners([tcp(bind_to_port=False)], 1) == []


def options_of(**more: Any) -> socket.socket:
    """A listening socket with these fields of the listener."""
    (opened,) = open_listeners([tcp(**more)], 1)
    return opened.for_worker(0)


def test_without_reuse_port_all_workers_share_one_socket() -> None:
    (opened,) = open_listeners([tcp(enable_reuse_port=False)], 3)
    assert opened.for_worker(0) is opened.for_worker(2)
    assert not opened.for_worker(0).getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
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

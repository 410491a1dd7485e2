"""Listening sockets that ignore new handshakes, and what was accepted meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from workerproxy.control.listen_filter import deafens, hear_again, refuse_new, take_new

FAMILIES = [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]


def listening(ip: str, family: int) -> socket.socket:
    sock = socket.create_server((ip, 0), family=family)
    sock.setblocking(False)
    return sock


def can_connect(sock: socket.socket) -> bool:
    try:
        socket.create_connection(sock.getsockname()[:2], 0.3).close()
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(("ip", "family"), FAMILIES)
def test_a_handshake_that_begins_later_is_ignored_until_new_ones_are_taken_again(ip: str, family: int) -> None:
    with listening(ip, family) as sock:
        refuse_new(sock)
        assert not can_connect(sock)
        take_new(sock)
        take_new(sock)  # twice is as good as once
        assert can_connect(sock)


@pytest.mark.parametrize(("ip", "family"), FAMILIES)
def test_where_no_filter_is_taken_a_minimum_ttl_does_the_same(
    ip: str, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(sock: socket.socket) -> None:
        raise PermissionError

    monkeypatch.setattr("workerproxy.control.listen_filter._refuse_by_filter", refuse)
    with listening(ip, family) as sock, socket.create_connection(sock.getsockname()[:2]) as early:
        refuse_new(sock)
        assert deafens(sock)
        assert not can_connect(sock)
        accepted, _ = sock.accept()
        with accepted:
            hear_again(accepted)
            early.sendall(b"queued before")
            accepted.settimeout(3.0)
            assert accepted.recv(100) == b"queued before"
        take_new(sock)
        assert not deafens(sock)
        assert can_connect(sock)


def test_a_unix_socket_is_left_alone() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("")
        sock.listen()
        refuse_new(sock)
        take_new(sock)
        assert not deafens(sock)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_ordinary_user_can_do_it_too() -> None:
    program = (
        "import encodings.idna, os, socket, sys; sys.path[:0] = sys.argv[1:]\n"
        "from workerproxy.control.listen_filter import refuse_new\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.create_server(('127.0.0.1', 0))\n"
        "refuse_new(sock)\n"
        "try: socket.create_connection(sock.getsockname(), 0.3)\n"
        "except TimeoutError: print('ignored')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *sys.path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ignored\n", "")

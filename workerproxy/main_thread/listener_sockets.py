"""The listening sockets. They belong to the main process: one SO_REUSEPORT socket per worker and listener.

Opened and listening before any worker starts, and kept open here, so that a dead worker's accept queue lives on and its
successor serves it. Worker i always gets socket i. A pipe, and a listener with ``enable_reuse_port: false``, has one
socket that all workers share. ``port_value: 0`` takes a free port, the same for all workers.

Reads of ``listener.v3.Listener``: address, enable_reuse_port, tcp_backlog_size, bind_to_port, freebind, transparent,
tcp_fast_open_queue_length, socket_options, and of addresses protocol, ipv4_compat, pipe.mode.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workerproxy.control.names import address_text, listener_name

_log = logging.getLogger("workerproxy.main")

_SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
_FALLBACK_BACKLOG: Final = 128
_PREBIND, _BOUND, _LISTENING = 0, 1, 2  # core.v3.SocketOption.SocketState

# Linux numbers Python 3.11 has no names for.
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75


class ListenError(Exception):
    """A listening socket cannot be had; the text names the listener, the address and the reason."""


@dataclass(slots=True)
class ListenerSockets:
    """The sockets of one listener; ``sockets[i]`` is worker i's."""

    name: str
    address: str  # what was bound: "127.0.0.1:8080", "/run/x.sock"
    sockets: list[socket.socket]
    pipe_path: str = ""  # to be removed in the end

    @property
    def open(self) -> bool:
        """Whether this process still has it; a worker that is started later gets none of a closed one."""
        return self.sockets[0].fileno() >= 0

    def for_worker(self, worker_id: int) -> socket.socket:
        return self.sockets[worker_id]

    def close(self) -> None:
        """Give up this process's copies, and remove a pipe's file: nobody listens there any more."""
        for sock in self.sockets:
            sock.close()
        if self.pipe_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.pipe_path)
            self.pipe_path = ""


def open_listeners(listeners: Sequence[Any], workers: int) -> list[ListenerSockets]:
    """Open every listener's sockets. Raises ``ListenError``; what was opened until then is closed again."""
    opened: list[ListenerSockets] = []
    try:
        for listener in listeners:
            if listener.HasField("bind_to_port") and not listener.bind_to_port.value:
                continue
            opened.append(_open_listener(listener, workers))
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def _open_listener(listener: Any, workers: int) -> ListenerSockets:
    name = listener_name(listener)
    where = address_text(listener.address)
    opened: list[socket.socket] = []
    try:
        if listener.address.WhichOneof("address") == "pipe":
            return _open_pipe(listener, name, workers)
        reuse = not listener.HasField("enable_reuse_port") or listener.enable_reuse_port.value
        bind_to = _ip_address(listener.address.socket_address)
        for _ in range(workers if reuse else 1):
            sock = _open_tcp(listener, bind_to, reuse)
            opened.append(sock)
            bind_to = (bind_to[0], sock.getsockname()[1])  # port 0: the others take the first one's
    except OSError as error:
        for sock in opened:
            sock.close()
        raise ListenError(f"cannot listen on {where} (listener {name!r}): {_reason(error, where)}") from None
    ip, port = opened[0].getsockname()[:2]
    actual = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    _log.debug("listener %s: %d sockets on %s", name, len(opened), actual)
    return ListenerSockets(name, actual, opened if reuse else opened * workers)


def _ip_address(address: Any) -> tuple[str, int]:
    return address.address, address.port_value


def _open_tcp(listener: Any, bind_to: tuple[str, int], reuse_port: bool) -> socket.socket:
    v6 = ":" in bind_to[0]
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if v6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not listener.address.socket_address.ipv4_compat)
        if listener.freebind.value:
            sock.setsockopt(*((socket.IPPROTO_IPV6, _IPV6_FREEBIND) if v6 else (socket.IPPROTO_IP, _IP_FREEBIND)), 1)
        if listener.transparent.value:
            level, option = (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if v6 else (socket.IPPROTO_IP, _IP_TRANSPARENT)
            sock.setsockopt(level, option, 1)
        _set_options(sock, listener, _PREBIND)
        sock.bind(bind_to)
        _set_options(sock, listener, _BOUND)
        if listener.HasField("tcp_fast_open_queue_length"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, listener.tcp_fast_open_queue_length.value)
        sock.listen(_backlog(listener))
        _set_options(sock, listener, _LISTENING)
    except BaseException:
        sock.close()
        raise
    return sock


def open_admin_socket(address: Any) -> tuple[socket.socket, str]:
    """The one socket of the admin listener, and the file to remove in the end ("" for none). Raises ``ListenError``."""
    try:
        if address.WhichOneof("address") == "pipe":
            return _bind_pipe(address.pipe, _FALLBACK_BACKLOG)
        at = address.socket_address
        v6 = ":" in at.address
        sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not at.ipv4_compat)
            sock.bind((at.address, at.port_value))
            sock.listen(_FALLBACK_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        where = address_text(address)
        raise ListenError(f"cannot listen on {where} (admin): {_reason(error, where)}") from None
    return sock, ""


def _open_pipe(listener: Any, name: str, workers: int) -> ListenerSockets:
    sock, path = _bind_pipe(listener.address.pipe, _backlog(listener))
    return ListenerSockets(name, listener.address.pipe.path, [sock] * workers, path)


def _bind_pipe(pipe: Any, backlog: int) -> tuple[socket.socket, str]:
    abstract = pipe.path.startswith("@")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if not abstract:
            _remove_stale(pipe.path)
        sock.bind("\0" + pipe.path[1:] if abstract else pipe.path)
        if pipe.mode and not abstract:
            os.chmod(pipe.path, pipe.mode)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock, "" if abstract else pipe.path


def _remove_stale(path: str) -> None:
    """Remove what a crashed process left behind. A socket somebody listens on, or another kind of file, stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "the file exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _set_options(sock: socket.socket, listener: Any, state: int) -> None:
    for option in listener.socket_options:
        if option.state == state:
            value = option.int_value if option.WhichOneof("value") == "int_value" else option.buf_value
            sock.setsockopt(option.level, option.name, value)


def _backlog(listener: Any) -> int:
    if listener.HasField("tcp_backlog_size"):
        return int(listener.tcp_backlog_size.value)
    try:
        return int(_SOMAXCONN.read_text())
    except (OSError, ValueError):
        return _FALLBACK_BACKLOG


def _reason(error: OSError, where: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use by another program"
    if error.errno in (errno.EACCES, errno.EPERM) and not where.startswith(("/", "@")):
        return "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return error.strerror or str(error)

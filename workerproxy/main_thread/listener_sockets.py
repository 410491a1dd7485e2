"""How listening sockets are opened. They belong to the main process: one SO_REUSEPORT socket per worker and address.

Opened and listening before any worker reads them, and kept open here, so that a dead worker's accept queue lives on. A
pipe, and a listener with ``enable_reuse_port: false``, has one socket that all workers share. ``port_value: 0`` takes a
free port, the same for all workers. Mechanism only: ``listener_manager`` knows which there are, ``socket_shares`` who
reads them.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workerproxy.control.listen_filter import refuse_new, steer_to_all, steer_to_first, take_new
from workerproxy.control.names import address_text, listener_name

_log = logging.getLogger("workerproxy.main")

_SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
_FALLBACK_BACKLOG: Final = 128
_PREBIND, _BOUND, _LISTENING = 0, 1, 2  # core.v3.SocketOption.SocketState

# Fields of listener.v3.Listener, besides address and socket_options, that shape its sockets when they are opened. The
# backlog is not among them: it can change while they listen.
_SHAPE: Final = ("enable_reuse_port", "freebind", "transparent", "tcp_fast_open_queue_length")

# Linux numbers Python 3.11 has no names for.
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75


class ListenError(Exception):
    """A listening socket cannot be had; the text names the listener, the address and the reason."""


@dataclass(frozen=True, slots=True)
class BindKey:
    """What makes two listeners, of two versions of the configuration, want the same sockets."""

    address: bytes  # core.v3.Address, serialized
    options: bytes  # the rest that shapes the sockets, serialized
    name: str = ""  # of the listener, where the address alone is no identity: port 0

    @classmethod
    def of(cls, listener: Any) -> BindKey:
        shape = type(listener)()
        for field in _SHAPE:
            if listener.HasField(field):
                getattr(shape, field).CopyFrom(getattr(listener, field))
        shape.socket_options.extend(listener.socket_options)
        address = listener.address
        any_port = address.WhichOneof("address") == "socket_address" and not address.socket_address.port_value
        return cls(
            address.SerializeToString(deterministic=True),
            shape.SerializeToString(deterministic=True),
            listener_name(listener) if any_port else "",
        )


@dataclass(slots=True, eq=False)
class Bind:
    """One bound address and its sockets; ``sockets`` are in the order in which they began to listen.

    ``shared``: there is one socket, which all workers read (a pipe, ``enable_reuse_port: false``, or a socket that was
    given to this process without SO_REUSEPORT).
    """

    bind_id: int
    key: BindKey
    address: str  # what was bound: "127.0.0.1:8080", "/run/x.sock"
    sockets: list[socket.socket]
    shared: bool
    pipe_path: str = ""  # to be removed in the end
    of_unit: bool = False  # a socket unit of systemd holds the sockets, whatever becomes of this process
    steered_to: int = 0  # new connections go to the first so many sockets; 0: to all

    def __repr__(self) -> str:
        return f"<Bind {self.bind_id} {self.address} {len(self.sockets)} sockets{' shared' if self.shared else ''}>"

    def grow(self, listener: Any, count: int) -> None:
        """Have at least ``count`` sockets. Raises ``ListenError``; then there are as many as before."""
        added: list[socket.socket] = []
        try:
            while not self.shared and len(self.sockets) + len(added) < count:
                added.append(_open_tcp(listener, self.sockets[0].getsockname()[:2], True))
        except OSError as error:
            for sock in added:
                sock.close()
            raise _listen_error(listener, error) from None
        self.sockets += added

    def steer(self, readers: int) -> None:
        """Tell the kernel how many workers there are, when there are fewer than sockets: each gets an equal share."""
        count = readers if 0 < readers < len(self.sockets) and not self.shared else 0
        if count == self.steered_to:
            return
        try:
            steer_to_first(self.sockets[0], count) if count else steer_to_all(self.sockets[0])
            self.steered_to = count
        except OSError as error:  # then workers with two sockets get twice as much, and nothing is lost
            _log.info("listener on %s: new connections are not steered: %s", self.address, error.strerror)

    def set_backlog(self, listener: Any) -> None:
        for sock in self.sockets:
            sock.listen(backlog_of(listener))

    def refuse_new(self) -> None:
        """New handshakes are ignored from now on; a pipe's file is removed, so that nobody finds it."""
        for sock in self.sockets:
            try:
                refuse_new(sock)
            except OSError as error:
                _log.info("listener on %s: handshakes under way may be reset: %s", self.address, error.strerror)
                break
        self._remove_pipe()

    def take_new(self) -> None:
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                take_new(sock)

    def close(self) -> None:
        """Give up this process's copies, and remove a pipe's file: nobody listens there any more."""
        for sock in self.sockets:
            sock.close()
        self._remove_pipe()

    def _remove_pipe(self) -> None:
        if self.pipe_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.pipe_path)
            self.pipe_path = ""


def binds_to_port(listener: Any) -> bool:
    return not listener.HasField("bind_to_port") or bool(listener.bind_to_port.value)


def open_bind(listener: Any, bind_id: int, count: int, *, listen: bool = True) -> Bind:
    """Open the sockets of a ``listener.v3.Listener``, ``count`` of them. Raises ``ListenError``."""
    key = BindKey.of(listener)
    opened: list[socket.socket] = []
    try:
        if listener.address.WhichOneof("address") == "pipe":
            sock, path = _bind_pipe(listener.address.pipe, backlog_of(listener) if listen else None)
            return Bind(bind_id, key, listener.address.pipe.path, [sock], True, path)
        reuse = not listener.HasField("enable_reuse_port") or listener.enable_reuse_port.value
        bind_to = _ip_address(listener.address.socket_address)
        for _ in range(count if reuse else 1):
            sock = _open_tcp(listener, bind_to, reuse, listen=listen)
            opened.append(sock)
            bind_to = (bind_to[0], sock.getsockname()[1])  # port 0: the others take the first one's
    except OSError as error:
        for sock in opened:
            sock.close()
        raise _listen_error(listener, error) from None
    actual = listening_address(opened[0])
    _log.debug("listener %s: %d sockets on %s", listener_name(listener), len(opened), actual)
    return Bind(bind_id, key, actual, opened, not reuse)


def listening_address(sock: socket.socket) -> str:
    """What a socket is bound to, as Envoy prints it: ``127.0.0.1:80``, ``[::1]:80``, ``/run/x.sock``, ``@abstract``.

    "" for a Unix socket without a name.
    """
    bound = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        text = os.fsdecode(bound)
        return f"@{text[1:]}" if text.startswith("\0") else text
    ip, port = bound[:2]
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _listen_error(listener: Any, error: OSError) -> ListenError:
    where = address_text(listener.address)
    return ListenError(f"cannot listen on {where} (listener {listener_name(listener)!r}): {_reason(error, where)}")


def _ip_address(address: Any) -> tuple[str, int]:
    return address.address, address.port_value


def _open_tcp(listener: Any, bind_to: tuple[str, int], reuse_port: bool, *, listen: bool = True) -> socket.socket:
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
        if listen:
            sock.listen(backlog_of(listener))
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


def _bind_pipe(pipe: Any, backlog: int | None) -> tuple[socket.socket, str]:
    abstract = pipe.path.startswith("@")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if not abstract:
            _remove_stale(pipe.path)
        sock.bind("\0" + pipe.path[1:] if abstract else pipe.path)
        if pipe.mode and not abstract:
            os.chmod(pipe.path, pipe.mode)
        if backlog is not None:
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


def backlog_of(listener: Any) -> int:
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

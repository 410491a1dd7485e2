"""Envoy's way to a new program: ``--restart-epoch N`` asks the one with epoch N-1 through a Unix socket.

For those who have a wrapper that counts epochs (Envoy's ``hot-restarter.py``). Every program that was given one of the
hot-restart options listens on a socket whose name has the base id and its epoch; the next one connects there and takes
over as in an upgrade. ``--parent-shutdown-time-s`` later it tells the old one to end. The protocol inside is our own.

Reads of the command line: --base-id, --use-dynamic-base-id, --base-id-path, --restart-epoch, --socket-path,
--socket-mode, --parent-shutdown-time-s, --skip-hot-restart-on-no-parent, --skip-hot-restart-parent-stats.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket
from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.predecessor import HandOverError, Predecessor
from workerproxy.main_thread.successor import Successor

if TYPE_CHECKING:
    from workerproxy.config.options import Options
    from workerproxy.main_thread.server import Server

_log = logging.getLogger("workerproxy.main")

_DYNAMIC_TRIES: Final = 256
_DYNAMIC_IDS: Final = 1 << 24


class HotRestart:
    """The socket of this epoch. Made with ``open`` before anything else; ``start`` when a successor may come."""

    def __init__(self, sock: socket.socket, path: str, base_id: int) -> None:
        self._sock = sock
        self._path = path  # of a socket with a file, else empty
        self.base_id = base_id
        self._successors: set[Successor] = set()

    @classmethod
    def open(cls, options: Options) -> HotRestart:
        """Bind the socket of this epoch. Raises ``HandOverError``."""
        if not options.use_dynamic_base_id:
            return cls._open(options, options.base_id)
        for _ in range(_DYNAMIC_TRIES):
            with contextlib.suppress(HandOverError):
                return cls._open(options, random.randrange(_DYNAMIC_IDS))
        raise HandOverError("no free base id was found")

    @classmethod
    def _open(cls, options: Options, base_id: int) -> HotRestart:
        name = socket_name(options, base_id, options.restart_epoch)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if not name.startswith("\0"):
                _remove_dead(name)
            sock.bind(name)
            if not name.startswith("\0"):
                os.chmod(name, options.socket_mode)
            sock.listen(4)
        except OSError as error:
            sock.close()
            raise HandOverError(
                f"cannot listen on the domain socket of base id {base_id}, epoch {options.restart_epoch}: "
                f"{error.strerror}; another program with this base id runs (see --base-id)"
            ) from None
        if options.base_id_path:
            _write(options.base_id_path, str(base_id))
        return cls(sock, "" if name.startswith("\0") else name, base_id)

    def start(self, server: Server) -> None:
        self._server = server
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._on_connect)

    def _on_connect(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        sock.setblocking(False)
        if not _same_user(sock):
            _log.warning("hot restart: a process of another user asked; refused")
            sock.close()
            return
        successor = Successor(self._server, sock, self._server.operations.external_successor)
        self._successors.add(successor)
        successor.done.add_done_callback(lambda done: self._said(done, successor))

    def _said(self, done: asyncio.Future[str | None], successor: Successor) -> None:
        why = done.result()
        if why is not None:
            _log.error("hot restart failed, everything goes on as it was: %s", why)
            self._successors.discard(successor)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        for successor in self._successors:
            successor.close()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


def parent(options: Options) -> Predecessor | None:
    """The program of the epoch before; None when there is none and that is no error. Raises ``HandOverError``."""
    if not options.restart_epoch:
        return None
    name = socket_name(options, options.base_id, options.restart_epoch - 1)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(name)
    except OSError as error:
        sock.close()
        if options.skip_hot_restart_on_no_parent and error.errno in (errno.ECONNREFUSED, errno.ENOENT):
            _log.warning("hot restart: no program with epoch %d answers; starting anew", options.restart_epoch - 1)
            return None
        raise HandOverError(
            f"no program with base id {options.base_id} and epoch {options.restart_epoch - 1} answers: {error.strerror}"
        ) from None
    return Predecessor(sock)


def socket_name(options: Options, base_id: int, epoch: int) -> str:
    """``--socket-path`` with base id and epoch; a leading ``@`` is an abstract name, as in Envoy."""
    name = f"{options.socket_path}_workerproxy_{base_id}_{epoch}"
    return f"\0{name[1:]}" if name.startswith("@") else name


def _remove_dead(path: str) -> None:
    """The file of a program that is gone; one that answers stays, and binding fails."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


def _same_user(sock: socket.socket) -> bool:
    """Whoever gets our sockets must be who we are, or root (an abstract name has no file mode)."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little") in (0, os.geteuid())


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise HandOverError(f"cannot write the base id to {path}: {error.strerror}") from None

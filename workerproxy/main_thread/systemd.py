"""What passes between the main process and systemd: state, signs of life, and the listening sockets it keeps for us.

The notify protocol of ``sd_notify(3)`` (one datagram per message), the descriptor store (``FDSTORE=1``) and socket
activation (``sd_listen_fds(3)``), from their manual pages; libsystemd is not needed. Without ``NOTIFY_SOCKET`` every
call does nothing. Nothing here blocks or raises because of systemd: what its queue does not take now is sent with the
next call, and a socket that is gone is logged once. Only the main process speaks (``NotifyAccess=main``), so workers
get an environment without any of it (``without_systemd``). How it is used: ``docs/systemd.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import re
import socket
import stat
import time
from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from workerproxy.control.listen_filter import steer_to_all, take_new
from workerproxy.main_thread.listener_sockets import listening_address

_log = logging.getLogger("workerproxy.main")

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
STORED_PREFIX: Final = "workerproxy-"  # descriptors that we had stored are called so; no unit's sockets should be

_FDS_PER_MESSAGE: Final = 253  # SCM_MAX_FD, the kernel's limit for one datagram
_STATUS_MAX_BYTES: Final = 1024  # systemd drops a datagram of more than 4096 bytes
_WAITING_MAX: Final = 512  # messages kept until systemd takes them; then the oldest goes
_RETRY_S: Final = 5.0  # how often what waits is tried again where no watchdog gives the rhythm

_OURS: Final = ("LISTEN_", "WATCHDOG_")  # and NOTIFY_SOCKET


class ServiceManager(Protocol):
    """What the main process tells whoever supervises it."""

    def ready(self, status: str) -> None:
        """It serves: after the start, and at the end of every reload, refused or not."""

    def reloading(self, status: str) -> None:
        """A reload begins; ``ready`` ends it."""

    def stopping(self, status: str) -> None:
        """It drains and will end."""

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""

    def extend_timeout(self, seconds: float) -> None:
        """Starting or stopping goes on: be patient for so long from now."""

    def hand_over(self, pid: int) -> None:
        """That process is the main process from now on, and the only one to be heard; this one says no more."""

    def store_fds(self, name: str, fds: Sequence[int]) -> None:
        """Keep copies of these descriptors, and give them back under this name at the next start."""

    def remove_fds(self, name: str) -> None:
        """Forget all descriptors of this name."""

    def watchdog(self) -> None:
        """The main loop is alive."""


class Notifier:
    """The service manager at ``NOTIFY_SOCKET``, a path or an abstract address (``@name``); or nobody.

    ``watchdog_interval_s`` is how often ``watchdog`` must be called: half of what ``WATCHDOG_USEC`` allows; 0 is never.
    A successor does not ``speaks`` yet: systemd would not listen to it before it is the main process. What it has to
    say waits for ``speak``.
    """

    def __init__(self, environment: Mapping[str, str], pid: int, *, speaks: bool = True) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self.address = address if address.startswith(("/", "@")) else ""
        if address and not self.address:
            _log.debug("NOTIFY_SOCKET=%s is of no kind known here; nobody is notified", address)
        self.watchdog_interval_s = _watchdog_s(environment, pid) / 2 if self.address else 0.0
        self._speaks = speaks
        self._lost = False
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._socket: socket.socket | None = None
        if self.address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def __repr__(self) -> str:
        where = self.address if self.active else "nobody"
        return f"<Notifier {where} watchdog={self.watchdog_interval_s:g}s waiting={len(self._waiting)}>"

    @property
    def active(self) -> bool:
        """Whether there is somebody to tell."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def reloading(self, status: str) -> None:
        """With the time that ``Type=notify-reload`` (systemd 253) needs, to tell this reload from an earlier one."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS={_one_line(status)}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={_one_line(text)}")

    def extend_timeout(self, seconds: float) -> None:
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def speak(self) -> None:
        """This is the main process now, and systemd knows: say what has waited."""
        self._speaks = True
        self.flush()

    def main_pid(self, pid: int) -> None:
        self._send(f"MAINPID={pid}")

    def hand_over(self, pid: int) -> None:
        """``main_pid``, then silence: what a process says that is not the main process any more is not for systemd."""
        self.main_pid(pid)
        self.close()

    def watchdog(self) -> None:
        if self.watchdog_interval_s:
            self._send("WATCHDOG=1")
        else:
            self.flush()

    def store_fds(self, name: str, fds: Sequence[int]) -> None:
        """What is stored already is not stored twice. ``FDPOLL=0``: it stays, whatever becomes of its peer."""
        for start in range(0, len(fds), _FDS_PER_MESSAGE):
            self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds[start : start + _FDS_PER_MESSAGE])

    def remove_fds(self, name: str) -> None:
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def flush(self) -> None:
        """Send what had to wait, as far as it is taken now."""
        while self._waiting and self._speaks and self._socket is not None:
            payload, fds = self._waiting[0]
            if not self._try(payload, fds):
                return
            self._waiting.popleft()
            _close_all(fds)

    def close(self) -> None:
        """Send what still waits, if possible; every further call does nothing."""
        self.flush()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for _, fds in self._waiting:
            _close_all(fds)
        self._waiting.clear()

    def _send(self, text: str, fds: Sequence[int] = ()) -> None:
        if self._socket is None:
            return
        self.flush()
        payload = text.encode(errors="replace")
        if self._waiting or not self._speaks or not self._try(payload, fds):
            self._keep(payload, fds)

    def _keep(self, payload: bytes, fds: Sequence[int]) -> None:
        """For later, in order. A sign of life is not kept: a late one would be a lie."""
        if payload == b"WATCHDOG=1":
            return
        if len(self._waiting) == _WAITING_MAX:
            _close_all(self._waiting.popleft()[1])
        self._waiting.append((payload, tuple(os.dup(fd) for fd in fds)))

    def _try(self, payload: bytes, fds: Sequence[int]) -> bool:
        """Send one message; False when it must wait."""
        assert self._socket is not None
        where = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:  # socket.send_fds would be it, but Python 3.11's forgets the address
            self._socket.sendmsg([payload], rights, socket.MSG_NOSIGNAL, where)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                return False
            if not self._lost:
                self._lost = True
                _log.debug("cannot notify %s: %s", self.address, error.strerror)
        return True


class WatchdogTimer:
    """Calls ``watchdog`` from the event loop, so a loop that hangs is noticed; also sends what had to wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, notifier: Notifier) -> None:
        self._loop = loop
        self._notifier = notifier
        self._timer: asyncio.TimerHandle | None = None
        if notifier.active:
            self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._notifier.watchdog()
        self._timer = self._loop.call_later(self._notifier.watchdog_interval_s or _RETRY_S, self._tick)


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float:
    """``sd_watchdog_enabled(3)``: the time after which systemd acts, 0 when it does not watch this process."""
    try:
        whom = int(environment.get("WATCHDOG_PID") or pid)
        watched_us = int(environment.get("WATCHDOG_USEC") or 0)
    except ValueError:
        _log.warning("WATCHDOG_USEC or WATCHDOG_PID is not a number; the watchdog is not fed")
        return 0.0
    return watched_us / 1e6 if whom == pid and watched_us > 0 else 0.0


def _one_line(text: str) -> str:
    return " ".join(text.split()).encode()[:_STATUS_MAX_BYTES].decode(errors="ignore")


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


# --- environments


def without_systemd(environment: Mapping[str, str]) -> dict[str, str]:
    """For workers and other children, who have nothing to tell systemd. ``JOURNAL_STREAM`` stays, as stderr does."""
    return {
        name: value for name, value in environment.items() if name != "NOTIFY_SOCKET" and not name.startswith(_OURS)
    }


def for_successor(environment: Mapping[str, str]) -> dict[str, str]:
    """For the main process of an upgrade: the same systemd and the same watchdog, but a process id of its own.

    The sockets reach it another way.
    """
    return {
        name: value for name, value in environment.items() if name != "WATCHDOG_PID" and not name.startswith("LISTEN_")
    }


# --- sockets from systemd


class InheritedSocketError(Exception):
    """systemd passed a descriptor that is of no use here; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that was open before this process was there. It is owned by whoever asked for it."""

    name: str  # FileDescriptorName= of the socket unit, or what we had stored it as
    address: str  # as in ``listener_sockets``: "127.0.0.1:80", "[::]:80", "/path", "@abstract"
    socket: socket.socket

    @property
    def stored(self) -> bool:
        """It comes out of the descriptor store; one from a socket unit has no business there."""
        return self.name.startswith(STORED_PREFIX)


def inherited_sockets(environment: Mapping[str, str], pid: int) -> list[InheritedSocket]:
    """The sockets that systemd passes to process ``pid``, in its order, each once; none when they are for another one.

    They do not block and are not inherited further. A filter that the last owner left (``control.listen_filter``) is
    taken away, so they accept again. Raises ``InheritedSocketError``. To be called once: it makes the descriptors ours.
    """
    try:
        if int(environment.get("LISTEN_PID") or 0) != pid:
            return []
        count = int(environment.get("LISTEN_FDS") or 0)
    except ValueError:
        raise InheritedSocketError("LISTEN_PID or LISTEN_FDS is not a number") from None
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found: dict[int, InheritedSocket] = {}
    for index in range(count):
        name = names[index] if index < len(names) and names[index] else "unknown"  # sd_listen_fds_with_names(3)
        fd = FIRST_FD + index
        inode = _check(fd, name)
        if inode in found:  # passed by a socket unit and kept in the store, too
            os.close(fd)
            continue
        found[inode] = _adopt(fd, name)
    return list(found.values())


def _check(fd: int, name: str) -> int:
    """Raise unless it is a socket; its inode, which is the same for all copies of it."""
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise InheritedSocketError(f"{_which(fd, name)} cannot be used: {error.strerror}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise InheritedSocketError(f"{_which(fd, name)} is not a socket")
    return status.st_ino


def _adopt(fd: int, name: str) -> InheritedSocket:
    sock = socket.socket(fileno=fd)
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or sock.type != socket.SOCK_STREAM:
        problem = "is not a stream socket; expected ListenStream="
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "does not listen; expected Accept=no"
    else:
        sock.setblocking(False)
        sock.set_inheritable(False)
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # a kernel that takes no filter has none
                take_new(sock)
                steer_to_all(sock)
        return InheritedSocket(name, listening_address(sock), sock)
    sock.detach()
    raise InheritedSocketError(f"{_which(fd, name)} {problem}")


def _which(fd: int, name: str) -> str:
    return f"descriptor {fd} ({name!r}), which systemd passed,"


def has_reuse_port(sock: socket.socket) -> bool:
    """Whether further sockets of the same user may be bound beside it."""
    return sock.family != socket.AF_UNIX and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def is_reachable(sock: socket.socket) -> bool:
    """False for a Unix socket whose file is gone: it listens, but nobody can find it. Bind a new one instead."""
    address = listening_address(sock)
    if not address.startswith("/"):
        return sock.family != socket.AF_UNIX or bool(address)
    try:
        return stat.S_ISSOCK(os.stat(address).st_mode)
    except OSError:
        return False


def store_name(address: str) -> str:
    """What the sockets of one address are called in the descriptor store: one name, so they can be removed together.

    For the reader of ``systemd-analyze fdstore`` only; they are found again by ``InheritedSocket.address``. At most 255
    printable ASCII characters without ``:`` (``sd_notify(3)``), so the address is cut, and a digest keeps it unique.
    """
    readable = re.sub(r"[^A-Za-z0-9.\[\]/@_-]", "_", address)[:100]
    digest = hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{STORED_PREFIX}{readable}-{digest}"

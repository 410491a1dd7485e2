"""Tells connections that their peer has reset them, when the event loop would not.

The loop (libuv) reports a socket with an error once and never again. A reset that arrives together with bytes is
therefore one event, the bytes are read, and of the reset nothing is ever heard: the connection would stay until a
timeout. So every socket is also in an epoll set of our own, for errors alone and edge-triggered; the loop watches the
set. It costs one system call per connection and none per read.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from workerproxy.worker.network.connection import Connection

_EVENTS_AT_ONCE: Final = 256
_LEAVING: Final = select.EPOLLET | select.EPOLLRDHUP


class PeerWatch:
    """One per worker. Knows open connections by their descriptors."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._connections: dict[int, Connection] = {}
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._on_events)

    def __repr__(self) -> str:
        return f"<PeerWatch connections={len(self._connections)}>"

    def add(self, connection: Connection) -> None:
        """Watch an established connection, until ``remove``."""
        try:
            self._epoll.register(connection.fd, select.EPOLLET)  # errors are always reported
        except OSError:  # the limit on watches (fs.epoll.max_user_watches): it works without
            return
        self._connections[connection.fd] = connection

    def watch_leaving(self, connection: Connection, on: bool) -> None:
        """Also tell of the peer's FIN (``on_peer_left``), while nobody reads and it would not be seen."""
        if connection.fd in self._connections:
            self._epoll.modify(connection.fd, _LEAVING if on else select.EPOLLET)

    def remove(self, fd: int) -> None:
        """The descriptor is about to be closed; the kernel takes it out of the set."""
        self._connections.pop(fd, None)

    def _on_events(self) -> None:
        for fd, events in self._epoll.poll(0, _EVENTS_AT_ONCE):
            connection = self._connections.get(fd)
            if connection is None:
                continue
            if connection.watching_for_leave and events & (select.EPOLLRDHUP | select.EPOLLERR):
                connection.on_peer_left()
            elif events & select.EPOLLERR:
                connection.on_peer_error()

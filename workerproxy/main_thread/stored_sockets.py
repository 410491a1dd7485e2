"""Listening sockets that systemd holds too: those of a socket unit, and those in its descriptor store.

They outlive this process. So when it ends to be started again, nothing is closed or ignored: connections queue up in
the sockets until the next process reads them. How systemd speaks is in ``systemd``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from workerproxy.main_thread.systemd import (
    InheritedSocket,
    Notifier,
    has_reuse_port,
    inherited_sockets,
    is_reachable,
    store_name,
)

if TYPE_CHECKING:
    from workerproxy.main_thread.listener_manager import ListenerManager
    from workerproxy.main_thread.listener_sockets import Bind


class StoredSockets:
    """Of one main process."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._of_units: set[str] = set()  # addresses whose sockets a socket unit holds
        self._stored: set[str] = set()

    def give(self, listeners: ListenerManager, environment: Mapping[str, str]) -> None:
        """Offer what systemd passed to the listeners that are about to be opened. Raises ``InheritedSocketError``."""
        by_address: dict[str, list[InheritedSocket]] = {}
        for one in inherited_sockets(environment, os.getpid()):
            if is_reachable(one.socket):
                by_address.setdefault(one.address, []).append(one)
            else:
                one.socket.close()
        for address, found in by_address.items():
            sockets = [one.socket for one in found]
            if any(not one.stored for one in found):
                self._of_units.add(address)
            else:
                self._stored.add(address)
            listeners.give(sockets, shared=not has_reuse_port(sockets[0]))

    def keep(self, binds: Iterable[Bind]) -> None:
        """Store what was opened; a socket unit's needs no store, and a Unix socket's file is bound anew."""
        for bind in binds:
            bind.of_unit = bind.address in self._of_units
            if self._notifier.active and not bind.of_unit and not bind.address.startswith(("/", "@")):
                self._stored.add(bind.address)
                self._notifier.store_fds(store_name(bind.address), [sock.fileno() for sock in bind.sockets])

    def forget(self, binds: Iterable[Bind]) -> None:
        """These are given up for good: they are not to be kept for the next start."""
        for bind in binds:
            if bind.address in self._stored:
                self._stored.discard(bind.address)
                self._notifier.remove_fds(store_name(bind.address))
